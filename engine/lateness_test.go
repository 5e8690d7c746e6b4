//go:build e2e

package engine

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pelton/engine/enginetest"
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
	start := time.Now().Add(lead)
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
