package emit

import (
	"context"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The tests of this file take one protection away and must see results doubled.
// One that did not would mean that the other tests see nothing either.

// Without a fence, whoever was replaced still commits.
func TestControlNoFence(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	var opened atomic.Int32
	cfg.hooks.transactionalID = func(int32) string { return "own-" + strconv.Itoa(int(opened.Add(1))) }
	old, heir := w.session(cfg), w.session(cfg)
	w.succeed("default", 0, 10)

	zombie := old()
	defer zombie.close()
	batch := zombie.next(w, 10)
	successor := heir()
	defer successor.close()
	if err := zombie.commit(w.ctx, batch); err != nil {
		t.Fatalf("zombie's commit: %v", err)
	}
	if err := successor.commit(w.ctx, successor.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	w.mustDouble(10)
}

// A position written apart from the results is behind after a crash between.
func TestControlPositionApart(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 0, 10)
	first := w.session(cfg)()
	results := first.next(w, 10)
	first.close()
	var records []*kgo.Record
	for _, r := range results {
		records = append(records, r.record)
	}
	if err := w.plain.ProduceSync(w.ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	// Killed here, where the position would have been written next.
	second := w.session(cfg)()
	defer second.close()
	if err := second.commit(w.ctx, second.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	w.mustDouble(10)
}

// Positions read before the predecessor is fenced miss its last commit.
func TestControlPositionReadTooEarly(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 0, 10)
	old := w.session(cfg)()
	defer old.close()
	early := old.queues[0].read // what a look at the ledger shows now
	if err := old.commit(w.ctx, old.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	x := w.session(cfg)()
	defer x.close()
	x.queues[0].read = early
	src, err := x.source(w.ctx, x.queues[0])
	if err != nil {
		t.Fatal(err)
	}
	x.sources = append(x.sources, src)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	x.reading.Go(func() { _ = x.readAll(ctx, src) })
	if err := x.commit(w.ctx, x.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	w.mustDouble(10)
}

// Who reads uncommitted records sees what was aborted.
func TestControlReadUncommitted(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 0, 10)
	dying := cfg
	dying.hooks.at = func(step string, _ int32) error {
		if step == stepFlushed {
			return errKilled
		}
		return nil
	}
	first := w.session(dying)()
	if err := first.commit(w.ctx, first.next(w, 10)); err == nil {
		t.Fatal("the crash was survived")
	}
	first.close()
	second := w.session(cfg)()
	defer second.close()
	if err := second.commit(w.ctx, second.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	w.exact()
	w.mustDouble(10, kgo.FetchIsolationLevel(kgo.ReadUncommitted()))
}

func (w *world) mustDouble(n int, opts ...kgo.Opt) {
	w.t.Helper()
	opts = append(opts, kgo.ConsumeTopics(resultTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	f := &feed{w: w, cl: w.client(opts...), by: map[string][]*kgo.Record{}}
	f.drain(resultTopic)
	if lost, doubled := f.compare(); len(lost) != 0 || len(doubled) != n {
		w.t.Errorf("without the protection %d are lost and %d doubled, want none and %d", len(lost), len(doubled), n)
	}
}

// ledgerRecord writes a position by hand, as an operator would.
func (w *world) ledgerRecord(queue string, p *position) {
	w.t.Helper()
	r := &kgo.Record{Topic: ledgerTopic, Key: []byte("results/" + queue)}
	if p != nil {
		var err error
		if r.Value, err = json.Marshal(p); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.plain.ProduceSync(w.ctx, r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}
