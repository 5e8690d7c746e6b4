package engine

import (
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
		x := &settlement{d: d, record: &Record{State: wire.StateSucceeded}}
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
