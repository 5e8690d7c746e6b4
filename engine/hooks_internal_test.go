package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// What is not set costs nothing; the control, with a hook set, does.
func TestNoHookCostsNothing(t *testing.T) {
	for _, set := range []bool{false, true} {
		var cfg WorkerConfig
		if set {
			cfg.Hooks.Succeeded = func(TaskEvent) {}
		}
		w := &Worker{cfg: cfg, hears: cfg.Hooks.outcomes()}
		d := &delivery{msg: &nats.Msg{Header: nats.Header{"X": {"y"}}}, pool: &pool{w: w}, id: "default-1", meta: wire.Meta{Run: 1, Attempt: 1}}
		x := &settlement{d: d, own: &Record{State: wire.StateSucceeded}}
		x.record = x.own
		now := time.Now()
		allocs := testing.AllocsPerRun(100, func() {
			x.becomes(resultDone, now)
			w.tellSettled(x)
			w.wrote(x.record)
		})
		if set == (allocs == 0) {
			t.Errorf("hook set %t: %v allocations", set, allocs)
		}
	}
}

func TestStackOfAGoroutine(t *testing.T) {
	id := make(chan string)
	release := make(chan struct{})
	go func() {
		id <- goroutineID()
		<-release
	}()
	other := <-id
	defer close(release)
	if mine := stackOf(allStacks(), goroutineID()); !strings.Contains(mine, "TestStackOfAGoroutine(") {
		t.Errorf("mine: %s", mine)
	}
	if its := stackOf(allStacks(), other); !strings.Contains(its, "TestStackOfAGoroutine.func1") {
		t.Errorf("its: %s", its)
	}
	for _, none := range []string{"", "0"} {
		if s := stackOf(allStacks(), none); s != "not found" {
			t.Errorf("%q: %s", none, s)
		}
	}
}
