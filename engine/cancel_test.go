package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/wire"
)

func TestCancelWhereverItIs(t *testing.T) {
	s := newSystem(t)
	var clock clockwork
	running := make(chan string, 10)
	causes := make(chan error, 10)
	block := func(ctx context.Context, m *engine.Message) ([]byte, error) {
		running <- m.Info.ID
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil, ctx.Err()
	}
	send := func(task string, opts ...engine.SendOption) string {
		r, err := s.client.SendRaw(s.ctx(), "default", task, []byte(`1`), opts...)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID()
	}
	cancel := func(id string) {
		t.Helper()
		r, err := s.client.Cancel(s.ctx(), "default", id)
		if err != nil || r.State != wire.StateRevoked || r.ID != id {
			t.Errorf("cancel %s: %+v, %v", id, r, err)
		}
		if _, err := s.client.Cancel(s.ctx(), "default", id); err != nil {
			t.Errorf("cancel %s again: %v", id, err)
		}
	}
	waiting := send("tick")
	explicit := send("tick", engine.WithID("job-1"))
	later := send("tick", engine.WithCountdown(time.Hour))
	tracked := send("tick", engine.WithCountdown(time.Hour), engine.WithTracked(), engine.WithID("job-2"))
	byBucket := send("tick")
	kv, err := s.client.JetStream().KeyValue(s.ctx(), "PELTON_REVOKED")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(s.ctx(), "default."+byBucket, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{waiting, explicit, later, tracked} {
		cancel(id)
	}
	// Only those whose message is known by its place alone still stand.
	if state := s.stands("PELTON_TASKS_default"); state.Msgs != 2 {
		t.Errorf("the queue holds %d messages, want the two without an id", state.Msgs)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	engine.HandleRaw(w, "tick", clock.handle)
	engine.HandleRaw(w, "block", block)
	engine.HandleRaw(w, "fail", func(context.Context, *engine.Message) ([]byte, error) {
		return nil, engine.RetryIn(time.Hour, errors.New("later"))
	})
	s.work(w)
	for _, id := range []string{waiting, explicit, later, tracked, byBucket} {
		if _, err := s.client.Result("default", id).Wait(s.ctx()); !errors.Is(err, engine.ErrRevoked) {
			t.Errorf("%s: %v", id, err)
		}
	}

	plain := send("block")
	if id := <-running; id != plain {
		t.Fatalf("%s runs", id)
	}
	cancel(plain)
	if err := <-causes; !errors.Is(err, engine.ErrRevoked) {
		t.Errorf("cause %v", err)
	}
	again := send("block")
	<-running
	if _, err := kv.Put(s.ctx(), "default."+again, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := <-causes; !errors.Is(err, engine.ErrRevoked) {
		t.Errorf("cause by the bucket: %v", err)
	}
	if _, err := s.client.Result("default", again).Wait(s.ctx()); !errors.Is(err, engine.ErrRevoked) {
		t.Errorf("by the bucket: %v", err)
	}

	retrying := send("fail")
	s.until("the retry is parked", func() bool { // the record says so first
		r, err := s.client.Record(s.ctx(), "default", retrying)
		state, ok := s.state("PELTON_LATER_default")
		return err == nil && r.State == wire.StateRetrying && ok && state.Msgs > 0
	})
	cancel(retrying)
	var held string
	for late := true; late; { // it is held for half a second: where that has passed, another one is
		eta := time.Now().Add(1500 * time.Millisecond)
		held = send("tick", engine.WithETA(eta))
		s.until("it is held", func() bool {
			r, err := s.client.Record(s.ctx(), "default", held)
			return err == nil && (r.State == wire.StateStarted || r.State.Terminal())
		})
		_, err := s.client.Cancel(s.ctx(), "default", held)
		if late = time.Now().Round(0).After(eta.Round(0)); !late && err != nil {
			t.Errorf("cancel what is held: %v", err)
		}
	}
	cancel(held)
	s.empty("default")
	for _, id := range []string{waiting, explicit, later, tracked, byBucket, held} {
		if runs := clock.of(id); len(runs) != 0 {
			t.Errorf("%s ran", id)
		}
	}

	done := send("tick")
	if _, err := s.client.Wait(s.ctx(), "default", done); err != nil {
		t.Fatal(err)
	}
	if r, err := s.client.Cancel(s.ctx(), "default", done); !errors.Is(err, engine.ErrTooLate) || r == nil || r.State != wire.StateSucceeded {
		t.Errorf("one that has ended: %+v, %v", r, err)
	}
	if _, err := s.client.Cancel(s.ctx(), "default", "nobody"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("one that nobody has seen: %v", err)
	}
}

// TestRevocationsOutliveTheBroker: what is revoked while the worker's
// connection is gone is heard of when it is back.
func TestRevocationsOutliveTheBroker(t *testing.T) {
	s := newSystem(t)
	running, causes := make(chan struct{}, 9), make(chan error, 9)
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{})
	engine.HandleRaw(w, "block", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	<-running
	if err := s.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	s.until("the broker answers", func() bool { return r.Cancel(s.ctx()) == nil })
	if err := <-causes; !errors.Is(err, engine.ErrRevoked) {
		t.Errorf("cause %v", err)
	}
}

func TestReplace(t *testing.T) {
	s := newSystem(t)
	bodies := make(chan string, 10)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "keep", func(_ context.Context, m *engine.Message) ([]byte, error) {
		bodies <- string(m.Body) + " " + m.Info.Header.Value("X-Own")
		return m.Body, nil
	})
	s.work(w)
	send := func(opts ...engine.SendOption) string {
		t.Helper()
		r, err := s.client.SendRaw(s.ctx(), "default", "keep", []byte(`"old"`), append(opts, engine.WithHeader("X-Own", "mine"))...)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID()
	}
	later := send(engine.WithCountdown(time.Hour))
	eta := time.Now().Add(900 * time.Millisecond)
	r, err := s.client.Replace(s.ctx(), "default", later, []byte(`"new"`), eta)
	if err != nil || r.State != wire.StateScheduled || r.Generation != 1 || !r.ETA.Equal(eta) {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := <-bodies; got != `"new" mine` || time.Now().Round(0).Before(eta) {
		t.Errorf("ran with %s, %s before its time", got, time.Until(eta))
	}
	record, err := s.client.Wait(s.ctx(), "default", later)
	if err != nil || record.Generation != 1 || record.Body != nil {
		t.Errorf("%+v, %v", record, err)
	}
	if _, err := s.client.Reschedule(s.ctx(), "default", later, eta); !errors.Is(err, engine.ErrTooLate) {
		t.Errorf("one that has ended: %v", err)
	}

	twice := send(engine.WithCountdown(time.Hour), engine.WithExpiresIn(2*time.Hour), engine.WithID("job-2"))
	if _, err := s.client.Replace(s.ctx(), "default", twice, []byte(`"second"`), time.Time{}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		body []byte
		eta  time.Time
	}{
		{nil, time.Now().Add(3 * time.Hour)},
		{nil, time.Now().Add(wire.MaxDuration + time.Hour)},
		{[]byte(`{`), time.Time{}},
	} {
		if _, err := s.client.Replace(s.ctx(), "default", twice, bad.body, bad.eta); err == nil {
			t.Errorf("%s at %s was taken", bad.body, bad.eta)
		}
	}
	if r, err = s.client.Reschedule(s.ctx(), "default", twice, time.Now()); err != nil || r.Generation != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := <-bodies; got != `"second" mine` {
		t.Errorf("ran with %s", got)
	}
	if waiting := s.publish("pelton.task.default.unknown", `1`); true {
		if _, err := s.client.Reschedule(s.ctx(), "default", "nobody", time.Now()); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("one that nobody has seen: %v", err)
		}
		if _, err := s.client.Cancel(s.ctx(), "default", waiting); err != nil {
			t.Error(err)
		}
	}
	s.empty("default")
}

// TestChangesNearTheFireTime cancels and replaces while the broker makes the
// tasks due: a task that was cancelled before a worker had it never runs, one
// that was replaced runs once, with the new body and not before the new time,
// and where it was too late it runs once as it was.
func TestChangesNearTheFireTime(t *testing.T) {
	s := newSystem(t)
	const tasks, changers = 1500, 150
	var clock clockwork
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(8)})
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	type change struct {
		id       string
		eta, was time.Time
		revoked  bool // before a worker had it
		begun    bool // revoked, but a worker had it
		replaced bool
	}
	changes := make([]change, tasks)
	todo := make(chan int)
	done := make(chan error, changers)
	ctx, end := context.WithTimeout(t.Context(), 3*time.Minute)
	defer end()
	for range changers {
		go func() {
			var err error
			for i := range todo {
				c := &changes[i]
				<-time.After(time.Until(c.was.Add(-time.Duration(i%700) * time.Millisecond))) // around 500 ms before, the fire time, and up to the time itself
				if i%2 == 0 {
					r, cancelErr := s.client.Cancel(ctx, "default", c.id)
					if cancelErr != nil && !errors.Is(cancelErr, engine.ErrTooLate) {
						err = errors.Join(err, cancelErr)
						continue
					}
					c.revoked = cancelErr == nil && r.StartedAt.IsZero()
					c.begun = cancelErr == nil && !c.revoked
					continue
				}
				c.eta = time.Now().Add(600 * time.Millisecond)
				_, replaceErr := s.client.Replace(ctx, "default", c.id, []byte(`"new"`), c.eta)
				if replaceErr != nil && !errors.Is(replaceErr, engine.ErrTooLate) {
					err = errors.Join(err, replaceErr)
				}
				c.replaced = replaceErr == nil
			}
			done <- err
		}()
	}
	for i := range changes {
		c := &changes[i]
		c.was = time.Now().Add(time.Duration(900+i%50) * time.Millisecond)
		r, err := s.client.SendRaw(ctx, "default", "tick", []byte(`"old"`), engine.WithETA(c.was), engine.WithID("job-"+strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		c.id = r.ID()
		todo <- i
	}
	close(todo)
	for range changers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	revoked, replaced, late := 0, 0, 0
	for _, c := range changes {
		record, err := s.client.Wait(ctx, "default", c.id)
		if err != nil {
			t.Fatalf("%s: %v", c.id, err)
		}
		runs := clock.of(c.id)
		switch {
		case c.revoked:
			revoked++
			if len(runs) != 0 || record.State != wire.StateRevoked {
				t.Errorf("%s was cancelled, ran %d times and is %s", c.id, len(runs), record.State)
			}
		case c.begun:
			late++
			if len(runs) > 1 || record.State != wire.StateRevoked {
				t.Errorf("%s was cancelled while a worker had it, ran %d times and is %s", c.id, len(runs), record.State)
			}
		case c.replaced:
			replaced++
			if len(runs) != 1 || runs[0].Before(c.eta) || string(record.Result) != `"new"` {
				t.Errorf("%s was replaced, ran %d times (%v, due %s) and gave %s", c.id, len(runs), runs, c.eta, record.Result)
			}
		default:
			late++
			if len(runs) != 1 || runs[0].Before(c.was) || string(record.Result) != `"old"` {
				t.Errorf("%s was changed too late, ran %d times and gave %s", c.id, len(runs), record.Result)
			}
		}
	}
	t.Logf("%d revoked, %d replaced, %d too late", revoked, replaced, late)
	if min(revoked, replaced, late) < tasks/50 {
		t.Error("the changes did not meet the fire time from both sides")
	}
	s.empty("default")
}

// TestReplacedScheduleThatTheBrokerFiresAllTheSame is the race itself: the
// record has the new time, and the old schedule fires before the new one stands.
func TestReplacedScheduleThatTheBrokerFiresAllTheSame(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	bodies := make(chan string, 10)
	var runs atomic.Int32
	w := engine.NewWorker(s.connect(), engine.WorkerConfig{})
	engine.HandleRaw(w, "keep", func(_ context.Context, m *engine.Message) ([]byte, error) {
		runs.Add(1)
		bodies <- string(m.Body)
		return nil, nil
	})
	s.work(w)
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			r, err := s.client.SendRaw(s.ctx(), "default", "keep", []byte(`"old"`), engine.WithCountdown(2500*time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			eta := time.Now().Add(6 * time.Second)
			ctx, giveUp := context.WithCancel(s.ctx())
			defer giveUp()
			engine.SetAfterReplaced(s.client, func() {
				s.until("the old schedule has fired and was parked again", func() bool {
					state, ok := s.state("PELTON_LATER_default")
					return ok && state.LastSeq-state.FirstSeq+1 >= 1 && state.Msgs == 1 && s.parkedGeneration(r.ID()) == "1"
				})
				if lost {
					giveUp()
				}
			})
			_, err = s.client.Replace(ctx, "default", r.ID(), []byte(`"new"`), eta)
			engine.SetAfterReplaced(s.client, nil)
			if lost && !errors.Is(err, engine.ErrUnconfirmed) || !lost && err != nil {
				t.Fatalf("replace: %v", err)
			}
			if got := <-bodies; got != `"new"` || time.Now().Round(0).Before(eta) {
				t.Errorf("ran with %s, %s before its time", got, time.Until(eta))
			}
			s.empty("default")
		})
	}
	if runs.Load() != 2 {
		t.Errorf("%d runs of 2 tasks", runs.Load())
	}
}

// TestScheduleWithoutTheRecordIsLost is the control: a replacement that is only
// published, as any client may, is acknowledged and lost where the old schedule
// has fired; Replace says that it is too late.
func TestScheduleWithoutTheRecordIsLost(t *testing.T) {
	s := newSystem(t)
	var clock clockwork
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`"old"`), engine.WithCountdown(1500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	s.until("a worker has claimed it", func() bool {
		record, err := r.Record(s.ctx())
		return err == nil && record.State == wire.StateStarted
	})
	if _, err := s.client.Replace(s.ctx(), "default", r.ID(), []byte(`"new"`), time.Time{}); !errors.Is(err, engine.ErrTooLate) {
		t.Errorf("replace: %v", err)
	}
	s.parkByHand("tick", r.ID(), time.Now().Add(2*time.Second), time.Now().Add(time.Hour))
	if got, err := r.Wait(s.ctx()); err != nil || string(got) != `"old"` {
		t.Fatalf("%s, %v", got, err)
	}
	s.empty("default")
	if runs := clock.of(r.ID()); len(runs) != 1 {
		t.Errorf("the replacement was not lost (%d runs): this control shows nothing", len(runs))
	}
}

// parkedGeneration is the generation of the schedule that stands under an id.
func (s *system) parkedGeneration(id string) string {
	s.t.Helper()
	stream, err := s.client.JetStream().Stream(s.ctx(), "PELTON_LATER_default")
	if err != nil {
		return ""
	}
	m, err := stream.GetLastMsgForSubject(s.ctx(), "pelton.later.default."+id)
	if err != nil {
		return ""
	}
	return m.Header.Get("Pelton-Generation")
}
