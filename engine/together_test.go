package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// together has n tasks whose handlers all end at one moment, so that their
// outcomes are written together.
type together struct {
	*system
	n     int
	begun chan struct{}
	end   chan struct{}
	runs  atomic.Int32
	sent  []string
	marks atomic.Int64 // of tasks that had run for a second, as where the machine stalls
}

func newTogether(t *testing.T, n int, queue topology.Queue) *together {
	t.Helper()
	g := &together{system: newSystem(t, queue), n: n, begun: make(chan struct{}, 10*n), end: make(chan struct{})}
	nc := g.broker.Conn()
	if _, err := nc.Subscribe(wire.DefaultNamespace.DoneSubject("default", "*"), func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(`"state":"started"`)) {
			g.marks.Add(1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return g
}

// written fails unless so many values were ever written to the bucket, beside
// marks of what has begun.
func (g *together) written(n uint64) {
	g.t.Helper()
	if all, marks := g.revisions(), uint64(g.marks.Load()); all != n+marks || g.runs.Load() != int32(n) {
		g.t.Errorf("%d revisions and %d marks, %d runs of %d tasks", all, marks, g.runs.Load(), n)
	}
}

// start sends the tasks, works them by a client, and waits until all have begun.
func (g *together) start(c *engine.Client, opts ...engine.HandleOption) {
	g.t.Helper()
	// Streams are left as the test has made them.
	w := engine.NewWorker(c, engine.WorkerConfig{Queues: one(g.n), Setup: engine.SetupOff, Grace: 100 * time.Millisecond})
	engine.HandleRaw(w, "wait", func(context.Context, *engine.Message) ([]byte, error) {
		g.runs.Add(1)
		g.begun <- struct{}{}
		<-g.end
		return []byte(`"done"`), nil
	}, opts...)
	results, err := g.client.SendManyRaw(g.ctx(), "default", "wait", slices.Repeat([][]byte{[]byte(`1`)}, g.n))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, r := range results {
		g.sent = append(g.sent, r.ID())
	}
	g.work(w)
	for range g.n {
		<-g.begun
	}
}

// revisions is how many values the bucket has ever taken.
func (g *together) revisions() uint64 {
	g.t.Helper()
	results, err := g.client.JetStream().Stream(g.ctx(), "KV_PELTON_RESULTS_default")
	if err != nil {
		g.t.Fatal(err)
	}
	return results.CachedInfo().State.LastSeq
}

// TestFewOutcomesDoNotWaitForEachOther: each is written at once, whether the
// broker has answered to those before or not.
func TestFewOutcomesDoNotWaitForEachOther(t *testing.T) {
	g := newTogether(t, 3, topology.Queue{Name: "default"})
	c, link := g.linked()
	g.start(c)
	link.Deafen()
	for n := range uint64(3) {
		g.end <- struct{}{}
		g.until("its record is written", func() bool { return g.revisions() > n })
	}
	if n := c.Conn().Stats().Reconnects; n > 0 {
		t.Errorf("the last of them came with connection %d", n+1)
	}
	link.Cut()
	g.empty("default")
}

// TestRefusedRecordIsItsOwnAffair: an outcome that stands refuses one of those
// that are written together. It stands on, and the others are written once.
func TestRefusedRecordIsItsOwnAffair(t *testing.T) {
	for _, at := range []int{0, 7, 19} {
		t.Run(fmt.Sprintf("number %d of 20", at), func(t *testing.T) {
			g := newTogether(t, 20, topology.Queue{Name: "default"})
			g.start(g.client)
			id := g.sent[at]
			stands, err := (&wire.Record{ID: id, Run: 1, Task: "wait", Queue: "default", State: wire.StateSucceeded, Attempt: 1, Worker: "another"}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.client.JetStream().Publish(g.ctx(), "$KV.PELTON_RESULTS_default."+id, stands); err != nil {
				t.Fatal(err)
			}
			close(g.end)
			g.empty("default")
			for _, sent := range g.sent {
				r, err := g.client.Record(g.ctx(), "default", sent)
				if err != nil || r.State != wire.StateSucceeded || (r.Worker == "another") != (sent == id) {
					t.Errorf("%+v, %v", r, err)
				}
			}
			g.written(20)
		})
	}
}

// TestAnswerToRecordsIsLost: what was written with the answer lost is known
// again, and written once.
func TestAnswerToRecordsIsLost(t *testing.T) {
	for _, lost := range []string{`"type":"ack"`, `"count":`} { // of the beginning, and of the end
		t.Run(lost, func(t *testing.T) {
			g := newTogether(t, 100, topology.Queue{Name: "default"})
			c, link := g.linked()
			g.start(c)
			deaf := link.DeafenAt(lost)
			go func() { <-deaf; link.Cut() }()
			close(g.end)
			select {
			case <-deaf:
			case <-g.ctx().Done():
				t.Fatal("no outcomes were written together")
			}
			g.empty("default")
			g.written(100)
		})
	}
}

// TestBucketThatTakesNoBatches: records are written one by one then.
func TestBucketThatTakesNoBatches(t *testing.T) {
	g := newTogether(t, 30, topology.Queue{Name: "default"})
	results, err := g.client.JetStream().Stream(g.ctx(), "KV_PELTON_RESULTS_default")
	if err != nil {
		t.Fatal(err)
	}
	cfg := results.CachedInfo().Config
	if !cfg.AllowBatchPublish {
		t.Fatal("the bucket takes none anyway")
	}
	cfg.AllowBatchPublish = false
	if _, err := g.client.JetStream().UpdateStream(g.ctx(), cfg); err != nil {
		t.Fatal(err)
	}
	g.start(g.client)
	close(g.end)
	g.empty("default")
	g.written(30)
}

// TestWithoutResult: nothing is kept of a task that succeeds, and its ack is not
// lost. The control has plain acks: what is lost of them comes back and runs
// again.
func TestWithoutResult(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opts  []engine.HandleOption
		lease time.Duration // of what is confirmed longer than a machine stalls
		again bool
	}{
		{"confirmed", []engine.HandleOption{engine.WithoutResult()}, 10 * time.Second, false},
		{"plain, the control", []engine.HandleOption{engine.WithoutResult(), engine.WithPlainAck()}, time.Second, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var g *together
			for marked := true; marked; { // what was marked has a record to its end
				g = newTogether(t, 20, topology.Queue{Name: "default", AckWait: tc.lease})
				c, link := g.linked()
				g.start(c, tc.opts...)
				// Acks go into the void while the connection looks whole; then it breaks.
				link.Silence()
				close(g.end)
				flushed := c.Conn().FlushTimeout(100 * time.Millisecond)
				if flushed == nil {
					t.Fatal("somebody has answered")
				}
				marked = g.marks.Load() > 0
				link.Cut()
				g.empty("default")
			}
			if again := g.runs.Load() > 20; again != tc.again {
				t.Errorf("%d runs of 20 tasks", g.runs.Load())
			}
			if n := g.revisions(); !tc.again && n != 0 {
				t.Errorf("%d records are kept", n)
			}
		})
	}
}

// TestWithoutResultFails: a failure is recorded and buried all the same, and so
// is what began with a record.
func TestWithoutResultFails(t *testing.T) {
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{MaxAttempts: 1})
	engine.HandleRaw(w, "fail", func(context.Context, *engine.Message) ([]byte, error) { return nil, errors.New("no") }, engine.WithoutResult())
	engine.HandleRaw(w, "fine", func(context.Context, *engine.Message) ([]byte, error) { return []byte(`"secret"`), nil }, engine.WithoutResult())
	s.work(w)
	failed, err := s.client.SendRaw(s.ctx(), "default", "fail", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	var te *engine.TaskError
	if _, err := failed.Wait(s.ctx()); !errors.As(err, &te) || te.Message != "no" {
		t.Errorf("%v", err)
	}
	named, err := s.client.SendRaw(s.ctx(), "default", "fine", []byte(`1`), engine.WithID("named"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := named.Wait(s.ctx()); err != nil {
		t.Error(err)
	}
	if r, err := named.Record(s.ctx()); err != nil || len(r.Result) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	free, err := s.client.SendRaw(s.ctx(), "default", "fine", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	s.empty("default")
	if r, err := free.Record(s.ctx()); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("%+v, %v", r, err)
	}
	var dead jetstream.Stream
	if dead, err = s.client.JetStream().Stream(s.ctx(), "PELTON_DEAD"); err != nil || dead.CachedInfo().State.Msgs != 1 {
		t.Errorf("%+v, %v", dead, err)
	}
}
