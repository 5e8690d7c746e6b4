package ingest

import (
	"context"
	"strings"
	"testing"
	"time"

	"pelton/engine/pulse"
)

// An OnBatch that does not return stalls the loop, and the edge says so; one
// that returns, under the same bound, does not.
func TestHealthOfAStalledLoop(t *testing.T) {
	t.Parallel()
	for _, blocks := range []bool{true, false} {
		w := newWorld(t, 1)
		blocked, called := make(chan struct{}), make(chan struct{}, 8)
		cfg := w.config()
		cfg.OnBatch = func(Batch) {
			called <- struct{}{}
			if blocks {
				<-blocked
			}
		}
		in, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		in.vitals.stall = 12 * time.Second // far more than an idle poll takes
		if h := in.Health(); !h.Alive() || h.Ready() {
			t.Errorf("before Run: %+v", h)
		}
		ctx, cancel := context.WithCancel(w.ctx)
		ended := make(chan error, 1)
		go func() { ended <- in.Run(ctx) }()
		w.untilHealth(in, pulse.Health.Ready)
		w.produce(0, []byte(`{"n":1}`))
		<-called
		if blocks {
			h := w.untilHealth(in, func(h pulse.Health) bool { return !h.Alive() })
			if !strings.HasPrefix(h.Stalled[0], "loop of route "+topicName+": no turn for ") {
				t.Errorf("stalled: %+v", h)
			}
			close(blocked)
			w.untilHealth(in, pulse.Health.Ready)
		} else {
			<-time.After(13 * time.Second)
			if h := in.Health(); !h.Ready() {
				t.Errorf("control: %+v", h)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func (w *world) untilHealth(in *Ingest, want func(pulse.Health) bool) pulse.Health {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		h := in.Health()
		if want(h) {
			return h
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("health: %+v", h)
		}
	}
}
