package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/wire"
)

// clockwork records when each task ran, by the clock that the times in messages
// are of: the other one, which time.Now reads a moment later, may be far ahead of
// it where the machine is busy.
type clockwork struct {
	mu   sync.Mutex
	runs map[string][]time.Time
}

func (c *clockwork) handle(ctx context.Context, m *engine.Message) ([]byte, error) {
	now := time.Now().Round(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs == nil {
		c.runs = map[string][]time.Time{}
	}
	c.runs[m.Info.ID] = append(c.runs[m.Info.ID], now)
	return m.Body, ctx.Err()
}

func (c *clockwork) of(id string) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs[id]
}

// publish sends by hand, as any client of the broker may.
func (s *system) publish(subject, body string, header ...string) string {
	s.t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i < len(header); i += 2 {
		m.Header.Set(header[i], header[i+1])
	}
	ack, err := s.client.JetStream().PublishMsg(s.ctx(), m)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("default-%d", ack.Sequence)
}

func TestDelaysNeverRunEarly(t *testing.T) {
	s := newSystem(t)
	var clock clockwork
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(8)})
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	type sent struct {
		id  string
		eta time.Time
	}
	var all []sent
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 400 * time.Millisecond, 600 * time.Millisecond, 1100 * time.Millisecond, 2500 * time.Millisecond} {
		for _, id := range []string{"", fmt.Sprintf("job-%d", delay)} {
			opts := []engine.SendOption{engine.WithCountdown(delay)}
			if id != "" {
				opts = append(opts, engine.WithID(id))
			}
			before := time.Now()
			r, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), opts...)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sent{r.ID(), before.Add(delay)})
		}
		before := time.Now()
		all = append(all, sent{s.publish("pelton.task.default.tick", `1`, "pelton-delay", delay.String()), before.Add(delay)})
		eta := time.Now().Add(delay)
		all = append(all, sent{s.publish("pelton.task.default.tick", `1`, "PELTON-ETA", wire.FormatTime(eta)), eta})
	}
	for _, one := range all {
		if _, err := s.client.Wait(s.ctx(), "default", one.id); err != nil {
			t.Fatalf("%s: %v", one.id, err)
		}
		runs := clock.of(one.id)
		if len(runs) != 1 || runs[0].Before(one.eta) {
			t.Errorf("%s ran %v, due at %s", one.id, runs, one.eta)
		}
	}
	s.empty("default")
}

func TestTimeThatHasPassedRunsAtOnceAndTheRecordSaysSo(t *testing.T) {
	s := newSystem(t)
	var clock clockwork
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	eta := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	r, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), engine.WithETA(eta))
	if err != nil {
		t.Fatal(err)
	}
	raw := s.publish("pelton.task.default.tick", `1`, "Pelton-Eta", wire.FormatTime(eta))
	for _, id := range []string{r.ID(), raw} {
		record, err := s.client.Wait(s.ctx(), "default", id)
		if err != nil || record.State != wire.StateSucceeded || !record.ETA.Equal(eta) {
			t.Errorf("%s: %+v, %v", id, record, err)
		}
	}
}

func TestDelayedIDExistsWhereverItIs(t *testing.T) {
	s := newSystem(t)
	send := func(id string, opts ...engine.SendOption) error {
		_, err := s.client.SendRaw(s.ctx(), "default", "block", []byte(`1`), append(opts, engine.WithID(id))...)
		return err
	}
	later := engine.WithCountdown(time.Hour)
	if err := send("waits-for-its-time", later); err != nil {
		t.Fatal(err)
	}
	if err := send("waits"); err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	running, release := make(chan struct{}, 9), make(chan struct{})
	engine.HandleRaw(w, "block", func(context.Context, *engine.Message) ([]byte, error) {
		running <- struct{}{}
		<-release
		return nil, nil
	})
	for _, id := range []string{"waits-for-its-time", "waits"} {
		if err := send(id, later); !errors.Is(err, engine.ErrExists) || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v", id, err)
		}
	}
	s.work(w)
	<-running // waits
	if err := send("due", engine.WithCountdown(600*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	<-running // due
	for _, id := range []string{"waits", "due"} {
		if err := send(id, later); !errors.Is(err, engine.ErrExists) {
			t.Errorf("%s while it runs: %v", id, err)
		}
	}
	close(release)
}

// TestCopyWithoutATime: of two tasks of one id, of which only the first has a
// time, one runs: the first a worker takes, or the one that has a record.
func TestCopyWithoutATime(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts []engine.SendOption
		runs string
	}{
		{"untracked", nil, "2"},
		{"tracked", []engine.SendOption{engine.WithTracked()}, "1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t)
			opts := slices.Concat(tc.opts, []engine.SendOption{engine.WithID("one"), engine.WithCountdown(4 * time.Second)})
			if _, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), opts...); err != nil {
				t.Fatal(err)
			}
			if _, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`2`), engine.WithID("one")); err != nil {
				t.Fatal(err)
			}
			var clock clockwork
			w := engine.NewWorker(s.client, engine.WorkerConfig{})
			engine.HandleRaw(w, "tick", clock.handle)
			s.work(w)
			s.empty("default")
			record, err := s.client.Wait(s.ctx(), "default", "one")
			if err != nil || string(record.Result) != tc.runs || len(clock.of("one")) != 1 {
				t.Errorf("%+v, %d runs, %v", record, len(clock.of("one")), err)
			}
		})
	}
}

func TestTrackedTaskHasARecordBeforeItRuns(t *testing.T) {
	s := newSystem(t)
	eta := time.Now().Add(time.Hour)
	r, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), engine.WithETA(eta), engine.WithTracked())
	if err != nil {
		t.Fatal(err)
	}
	record, err := r.Record(s.ctx())
	if err != nil || record.State != wire.StateScheduled || !record.ETA.Equal(eta) || record.Task != "tick" {
		t.Errorf("%+v, %v", record, err)
	}
	untracked, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), engine.WithETA(eta))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := untracked.Record(s.ctx()); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("untracked: %v", err)
	}
	if found, err := s.client.Lookup(s.ctx(), "default", untracked.ID()); err != nil || found.State != wire.StateScheduled || !found.ETA.Equal(eta) {
		t.Errorf("untracked: %+v, %v", found, err)
	}
}

// TestPendingDelaysAreInNobodysHands: what waits for its time is the broker's,
// whichever way it came.
func TestPendingDelaysAreInNobodysHands(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	engine.HandleRaw(w, "tick", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
	engine.HandleRaw(w, "fail", func(context.Context, *engine.Message) ([]byte, error) {
		return nil, engine.RetryIn(time.Hour, errors.New("later"))
	})
	engine.HandleRaw(w, "snooze", func(context.Context, *engine.Message) ([]byte, error) { return nil, engine.Snooze(time.Hour) })
	s.work(w)
	const each = 50
	for range each {
		s.publish("pelton.task.default.tick", `1`, "Pelton-Delay", "1h")
		for _, task := range []string{"fail", "snooze"} {
			s.publish("pelton.task.default."+task, `1`)
		}
		if _, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), engine.WithCountdown(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s.until("all wait in the broker", func() bool {
		state, ok := s.state("PELTON_LATER_default")
		return ok && state.Msgs == 4*each
	})
	s.until("nobody holds any", func() bool {
		pending, held := s.acks("PELTON_TASKS_default", "workers")
		due, heldDue := s.acks("PELTON_LATER_default", "due")
		return pending+held+due+heldDue == 0
	})
	s.publish("pelton.task.default.tick", `1`)
	fine := s.publish("pelton.task.default.tick", `1`)
	if _, err := s.client.Wait(s.ctx(), "default", fine); err != nil {
		t.Error(err)
	}
}

func TestTimesTheClientRefuses(t *testing.T) {
	s := newSystem(t)
	hour := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		name string
		opts []engine.SendOption
		want string
	}{
		{"negative delay", []engine.SendOption{engine.WithCountdown(-1)}, "countdown"},
		{"delay of more than a year", []engine.SendOption{engine.WithCountdown(wire.MaxDuration + 1)}, "from 0 to a year"},
		{"the longest delay", []engine.SendOption{engine.WithCountdown(math.MaxInt64)}, "from 0 to a year"},
		{"year 9999", []engine.SendOption{engine.WithETA(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))}, "at most a year"},
		{"year 99999", []engine.SendOption{engine.WithETA(time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC))}, "at most a year"},
		{"expiry before the ETA", []engine.SendOption{engine.WithETA(hour), engine.WithExpires(hour.Add(-time.Second))}, "must not lie before the ETA"},
		{"expiry before the countdown", []engine.SendOption{engine.WithCountdown(time.Hour), engine.WithExpiresIn(time.Minute)}, "must not lie before the ETA"},
		{"expiry that has passed", []engine.SendOption{engine.WithExpires(time.Now().Add(-time.Second))}, "must lie ahead"},
		{"expiry of nothing", []engine.SendOption{engine.WithExpiresIn(0)}, "must be above 0"},
		{"expiry in the year 9999", []engine.SendOption{engine.WithExpires(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))}, "at most a year"},
		{"unknown lane", []engine.SendOption{engine.WithPriority("urgent")}, `priority "urgent": must be high or low`},
		{"no waits", []engine.SendOption{engine.WithRetryWaits()}, "Pelton-Backoff"},
		{"negative wait", []engine.SendOption{engine.WithRetryWaits(time.Second, -time.Second)}, "Pelton-Backoff"},
		{"too many waits", []engine.SendOption{engine.WithRetryWaits(make([]time.Duration, 33)...)}, "Pelton-Backoff"},
		{"id that looks free", []engine.SendOption{engine.WithCountdown(time.Hour), engine.WithID("default-4")}, "must not look like a free id"},
		{"id with a dot", []engine.SendOption{engine.WithCountdown(time.Hour), engine.WithID("a.b")}, `id "a.b"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), tc.opts...)
			if !errors.Is(err, engine.ErrInvalidName) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	if _, err := s.client.SendRaw(s.ctx(), "default", "tick", []byte(`1`), engine.WithPriority("high")); !errors.Is(err, engine.ErrNoQueue) || !strings.Contains(err.Error(), "default_high") {
		t.Errorf("undeclared lane: %v", err)
	}
	if state := s.stands("PELTON_LATER_default"); state.Msgs != 0 {
		t.Errorf("something was stored: %+v", state)
	}
}

// TestBadTimesByHeader: what is published by hand with a bad time is a dead
// letter that names the rule, and its neighbours go on.
func TestBadTimesByHeader(t *testing.T) {
	s := newSystem(t)
	var clock clockwork
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2)})
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	for _, tc := range []struct{ header, value, want string }{
		{"Pelton-Delay", "-5m", "from 0 to a year"},
		{"Pelton-Delay", "5 minutes", "must be a duration"},
		{"Pelton-Delay", "", "must be a duration"},
		{"Pelton-Eta", "2026-11-22T22:29:10", "must name its zone"},
		{"Pelton-Eta", "9999-12-31T23:59:59Z", "at most a year"},
		{"Pelton-Eta", "tomorrow", "must be a time"},
		{"Pelton-Expires", "-1s", "must be a time as"},
		{"Pelton-Backoff", "soon", "must be <min>..<max>"},
		{"Pelton-Max-Attempts", "0", "whole number"},
		{"Pelton-Generation", "-1", "whole number"},
	} {
		t.Run(tc.header+" "+tc.value, func(t *testing.T) {
			id := s.publish("pelton.task.default.tick", `1`, tc.header, tc.value)
			_, err := s.client.Result("default", id).Wait(s.ctx())
			var failed *engine.TaskError
			if !errors.As(err, &failed) || failed.Type != wire.FailureBadInput || !strings.Contains(failed.Message, tc.want) || !strings.Contains(failed.Message, tc.header) {
				t.Errorf("wait: %v", err)
			}
		})
	}
	fine := s.publish("pelton.task.default.tick", `1`)
	if _, err := s.client.Wait(s.ctx(), "default", fine); err != nil {
		t.Error(err)
	}
}

func TestExpiredWhereverItWaits(t *testing.T) {
	s := newSystem(t)
	var runs atomic.Int32
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	count := func(context.Context, *engine.Message) ([]byte, error) { runs.Add(1); return nil, nil }
	engine.HandleRaw(w, "count", count)
	soon := wire.FormatTime(time.Now().Add(5 * time.Millisecond))
	hour := wire.FormatTime(time.Now().Add(time.Hour))
	ids := map[string]string{
		"waiting":                  s.publish("pelton.task.default.count", `1`, "Pelton-Expires", "1ns"),
		"waiting, ETA long ahead":  s.publish("pelton.task.default.count", `1`, "Pelton-Expires", soon, "Pelton-Eta", hour),
		"expiry just before ETA":   s.publish("pelton.task.default.count", `1`, "Pelton-Expires", "59m", "Pelton-Delay", "60m"),
		"held, expiry before ETA":  s.publish("pelton.task.default.count", `1`, "Pelton-Expires", "900ms", "Pelton-Delay", "1s"),
		"explicit":                 s.publishAs("count", "job-1", "Pelton-Expires", "30m", "Pelton-Delay", "31m"),
		"a schedule by hand":       s.parkByHand("count", "job-2", time.Now().Add(700*time.Millisecond), time.Now().Add(600*time.Millisecond)),
		"every attempt fails till": s.publish("pelton.task.default.fail", `1`, "Pelton-Expires", "30m", "Pelton-Backoff", "31m"),
	}
	engine.HandleRaw(w, "fail", func(context.Context, *engine.Message) ([]byte, error) { return nil, errors.New("again") })
	s.work(w)
	for name, id := range ids {
		record, err := s.client.Wait(s.ctx(), "default", id)
		if err != nil || record.State != wire.StateExpired {
			t.Errorf("%s: %+v, %v", name, record, err)
		}
	}
	if runs.Load() != 0 {
		t.Errorf("%d runs", runs.Load())
	}
	s.empty("default") // the broker holds nothing for the time that never comes
}

func (s *system) publishAs(task, id string, header ...string) string {
	s.t.Helper()
	s.publish("pelton.task.default."+task+"."+id, `1`, header...)
	return id
}

// parkByHand writes a schedule as a trusted client in another language does.
func (s *system) parkByHand(task, id string, eta, expires time.Time) string {
	s.t.Helper()
	s.publish("pelton.later.default."+id, `1`,
		"Nats-Schedule", "@at "+wire.FormatTime(eta.Add(-500*time.Millisecond)),
		"Nats-Schedule-Target", "pelton.due.default."+task+"."+id,
		"Pelton-Eta", wire.FormatTime(eta), "Pelton-Expires", wire.FormatTime(expires))
	return id
}

func TestRetryPolicies(t *testing.T) {
	s := newSystem(t)
	var mu sync.Mutex
	runs := map[string][]time.Time{}
	busy, broken := errors.New("busy"), errors.New("broken")
	failing := func(err error) func(context.Context, *engine.Message) ([]byte, error) {
		return func(_ context.Context, m *engine.Message) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			runs[m.Info.ID] = append(runs[m.Info.ID], time.Now().Round(0))
			return nil, err
		}
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(8), Backoff: wire.Backoff{Min: time.Millisecond, Max: time.Millisecond}})
	byError := engine.RetryFor(func(err error) bool { return errors.Is(err, busy) }, engine.RetryAfter(700*time.Millisecond), engine.RetryNever())
	engine.HandleRaw(w, "busy", failing(fmt.Errorf("upstream: %w", busy)), engine.WithRetry(byError))
	engine.HandleRaw(w, "broken", failing(broken), engine.WithRetry(byError))
	engine.HandleRaw(w, "usual", failing(broken))
	engine.HandleRaw(w, "panics", failing(broken), engine.WithRetry(func(int, error) (time.Duration, bool) { panic("policy") }))
	engine.HandleRaw(w, "at", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		_, _ = failing(broken)(ctx, m)
		return nil, engine.RetryAt(time.Now().Add(800*time.Millisecond), broken)
	})
	s.work(w)
	for _, tc := range []struct {
		name, task string
		opts       []engine.SendOption
		attempts   int
		least      []time.Duration // between the attempts
	}{
		{"by error type: matches", "busy", []engine.SendOption{engine.WithMaxAttempts(2)}, 2, []time.Duration{700 * time.Millisecond}},
		{"by error type: does not", "broken", []engine.SendOption{engine.WithMaxAttempts(9)}, 1, nil},
		{"policy says never, whatever the message names", "broken", []engine.SendOption{engine.WithRetryWaits(time.Millisecond)}, 1, nil},
		{"fixed by message", "usual", []engine.SendOption{engine.WithMaxAttempts(3), engine.WithRetryWaits(550 * time.Millisecond)}, 3, []time.Duration{550 * time.Millisecond, 550 * time.Millisecond}},
		{"list by message", "usual", []engine.SendOption{engine.WithMaxAttempts(3), engine.WithRetryWaits(300*time.Millisecond, 900*time.Millisecond)}, 3, []time.Duration{300 * time.Millisecond, 900 * time.Millisecond}},
		{"the handler names a time", "at", []engine.SendOption{engine.WithMaxAttempts(2), engine.WithRetryWaits(time.Hour)}, 2, []time.Duration{790 * time.Millisecond}},
		{"a policy that panics", "panics", []engine.SendOption{engine.WithMaxAttempts(2)}, 2, []time.Duration{0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := s.client.SendRaw(s.ctx(), "default", tc.task, []byte(`1`), tc.opts...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Wait(s.ctx())
			var failed *engine.TaskError
			if !errors.As(err, &failed) || failed.Attempt != tc.attempts {
				t.Fatalf("wait: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			at := runs[r.ID()]
			if len(at) != tc.attempts {
				t.Fatalf("%d runs", len(at))
			}
			for i, least := range tc.least {
				if wait := at[i+1].Sub(at[i]); wait < least {
					t.Errorf("wait %d was %s, want at least %s", i+1, wait, least)
				}
			}
			if record, err := r.Record(s.ctx()); err != nil || len(record.Attempts) != tc.attempts || record.Attempts[0].Error == nil {
				t.Errorf("%+v, %v", record, err)
			}
		})
	}
}

func TestSnoozeUsesNoAttempt(t *testing.T) {
	s := newSystem(t)
	var runs atomic.Int32
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "snooze", func(_ context.Context, m *engine.Message) ([]byte, error) {
		if runs.Add(1) < 4 {
			return nil, fmt.Errorf("not yet: %w", engine.Snooze(30*time.Millisecond))
		}
		return fmt.Appendf(nil, "%d", m.Info.Attempt), nil
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "snooze", []byte(`1`), engine.WithMaxAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Wait(s.ctx()); err != nil || string(got) != "1" || runs.Load() != 4 {
		t.Fatalf("%s after %d runs, %v", got, runs.Load(), err)
	}
	if record, err := r.Record(s.ctx()); err != nil || len(record.Attempts) != 0 || record.Deaths != 0 {
		t.Errorf("%+v, %v", record, err)
	}
	s.empty("default")
}

func TestDropLeavesNoDeadLetter(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "drop", func(context.Context, *engine.Message) ([]byte, error) {
		return nil, engine.Drop(errors.New("the customer has gone"))
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "drop", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(s.ctx()); !errors.Is(err, engine.ErrRevoked) {
		t.Fatalf("wait: %v", err)
	}
	record, err := r.Record(s.ctx())
	if err != nil || record.Error == nil || record.Error.Message != "the customer has gone" {
		t.Errorf("%+v, %v", record, err)
	}
	if dead, err := s.client.DeadLetters(s.ctx(), "default", 0); err != nil || len(dead) != 0 {
		t.Errorf("%d dead letters, %v", len(dead), err)
	}
}

// TestFuturesAndManyWaitForTheirTime: they wait in the broker as a single send
// does, each task under an id of its own, and carry what else is said of time.
func TestFuturesAndManyWaitForTheirTime(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	due := time.Now().Round(0).Add(5 * time.Second)
	future, err := s.client.SendRawAsync(s.ctx(), "default", "tick", []byte(`1`), engine.WithETA(due), engine.WithID("one"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := future.Result(s.ctx())
	if err != nil || first.ID() != "one" {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := s.client.SendRawAsync(s.ctx(), "default", "tick", []byte(`1`), engine.WithETA(due), engine.WithID("one")); err != nil {
		t.Fatal(err)
	} else if _, err := again.Result(s.ctx()); !errors.Is(err, engine.ErrExists) {
		t.Errorf("the same id again: %v", err)
	}
	bodies := make([][]byte, 200)
	for i := range bodies {
		bodies[i] = []byte(`1`)
	}
	bodies[7] = []byte(`{`)
	results, err := s.client.SendManyRaw(s.ctx(), "default", "tick", bodies, engine.WithETA(due), engine.WithWaitForRoom())
	var failed *engine.ManyError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Failed[0].Index != 7 || results[7] != nil {
		t.Fatalf("%v", err)
	}
	for _, opt := range []engine.SendOption{engine.WithAtomic(), engine.WithTracked()} {
		if _, err := s.client.SendManyRaw(s.ctx(), "default", "tick", bodies[:1], engine.WithETA(due), opt); !errors.Is(err, engine.ErrInvalidName) {
			t.Errorf("taken: %v", err)
		}
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	engine.HandleRaw(w, "tick", func(context.Context, *engine.Message) ([]byte, error) {
		if early := time.Until(due); early > 0 {
			return nil, engine.Permanent(fmt.Errorf("%s too early", early))
		}
		return nil, nil
	})
	s.work(w)
	ids := map[string]bool{}
	for _, r := range append(results, first) {
		if r == nil {
			continue
		}
		ids[r.ID()] = true
		if _, err := r.Wait(s.ctx()); err != nil {
			t.Errorf("%s: %v", r.ID(), err)
		}
	}
	if len(ids) != len(bodies) {
		t.Errorf("%d ids of %d tasks", len(ids), len(bodies))
	}
}

// TestManyExpire: what is said of their expiry they carry.
func TestManyExpire(t *testing.T) {
	s := newSystem(t)
	if _, err := s.client.SendManyRaw(s.ctx(), "default", "tick", [][]byte{[]byte(`1`)}, engine.WithExpiresIn(time.Nanosecond)); err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{})
	var clock clockwork
	engine.HandleRaw(w, "tick", clock.handle)
	s.work(w)
	if record, err := s.client.Wait(s.ctx(), "default", "default-1"); err != nil || record.State != wire.StateExpired {
		t.Errorf("%+v, %v", record, err)
	}
}
