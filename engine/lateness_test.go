//go:build e2e

package engine

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

// TestLateness measures how late tasks run: none early, whatever the load. The
// figures are logged, not judged, for the machine may be busy with other things;
// only what would be a fault of the design fails.
func TestLateness(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tasks  int
		over   time.Duration // over which they become due
		lead   time.Duration // after the first send
		atMost time.Duration // of the median
	}{
		{"a thousand a second", 5000, 5 * time.Second, 6 * time.Second, 50 * time.Millisecond},
		{"four hundred a second", 2000, 5 * time.Second, 3 * time.Second, 50 * time.Millisecond},
		{"ten thousand at one instant", 10_000, 0, 12 * time.Second, 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			late, took := lateness(t, tc.tasks, tc.over, tc.lead)
			slices.Sort(late)
			at := func(p int) time.Duration { return late[(len(late)-1)*p/100] }
			t.Logf("p50 %s, p99 %s, most %s, earliest %s; all ran within %s", at(50), at(99), late[len(late)-1], late[0], took)
			if late[0] < 0 {
				t.Errorf("one ran early by %s", -late[0])
			}
			if at(50) > tc.atMost {
				t.Errorf("half of them ran more than %s late", at(50))
			}
		})
	}
}

// lateness sends tasks that become due evenly over a time, and tells how late
// each ran, and how long after the first was due the last one did.
func lateness(t *testing.T, tasks int, over, lead time.Duration) (late []time.Duration, took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	start := time.Now().Round(0).Add(lead) // of the clock alone, as the times in messages are
	due := func(i int) time.Time { return start.Add(over * time.Duration(i) / time.Duration(tasks)) }
	late = make([]time.Duration, tasks)
	var group sync.WaitGroup
	group.Add(tasks)
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 16}}})
	HandleRaw(w, "tick", func(_ context.Context, m *Message) ([]byte, error) {
		now := time.Now()
		i, err := strconv.Atoi(string(m.Body))
		if err != nil {
			return nil, Permanent(err)
		}
		late[i] = now.Sub(due(i))
		group.Done()
		return nil, nil
	})
	stop := background(func(working context.Context) {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	defer stop()
	var senders sync.WaitGroup
	const callers = 64
	for caller := range callers {
		senders.Go(func() {
			for i := caller; i < tasks; i += callers {
				if _, err := c.SendRaw(ctx, DefaultQueue, "tick", strconv.AppendInt(nil, int64(i), 10), WithETA(due(i))); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		})
	}
	senders.Wait()
	if sent := time.Now(); sent.After(start.Add(-time.Second)) {
		t.Errorf("sending took until %s after the first was due", sent.Sub(start))
	}
	ran := make(chan struct{})
	go func() { group.Wait(); close(ran) }()
	select {
	case <-ran:
	case <-ctx.Done():
		t.Fatal("not all have run")
	}
	return late, time.Since(start)
}

// TestLatenessOfRetries measures how late attempts begin whose waits are short:
// kept by the worker, and, beside it, parked in the broker where so few tasks may
// be in all hands that none is kept.
// None is early; the figures are logged, as above.
func TestLatenessOfRetries(t *testing.T) {
	for _, tc := range []struct {
		name  string
		queue topology.Queue
	}{
		{"kept", topology.Queue{Name: DefaultQueue}},
		{"parked", topology.Queue{Name: DefaultQueue, MaxAckPending: workersShare - 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			late := retryLateness(t, tc.queue, 5000)
			slices.Sort(late)
			at := func(p int) time.Duration { return late[(len(late)-1)*p/100] }
			t.Logf("p50 %s, p99 %s, most %s, earliest %s", at(50), at(99), late[len(late)-1], late[0])
			if late[0] < 0 {
				t.Errorf("one ran early by %s", -late[0])
			}
		})
	}
}

// retryLateness sends a thousand tasks a second, each of which fails once and
// waits for up to 750 ms, and tells how late each second attempt began.
func retryLateness(t *testing.T, queue topology.Queue, tasks int) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.SetupWith(topology.Config{Queues: []topology.Queue{queue}})
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	due, late := make([]time.Time, tasks), make([]time.Duration, tasks)
	var group sync.WaitGroup
	group.Add(tasks)
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 16}}})
	HandleRaw(w, "flaky", func(_ context.Context, m *Message) ([]byte, error) {
		now := time.Now()
		i, err := strconv.Atoi(string(m.Body))
		if err != nil {
			return nil, Permanent(err)
		}
		if m.Info.Attempt == 1 {
			wait := time.Duration(i%751) * time.Millisecond
			due[i] = time.Now().Round(0).Add(wait)
			return nil, RetryIn(wait, errors.New("again"))
		}
		late[i] = now.Sub(due[i])
		group.Done()
		return nil, nil
	})
	stop := background(func(working context.Context) {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	defer stop()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range tasks {
		if i%10 == 0 {
			<-pace.C
		}
		if _, err := c.SendRawAsync(ctx, DefaultQueue, "flaky", strconv.AppendInt(nil, int64(i), 10)); err != nil {
			t.Fatal(err)
		}
	}
	ran := make(chan struct{})
	go func() { group.Wait(); close(ran) }()
	select {
	case <-ran:
	case <-ctx.Done():
		t.Fatal("not all have run")
	}
	return late
}
