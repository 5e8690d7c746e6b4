package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// Roundtrip is the paths of tasks that come one after the other, at a rate: how
// long after the time one was to be sent it starts, and its result is known.
func Roundtrip() []Path {
	return []Path{
		tripPath("start-500", "500 in each second, to the start", 3000, 500, false),
		tripPath("start-5000", "5,000 in each second, to the start", 25_000, 5000, false),
		tripPath("result-500", "500 in each second, to the result", 3000, 500, true),
		tripPath("result-5000", "5,000 in each second, to the result", 25_000, 5000, true),
	}
}

func tripPath(name, says string, tasks, rate int, result bool) Path {
	return Path{
		Name: name, Says: says, Tasks: tasks, Headers: 1, Timed: true, Settling: settleResult,
		Check:  func(context.Context, *Run) error { return nil }, // the timetable has counted
		Raw:    func(ctx context.Context, r *Run) error { return rawTrip(ctx, r, newTimetable(r, rate), result) },
		Pelton: func(ctx context.Context, r *Run) error { return trip(ctx, r, newTimetable(r, rate), result) },
	}
}

// pace does one thing for each task when it is due, each beside the others, so
// that one that is late does not delay the next. It returns when all are done.
func (t *timetable) pace(ctx context.Context, tasks int, one func(i int) error) error {
	var group sync.WaitGroup
	var failed error
	var once sync.Once
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := 0; i < tasks && ctx.Err() == nil; i++ {
		if ahead := time.Until(t.due(i)); ahead > 0 {
			select {
			case <-time.After(ahead):
			case <-ctx.Done():
			}
		}
		group.Go(func() {
			if err := one(i); err != nil {
				once.Do(func() { failed = err; cancel() })
			}
		})
	}
	group.Wait()
	return errors.Join(failed, context.Cause(ctx))
}

// soon moves the timetable to where nothing has to be sent before it begins.
func (t *timetable) soon() { t.start = time.Now().Add(50 * time.Millisecond).Round(0) }

func trip(ctx context.Context, r *Run, t *timetable, result bool) error {
	w := startWorker(ctx, r, settleResult, func(m *engine.Message) error {
		if result {
			return nil
		}
		return t.runs(m.Body, time.Now())
	})
	t.soon()
	err := r.restart()
	if err == nil {
		err = t.pace(ctx, r.Tasks, func(i int) error {
			body := t.body(r, i)
			sent, err := r.Client.SendRaw(ctx, r.Queue, "nop", body)
			if err != nil || !result {
				return err
			}
			if _, err := sent.Wait(ctx); err != nil {
				return err
			}
			return t.runs(body, time.Now())
		})
	}
	if err == nil {
		err = w.wait(ctx, r)
	}
	if err := errors.Join(err, w.end()); err != nil {
		return err
	}
	return t.lateness(r)
}

// rawTrip is what a round trip takes at least: a publish that is waited for, a
// loop that publishes a result and acks once it is stored, and one subscription
// that hears of all results.
func rawTrip(ctx context.Context, r *Run, t *timetable, result bool) error {
	ns := wire.DefaultNamespace
	consumer, err := r.JS.Consumer(ctx, ns.TaskStream(wire.PlainLane(r.Queue)), wire.WorkersDurable)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	check := func(err error) {
		if err != nil {
			cancel(err)
		}
	}
	heard, err := r.NC.Subscribe(ns.DoneSubject(r.Queue, "*"), func(m *nats.Msg) {
		if result {
			check(t.runs(m.Data, time.Now()))
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = heard.Unsubscribe() }()
	fetching, err := consumer.Consume(func(m jetstream.Msg) {
		if !result {
			check(t.runs(m.Data(), time.Now()))
		}
		check(rawSettle(ctx, r, m, check))
	}, jetstream.PullMaxMessages(prefetch))
	if err != nil {
		return err
	}
	defer func() {
		fetching.Stop()
		<-fetching.Closed()
	}()
	t.soon()
	if err := r.restart(); err != nil {
		return err
	}
	err = t.pace(ctx, r.Tasks, func(i int) error {
		m := &nats.Msg{Subject: r.Subject, Header: nats.Header{"Nats-Msg-Id": {rand.Text()}}, Data: t.body(r, i)}
		_, err := r.JS.PublishMsg(ctx, m)
		return err
	})
	if err == nil {
		err = t.wait(ctx)
	}
	if err == nil {
		err = r.empty(ctx)
	}
	if err != nil {
		return err
	}
	return t.lateness(r)
}

// rawSettle publishes a result, and acks once it is stored; later tells what came
// of that.
func rawSettle(ctx context.Context, r *Run, m jetstream.Msg, later func(error)) error {
	md, err := m.Metadata()
	if err != nil {
		return err
	}
	id := wire.FreeID(wire.PlainLane(r.Queue), md.Sequence.Stream)
	f, err := r.JS.PublishAsync(wire.DefaultNamespace.RecordSubject(r.Queue, id), m.Data())
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-f.Ok():
			later(m.Ack())
		case err := <-f.Err():
			later(err)
		case <-ctx.Done():
		}
	}()
	return nil
}

// Flow is the path of tasks that are sent and run at once.
func Flow() []Path {
	return []Path{
		flowPath(settleResult, "sent by futures, each with a record", rawResult),
		flowPath(settlePlain, "sent by futures, no record, plain acks", rawPlain),
	}
}

func flowPath(s settling, says string, raw rawWorker) Path {
	return Path{
		Name: string(s), Says: says, Tasks: 100_000, Settling: s,
		Check: func(ctx context.Context, r *Run) error { return drained(ctx, r, s) },
		Raw: func(ctx context.Context, r *Run) error {
			sent := make(chan error, 1)
			go func() { sent <- rawAsync(ctx, r) }()
			return errors.Join(rawWork(ctx, r, raw), <-sent)
		},
		Pelton: func(ctx context.Context, r *Run) error {
			w := startWorker(ctx, r, s, func(*engine.Message) error { return nil })
			err := sendAsync(ctx, r)
			if err == nil {
				err = w.wait(ctx, r)
			}
			return errors.Join(err, w.end())
		},
	}
}
