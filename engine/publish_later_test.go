package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
)

const laterStream = "PELTON_LATER_default"

// TestDelayedSendWhosePubAckIsLost: a send that waits knows its task again, also
// when the task has run and gone before the broker can be asked.
func TestDelayedSendWhosePubAckIsLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts []engine.SendOption
		lost string // of what the broker says
	}{
		{"no id", nil, `"seq":`},
		{"id", []engine.SendOption{engine.WithID("known")}, `"seq":`},
		{"id, its record", []engine.SendOption{engine.WithTracked(), engine.WithID("known")}, `"stream":"KV_PELTON_RESULTS_default"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t)
			c, link := s.linked()
			lost := link.DeafenAt(tc.lost)
			go func() { <-lost; link.Cut() }()
			r, err := count.Send(s.ctx(), c, 7, append(tc.opts, engine.WithCountdown(time.Hour))...)
			<-lost
			if err != nil {
				t.Fatal(err)
			}
			s.onceIn(laterStream, 1)
			if record, err := s.client.Lookup(s.ctx(), "default", r.ID()); err != nil || record.ID != r.ID() {
				t.Errorf("%+v, %v", record, err)
			}
		})
		t.Run(tc.name+", gone", func(t *testing.T) {
			s := newSystem(t)
			var runs atomic.Int32
			ran := make(chan struct{}, 9)
			w := engine.NewWorker(s.client, engine.WorkerConfig{})
			engine.Handle(w, count, func(_ context.Context, n int) (int, error) {
				runs.Add(1)
				ran <- struct{}{}
				return n, nil
			})
			s.work(w)
			c, link := s.linked()
			lost := link.DeafenAt(tc.lost)
			go func() { <-lost; <-ran; s.empty("default"); link.Cut() }()
			r, err := count.Send(s.ctx(), c, 7, append(tc.opts, engine.WithCountdown(600*time.Millisecond))...)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := r.Wait(s.ctx()); err != nil || n != 7 {
				t.Errorf("%d, %v", n, err)
			}
			s.empty("default")
			if runs.Load() != 1 {
				t.Errorf("ran %d times", runs.Load())
			}
		})
	}
}

// TestDelayedSendThatIsParkedAgain: a worker has replaced what waits under a random
// id before the sender, whose answer was lost, can ask again. The id is its own
// all the same.
func TestDelayedSendThatIsParkedAgain(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"seq":`)
	parked := make(chan error, 1)
	go func() {
		defer link.Cut()
		<-lost
		stream, err := s.client.JetStream().Stream(s.ctx(), laterStream)
		if err != nil {
			parked <- err
			return
		}
		m, err := stream.GetLastMsgForSubject(s.ctx(), "pelton.later.default.>")
		if err != nil {
			parked <- err
			return
		}
		m.Header.Del("Nats-Expected-Last-Subject-Sequence")
		m.Header.Set("Nats-Msg-Id", "another")
		_, err = s.client.JetStream().PublishMsg(s.ctx(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
		parked <- err
	}()
	r, err := count.Send(s.ctx(), c, 7, engine.WithCountdown(time.Hour))
	if again := <-parked; again != nil {
		t.Fatal(again)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.onceIn(laterStream, 1)
	if record, err := s.client.Lookup(s.ctx(), "default", r.ID()); err != nil || record.ID != r.ID() {
		t.Errorf("%+v, %v", record, err)
	}
}

// TestDelayedFutureWhosePubAckIsLost: a future does not ask again. What its
// caller sends again is there twice where it has no id: the control.
func TestDelayedFutureWhosePubAckIsLost(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opts  []engine.SendOption
		again error
		times int
	}{
		{"id", []engine.SendOption{engine.WithID("known")}, engine.ErrExists, 1},
		{"no id", nil, nil, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t)
			c, link := s.linked()
			opts := slices.Concat(tc.opts, []engine.SendOption{engine.WithCountdown(time.Hour)})
			lost := link.DeafenAt(`"seq":`)
			go func() { <-lost; link.Cut() }()
			f, err := count.SendAsync(s.ctx(), c, 7, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Result(s.ctx()); !errors.Is(err, engine.ErrUnconfirmed) {
				t.Errorf("%v", err)
			}
			s.onceIn(laterStream, 1)
			if _, err := count.Send(s.ctx(), c, 7, opts...); !errors.Is(err, tc.again) {
				t.Errorf("again: %v", err)
			}
			if times := s.bodiesIn(laterStream)[7]; times != tc.times {
				t.Errorf("stored %d times, want %d", times, tc.times)
			}
		})
	}
}

// TestDelayedManyWhosePubAckIsLost: what is not confirmed is told, and is
// stored once or not at all.
func TestDelayedManyWhosePubAckIsLost(t *testing.T) {
	const tasks = 300
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"seq":150}`)
	go func() { <-lost; link.Cut() }()
	results, err := count.SendMany(s.ctx(), c, numbers(tasks), engine.WithCountdown(time.Hour))
	<-lost
	var many *engine.ManyError
	if !errors.As(err, &many) || !errors.Is(err, engine.ErrUnconfirmed) {
		t.Fatalf("%v", err)
	}
	failed := map[int]error{}
	for _, f := range many.Failed {
		failed[f.Index] = f.Err
	}
	found := s.bodiesIn(laterStream)
	for i, r := range results {
		switch {
		case found[i] > 1:
			t.Errorf("task %d is stored %d times", i, found[i])
		case (r == nil) != (failed[i] != nil):
			t.Errorf("task %d: result %v, error %v", i, r, failed[i])
		case r != nil && found[i] == 0:
			t.Errorf("task %d is told as stored, and is not", i)
		case errors.Is(failed[i], engine.ErrUnreachable) && found[i] != 0:
			t.Errorf("task %d is told as not stored, and is: %v", i, failed[i])
		}
	}
}
