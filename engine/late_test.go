package engine_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/wire"
)

// TestParkedAttemptThatComesLate: what a worker parked before its connection
// broke can reach the broker long after its lease, out of the buffers of a network
// that is whole again. It replaces the attempt that is parked by then, which must
// not be lost with it.
func TestParkedAttemptThatComesLate(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(1)})
	var attempts atomic.Int32
	engine.HandleRaw(w, "tries", func(_ context.Context, m *engine.Message) ([]byte, error) {
		attempts.Add(1)
		if m.Info.Attempt < 3 {
			return nil, engine.RetryIn(4*time.Second, errors.New("again"))
		}
		return []byte(`"third"`), nil
	})
	s.work(w)
	r, err := s.client.SendRaw(s.ctx(), "default", "tries", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	subject := "pelton.later.default." + r.ID()
	parked := func(attempt string) *nats.Msg {
		m := &nats.Msg{Subject: subject}
		s.until("attempt "+attempt+" is parked", func() bool {
			later, err := s.client.JetStream().Stream(s.ctx(), "PELTON_LATER_default")
			if err != nil {
				return false
			}
			last, err := later.GetLastMsgForSubject(s.ctx(), subject)
			if err != nil || last.Header.Get(wire.HeaderAttempt) != attempt {
				return false
			}
			m.Header, m.Data = last.Header, last.Data
			return true
		})
		return m
	}
	second := parked("2")
	parked("3")
	if _, err := s.client.JetStream().PublishMsg(s.ctx(), second); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Wait(s.ctx()); err != nil || string(got) != `"third"` {
		t.Fatalf("%s, %v", got, err)
	}
	if n := attempts.Load(); n != 3 {
		t.Errorf("%d runs of 3 attempts", n)
	}
	s.empty("default")
}
