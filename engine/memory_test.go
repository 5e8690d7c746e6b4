//go:build e2e

package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// TestMemoryOfAWorker: a worker process that runs a hundred thousand tasks of 256
// bytes, out of a million that wait, takes at most 40 MiB.
func TestMemoryOfAWorker(t *testing.T) {
	const waiting, drained, most = 1_000_000, 100_000, 40 << 10 // KiB
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := startBrokers(t, 1)
	c, err := Connect(ctx, b.urls[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Apply(ctx, c.js, topo); err != nil {
		t.Fatal(err)
	}
	bodies := slices.Repeat([][]byte{[]byte(`"` + strings.Repeat("x", 254) + `"`)}, 10_000)
	for range waiting / len(bodies) {
		if _, err := c.SendManyRaw(ctx, DefaultQueue, "nop", bodies); err != nil {
			t.Fatal(err)
		}
	}
	w := startWorkers(t, b.urls[0], 1, false)
	stream := c.ns.TaskStream(wire.PlainLane(DefaultQueue))
	eventually(ctx, t, func(ctx context.Context) error {
		info, err := c.streamInfo(ctx, stream)
		if err == nil && info.State.Msgs > waiting-drained {
			err = fmt.Errorf("%d tasks wait", info.State.Msgs)
		}
		return err
	})
	peak := peakMemory(t, w.children[0].Process.Pid)
	t.Logf("at most %d KiB", peak)
	if peak > most {
		t.Errorf("the worker took %d KiB, the bound is %d", peak, most)
	}
}

// peakMemory is the most that a process has had resident, in KiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatalf("process %d: no VmHWM", pid)
	return 0
}
