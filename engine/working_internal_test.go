package engine

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// TestAllocationsOfWorking holds what a task allocates in a worker from its fetch
// to its settling, for a body of 256 bytes and a handler that does nothing, beyond
// what the client library does for a bare loop that receives and acknowledges the
// same messages; a result is a message more to publish, and a confirmed ack one
// more to receive, each taken for as much as the bare loop's. The goal is twelve.
func TestAllocationsOfWorking(t *testing.T) {
	if raceEnabled {
		return // the race detector allocates too
	}
	const n, beyond = 20_000, 12
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := Connect(ctx, startBrokerProcess(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Apply(ctx, c.js, topo); err != nil {
		t.Fatal(err)
	}
	bodies := slices.Repeat([][]byte{[]byte(`"` + strings.Repeat("x", 254) + `"`)}, n)
	filled := func(drain func()) float64 {
		if _, err := c.SendManyRaw(ctx, DefaultQueue, "nop", bodies); err != nil {
			t.Fatal(err)
		}
		allocations, _ := counted(n, drain)
		return allocations
	}
	raw := filled(func() { drainRaw(ctx, t, c, n) })
	t.Logf("the client library: %.2f", raw)
	for _, test := range []struct {
		ending  string
		library float64 // what it allocates besides
		opts    []HandleOption
	}{
		{"plain", 0, []HandleOption{WithoutResult(), WithPlainAck()}},
		{"confirmed", 5, []HandleOption{WithoutResult()}},
		{"result", 5, nil},
	} {
		t.Run(test.ending, func(t *testing.T) {
			allocations := filled(func() { drainByWorker(ctx, t, c, n, test.opts) })
			own := allocations - raw - test.library
			t.Logf("%.2f allocations, %.2f of them beyond the library's", allocations, own)
			if own > beyond {
				t.Errorf("%.2f allocations for each task beyond the library's, the budget is %d", own, beyond)
			}
		})
	}
}

// drainRaw takes n messages and acknowledges them.
func drainRaw(ctx context.Context, t *testing.T, c *Client, n int) {
	t.Helper()
	consumer, err := c.js.Consumer(ctx, c.ns.TaskStream(wire.PlainLane(DefaultQueue)), wire.WorkersDurable)
	if err != nil {
		t.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		_ = m.Ack()
		if left.Add(-1) == 0 {
			close(done)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	consuming.Drain()
	<-consuming.Closed()
	if left := awaitEmpty(t, c); left != 0 {
		t.Fatalf("%d messages are left", left)
	}
}

// drainByWorker runs n tasks by a worker.
func drainByWorker(ctx context.Context, t *testing.T, c *Client, n int, opts []HandleOption) {
	t.Helper()
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 16}}})
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	HandleRaw(w, "nop", func(context.Context, *Message) ([]byte, error) {
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil, nil
	}, opts...)
	stop := background(func(working context.Context) {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	defer stop()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("%d tasks are left", left.Load())
	}
	if left := awaitEmpty(t, c); left != 0 {
		t.Fatalf("%d messages are left", left)
	}
}
