package permissions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/ledger"
	"pelton/engine/wire"
	"pelton/schedules"
)

// beat sends tasks by every policy of overlap, one of them by jitter an hour
// later or so, and trims a ledger.
func beat(ctx context.Context, s stage) error {
	if err := errors.Join(s.prepare(ctx), s.scheduleMuch(ctx)); err != nil {
		return err
	}
	defer s.slowWorker(ctx)()
	c, err := s.client()
	if err != nil {
		return err
	}
	fired := make(chan schedules.Occurrence, 1000)
	b, err := schedules.NewBeat(c, schedules.Config{
		Entries: schedules.List(
			schedules.Entry{Name: "forgotten", Every: 2 * time.Second, Task: "ok", Overlap: schedules.OverlapSkip},
			schedules.Entry{Name: "long", Every: time.Second, Task: "long", Overlap: schedules.OverlapReplace},
			schedules.Entry{Name: "parked", Every: time.Second, Task: "ok", Overlap: schedules.OverlapReplace, Jitter: 24 * time.Hour},
		),
		OnOccurrence: func(o schedules.Occurrence) { fired <- o },
	})
	if err != nil {
		return err
	}
	err = start(ctx, b.Run).during(ctx, func(ctx context.Context) error { return s.watchBeat(ctx, fired) })
	if err != nil {
		return err
	}
	l, err := s.beatLedger()
	if err != nil {
		return err
	}
	return errors.Join(l.Trim(ctx), s.nc.FlushWithContext(ctx))
}

// watchBeat waits until each entry has come to what it is for.
func (s stage) watchBeat(ctx context.Context, fired <-chan schedules.Occurrence) error {
	seen := map[string]int{}
	for seen["forgotten"] < 3 || seen["long"] < 3 || seen["parked"] < 4 {
		var o schedules.Occurrence
		select {
		case o = <-fired:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if o.Outcome != schedules.Fired {
			continue
		}
		seen[o.Entry]++
		if o.Entry != "forgotten" {
			continue
		}
		// Of the next one nobody knows whether the one before has ended: it is
		// looked for everywhere.
		if _, err := s.admin.Wait(ctx, queue, o.ID); err != nil {
			return err
		}
		results, err := s.stream(ctx, s.ns.ResultsStream(queue))
		if err == nil {
			err = results.Purge(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// slowWorker works the queue with all rights.
func (s stage) slowWorker(ctx context.Context) (stop func()) {
	w := engine.NewWorker(s.admin, engine.WorkerConfig{Queues: []engine.Queue{{Name: queue, Slots: 8, Priorities: prioritiesOf(s.lanes, queue)}}, Grace: time.Second})
	handlers(w)
	engine.HandleRaw(w, "long", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	running := start(ctx, w.Run)
	return func() { _ = running.stop() }
}

// scheduleMuch fills the bucket of entries so far that the broker waits for the
// beat, while that reads it, to keep up.
func (s stage) scheduleMuch(ctx context.Context) error {
	value := bytes.Repeat([]byte("x"), 600<<10)
	for i := range 4 {
		if _, err := s.admin.JetStream().Publish(ctx, s.ns.ScheduleSubject(fmt.Sprintf("much-%d", i)), value); err != nil {
			return err
		}
	}
	return nil
}

func (s stage) beatLedger() (*ledger.Ledger, error) {
	c, err := s.client()
	if err != nil {
		return nil, err
	}
	lane := wire.PlainLane(queue)
	return ledger.New(ledger.Config{
		JetStream: c.JetStream(), Stream: s.ns.TaskStream(lane), Subject: s.ns.LedgerSubject(lane, "beat", "long"), Instance: "test",
	})
}

// schedule does to entries what pelton schedule does.
func schedule(ctx context.Context, s stage) error {
	if err := errors.Join(s.prepare(ctx), s.scheduleMuch(ctx)); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	store, err := schedules.OpenStore(ctx, c)
	if err != nil {
		return err
	}
	stored, err := store.Put(ctx, schedules.Entry{Name: "ping", Every: time.Second, Task: "print"}, true)
	if err == nil {
		err = store.Begin(ctx, stored)
	}
	if err != nil {
		return err
	}
	if _, err := store.Entries(ctx); err != nil {
		return err
	}
	if err := s.lookAtEntry(ctx, c, store); err != nil {
		return err
	}
	_, errSend := schedules.Send(ctx, c, stored.Entry)
	paused, err := store.Pause(ctx, "ping", true)
	if err == nil {
		err = errors.Join(store.Begin(ctx, paused), store.Remove(ctx, "ping"), store.End(ctx, "ping", paused.Revision), store.Anew(ctx, paused.Entry))
	}
	return errors.Join(errSend, err, s.nc.FlushWithContext(ctx))
}

// lookAtEntry looks at an entry whose last task waits, and at one of which
// nobody knows what became of its last task.
func (s stage) lookAtEntry(ctx context.Context, c *engine.Client, store *schedules.Store) error {
	fired := make(chan schedules.Occurrence, 1000)
	b, err := schedules.NewBeat(s.admin, schedules.Config{OnOccurrence: func(o schedules.Occurrence) { fired <- o }})
	if err != nil {
		return err
	}
	err = start(ctx, b.Run).during(ctx, func(ctx context.Context) error {
		select {
		case <-fired:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil {
		return err
	}
	look := func(want string) error {
		stored, err := store.Entry(ctx, "ping")
		if err != nil {
			return err
		}
		status, err := schedules.Look(ctx, c, stored, schedules.SourceKV, time.Now(), 1)
		if err == nil && status.Outcome != want {
			err = fmt.Errorf("outcome %q, want %q of %+v", status.Outcome, want, status)
		}
		return err
	}
	if err := look(string(wire.StateQueued)); err != nil {
		return err
	}
	tasks, err := s.stream(ctx, s.ns.TaskStream(wire.PlainLane(queue)))
	if err == nil {
		err = tasks.Purge(ctx, jetstream.WithPurgeSubject(s.ns.TaskFilter(wire.PlainLane(queue))))
	}
	return errors.Join(err, look(""))
}
