package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestMain is also the main of the example, run as the process it is.
func TestMain(m *testing.M) {
	if os.Getenv("PELTON_EXAMPLE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// Two of them run, and each time is one task.
func TestBeat(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.Setup("default")
	nc := broker.Conn()
	started, err := nc.SubscribeSync("pelton.done.default.*")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		child := exec.CommandContext(ctx, os.Args[0])
		child.Env = append(os.Environ(), "PELTON_EXAMPLE=1", "NATS_URL="+broker.URL())
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = child.Process.Kill()
			_ = child.Wait()
		}()
	}
	done := map[string]int{}
	for len(done) < 2 {
		m, err := started.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		r, err := wire.DecodeRecord(id, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(id, "greeting-") {
			t.Errorf("task %s", id)
		}
		if r.State == wire.StateSucceeded {
			done[id]++
		}
	}
	for id, n := range done {
		if n != 1 {
			t.Errorf("%s has run %d times", id, n)
		}
	}
}
