package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/enginetest"
)

// TestReplicas sends to a queue of three replicas.
func TestReplicas(t *testing.T) {
	cluster := enginetest.StartCluster(t)
	cluster.Setup("default")
	c, err := engine.NewClient(cluster.Conn(engine.ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)

	t.Run("an id is free soon after it was removed", func(t *testing.T) {
		s := &system{t: t, client: c}
		consumer, err := c.JetStream().Consumer(s.ctx(), "PELTON_TASKS_default", "workers")
		if err != nil {
			t.Fatal(err)
		}
		bare := 0
		tries := 0
		for ; bare < 5 && tries < 2000; tries++ {
			i := tries
			id := fmt.Sprintf("job%d", i)
			if _, err := count.Send(s.ctx(), c, i, engine.WithID(id)); err != nil {
				t.Fatal(err)
			}
			m, err := consumer.Next()
			if err == nil {
				err = m.DoubleAck(s.ctx())
			}
			if err != nil {
				t.Fatal(err)
			}
			// The control: a publish that is not repeated.
			_, err = c.JetStream().PublishMsg(s.ctx(), &nats.Msg{
				Subject: "pelton.task.default.count." + id, Data: []byte(`1`), Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}},
			})
			if err != nil {
				bare++
				_, err = count.Send(s.ctx(), c, i, engine.WithID(id))
			}
			if err != nil {
				t.Errorf("id %s: %v", id, err)
			}
			if m, err = consumer.Next(); err == nil {
				err = m.DoubleAck(s.ctx())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d of %d bare publishes were refused", bare, tries)
		if bare == 0 {
			t.Error("no bare publish was refused: this test sees nothing")
		}
	})
	t.Run("an id that waits is refused", func(t *testing.T) {
		s := &system{t: t, client: c}
		if _, err := count.Send(s.ctx(), c, 1, engine.WithID("twice")); err != nil {
			t.Fatal(err)
		}
		if r, err := count.Send(s.ctx(), c, 1, engine.WithID("twice")); !errors.Is(err, engine.ErrExists) || r.ID() != "twice" {
			t.Errorf("%v", err)
		}
	})
	t.Run("a queue that does not exist is said to be so", func(t *testing.T) {
		s := &system{t: t, client: c}
		ctx, cancel := context.WithTimeout(s.ctx(), 10*time.Second) // less than an election may take
		defer cancel()
		if _, err := count.Send(ctx, c, 1, engine.WithQueue("nosuch")); !errors.Is(err, engine.ErrNoQueue) {
			t.Errorf("send: %v", err)
		}
		if _, err := c.Wait(ctx, "nosuch", "nosuch-1"); !errors.Is(err, engine.ErrNoQueue) {
			t.Errorf("wait: %v", err)
		}
	})
	for name, opts := range map[string][]engine.SendOption{"fast": nil, "with all ids": {engine.WithAllIDs()}} {
		t.Run("many, "+name+", while the leader changes", func(t *testing.T) {
			s := &system{t: t, client: c}
			s.purge()
			const tasks = 4000
			changed := make(chan struct{})
			go func() {
				defer close(changed)
				cluster.StepDown("PELTON_TASKS_default")
			}()
			results, err := count.SendMany(s.ctx(), c, numbers(tasks), opts...)
			<-changed
			var many *engine.ManyError
			if err != nil && !errors.As(err, &many) {
				t.Fatal(err)
			}
			found := s.bodies()
			for i := range tasks {
				if found[i] > 1 || results[i] != nil && found[i] == 0 {
					t.Errorf("task %d is stored %d times, result %v", i, found[i], results[i])
				}
			}
			if many == nil {
				return
			}
			for _, f := range many.Failed {
				if found[f.Index] > 0 && !errors.Is(f.Err, engine.ErrUnconfirmed) {
					t.Errorf("task %d is stored: %v", f.Index, f.Err)
				}
				if errors.Is(f.Err, engine.ErrNoQueue) {
					t.Fatalf("task %d: %v", f.Index, f.Err)
				}
			}
			t.Logf("%v", err)
		})
	}
}

// purge asks again where a request was lost with a leader.
func (s *system) purge() {
	s.t.Helper()
	s.until("the stream is purged", func() bool {
		ctx, cancel := context.WithTimeout(s.ctx(), 2*time.Second)
		defer cancel()
		stream, err := s.client.JetStream().Stream(ctx, "PELTON_TASKS_default")
		return err == nil && stream.Purge(ctx) == nil
	})
}
