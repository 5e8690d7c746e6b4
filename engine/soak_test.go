//go:build e2e && nightly

package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine/topology"
)

// soakFor is how long the soak lasts.
var soakFor = flag.Duration("soak", 10*time.Minute, "how long the worker is soaked")

// footprint is what a process takes.
type footprint struct {
	rss        int // KiB
	goroutines int
	files      int
}

func (f footprint) String() string {
	return fmt.Sprintf("%d KiB, %d goroutines, %d files", f.rss, f.goroutines, f.files)
}

func measureFootprint(t *testing.T) footprint {
	t.Helper()
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	f := footprint{goroutines: runtime.NumGoroutine()}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if f.rss, err = strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB")); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	f.files = len(files)
	return f
}

// grown reports whether something has grown from one footprint to another by
// more than what a garbage collector and a few connections explain.
func (f footprint) grown(later footprint) bool {
	return later.rss > f.rss*5/4+4<<10 || later.goroutines > f.goroutines+10 || later.files > f.files+5
}

// TestSoak works tasks that succeed, fail, wait, panic and are waited for, all
// the while. Memory, goroutines and files are what they were after a tenth of
// the time. The broker is a process of its own.
func TestSoak(t *testing.T) {
	b := startBrokers(t, 1)
	c, err := Connect(t.Context(), b.urls[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Apply(t.Context(), c.JetStream(), topo); err != nil {
		t.Fatal(err)
	}
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 16}}})
	var runs atomic.Int64
	HandleRaw(w, "soak", func(_ context.Context, m *Message) ([]byte, error) {
		switch n := runs.Add(1); {
		case n%50 == 1 && m.Info.Attempt == 1:
			panic("now and then")
		case n%20 == 2 && m.Info.Attempt == 1:
			return nil, RetryIn(100*time.Millisecond, errors.New("once more"))
		case n%100 == 3:
			return nil, Permanent(errors.New("for good"))
		}
		return m.Body, nil
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	soaked := time.After(*soakFor)
	first, every := footprint{}, time.NewTicker(*soakFor/10)
	defer every.Stop()
	for n := 0; soaked != nil; {
		select {
		case <-soaked:
			soaked = nil
		case <-every.C:
			now := measureFootprint(t)
			t.Logf("%d runs: %s", runs.Load(), now)
			if n++; n == 1 {
				first = now
			} else if first.grown(now) {
				t.Errorf("it was %s after a tenth of the time", first)
			}
		default:
			soakOnce(t, c)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// soakOnce sends a few hundred tasks in all ways and waits for the last.
func soakOnce(t *testing.T, c *Client) {
	t.Helper()
	bodies := make([][]byte, 200)
	for i := range bodies {
		bodies[i] = []byte(`"` + strings.Repeat("x", 200) + `"`)
	}
	if _, err := c.SendManyRaw(t.Context(), DefaultQueue, "soak", bodies); err != nil {
		t.Fatal(err)
	}
	for _, opts := range [][]SendOption{nil, {WithCountdown(300 * time.Millisecond)}} {
		r, err := c.SendRaw(t.Context(), DefaultQueue, "soak", []byte(`1`), opts...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.c.Wait(t.Context(), r.queue, r.id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSoakSeesGrowth is the control: what leaks is seen.
func TestSoakSeesGrowth(t *testing.T) {
	was := measureFootprint(t)
	leak := make([]byte, was.rss<<9+8<<20)
	for i := range leak {
		leak[i] = 1
	}
	if !was.grown(measureFootprint(t)) {
		t.Error("nobody sees the memory")
	}
	runtime.KeepAlive(leak)
	end := make(chan struct{})
	defer close(end)
	for range 20 {
		go func() { <-end }()
	}
	if now := measureFootprint(t); now.goroutines <= was.goroutines+10 || !was.grown(now) {
		t.Error("nobody sees the goroutines")
	}
}
