package emit

import (
	"testing"
	"time"

	"pelton/engine/wire"
)

// At the end what is produced is committed.
func TestDrains(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	cfg.MaxBatch = 5
	w.ensureLedger(cfg)
	w.succeed("default", 0, 50)
	var r *emitter
	started := make(chan struct{})
	cfg.hooks.at = func(step string, _ int32) error {
		<-started
		if step == stepFlushed && r.Stats().Transactions == 3 {
			r.cancel()
		}
		return nil
	}
	r = w.start(cfg)
	close(started)
	<-r.ended
	if r.err != nil {
		t.Fatalf("Run: %v", r.err)
	}
	f := w.feed(resultTopic)
	f.drain(resultTopic)
	if got := r.Stats(); got.Transactions < 4 || got.Failures != 0 {
		t.Errorf("stats %+v, want the fourth transaction to end", got)
	}
	lost, doubled := f.compare()
	if len(doubled) > 0 || len(lost) != 50-int(r.Stats().Emitted) {
		t.Errorf("%d lost and %d doubled, want those that were not begun", len(lost), len(doubled))
	}
}

// A transaction that does not end is left after the grace period.
func TestGraceIsBounded(t *testing.T) {
	w := newWorld(t, "default")
	link := newLossy()
	cfg := w.config()
	cfg.Kafka.Dial = link.Dial
	cfg.Grace, cfg.TransactionTimeout = 100*time.Millisecond, time.Minute
	w.ensureLedger(cfg)
	r := w.start(cfg)
	w.put("default", "a", wire.StateSucceeded)
	w.feed(resultTopic).wait()
	link.armed.Store(true)
	w.put("default", "b", wire.StateSucceeded)
	<-link.lost
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("ended after %s, want the grace of %s, not the transaction's %s", took, cfg.Grace, cfg.TransactionTimeout)
	}
	r = w.start(w.config())
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
}
