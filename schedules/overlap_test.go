package schedules

import (
	"context"
	"slices"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/wire"
)

// long is a worker whose task runs until it is let go, or revoked.
type long struct {
	started chan string // ids
	ended   chan string // ids, with why
	letGo   chan struct{}
}

// work runs one until the test ends. One slot: what is sent meanwhile waits.
func (w *world) work() *long {
	w.Helper()
	l := &long{started: make(chan string, 1000), ended: make(chan string, 1000), letGo: make(chan struct{})}
	worker := engine.NewWorker(w.client(), engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 1}}, Grace: time.Second})
	engine.HandleRaw(worker, "print", func(ctx context.Context, m *engine.Message) ([]byte, error) {
		l.started <- m.Info.ID
		select {
		case <-l.letGo:
			l.ended <- m.Info.ID + " done"
			return nil, nil
		case <-ctx.Done():
			l.ended <- m.Info.ID + " cancelled"
			return nil, context.Cause(ctx)
		}
	})
	w.background(worker.Run)
	return l
}

func (w *world) hears(from chan string) string {
	w.Helper()
	select {
	case text := <-from:
		return text
	case <-time.After(patience):
		w.Fatal("the worker tells nothing")
		return ""
	}
}

// overlapping is a beat with an entry of one second and a worker whose task does
// not end by itself; the first one runs.
func overlapping(t *testing.T, policy Overlap) (w *world, l *long, first string) {
	t.Helper()
	w = newWorld(t)
	e := every("long", time.Second)
	e.Overlap = policy
	w.put(e)
	l = w.work()
	w.run(Config{})
	return w, l, w.hears(l.started)
}

func TestLongTaskSkips(t *testing.T) {
	w, l, first := overlapping(t, OverlapSkip)
	p := w.decided("default", "long", func(p position) bool { return p.Counts[SkipOverlap] >= 2 })
	if p.Counts[Fired] != 1 || len(l.started) > 0 {
		t.Errorf("while %s runs: %v", first, p.Counts)
	}
	l.letGo <- struct{}{}
	if got, want := w.hears(l.ended), first+" done"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if second := w.hears(l.started); second <= first {
		t.Errorf("%s began after %s", second, first)
	}
}

func TestLongTaskQueues(t *testing.T) {
	w, l, first := overlapping(t, OverlapQueue)
	p := w.decided("default", "long", func(p position) bool { return p.Counts[Fired] >= 3 })
	if p.Counts[SkipOverlap] > 0 || len(l.started) > 0 {
		t.Errorf("while %s runs: %v", first, p.Counts)
	}
	began := []string{first}
	for range 2 {
		l.letGo <- struct{}{}
		began = append(began, w.hears(l.started))
	}
	if !slices.IsSorted(began) || len(slices.Compact(slices.Clone(began))) != 3 {
		t.Errorf("began %q", began)
	}
}

func TestLongTaskIsReplaced(t *testing.T) {
	w, l, first := overlapping(t, OverlapReplace)
	if got, want := w.hears(l.ended), first+" cancelled"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if second := w.hears(l.started); second <= first {
		t.Errorf("%s began after %s", second, first)
	}
	r, err := w.c.Lookup(t.Context(), "default", first)
	if err != nil || r.State != wire.StateRevoked {
		t.Errorf("record of the first %+v, %v", r, err)
	}
	if p := w.position("default", "long"); p.Counts[SkipOverlap] > 0 {
		t.Errorf("counts %v", p.Counts)
	}
}
