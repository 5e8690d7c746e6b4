package schedules

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"pelton/engine/ledger"
)

// Who writes for others may have to end while they still wait: theirs is written
// all the same.
func TestCommitterThatMustEnd(t *testing.T) {
	w := newWorld(t)
	ledgerOf := func(name string) ledger.Part {
		t.Helper()
		l, err := ledgerFor(w.c, "default", name, "test", nil)
		if err != nil {
			t.Fatal(err)
		}
		return ledger.Part{Ledger: l, Position: json.RawMessage(`{"source":"test"}`)}
	}
	mine, theirs := ledgerOf("mine"), &part{Part: ledgerOf("theirs"), ctx: t.Context(), done: make(chan struct{})}
	c := &committer{streams: map[string]*gathering{mine.Ledger.Stream(): {parts: []*part{theirs}}}}
	ended, end := context.WithCancel(t.Context())
	end()
	_, _ = c.write(ended, mine, false) // whether it was stored, nobody waits to hear
	select {
	case <-theirs.done:
	case <-time.After(patience):
		t.Fatal("theirs is not written")
	}
	if theirs.err != nil {
		t.Errorf("theirs: %v", theirs.err)
	}
	if p := w.position("default", "theirs"); p.Source != "test" {
		t.Errorf("the ledger says %+v", p)
	}
}
