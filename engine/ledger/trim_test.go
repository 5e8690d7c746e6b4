package ledger

import (
	"testing"
)

// TestTrim: the newest entry stays with its sequence, and so does every other
// ledger and every task.
func TestTrim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	other, err := New(Config{JetStream: w.js, Stream: testStream, Subject: testSubject + ".other"})
	if err != nil {
		t.Fatal(err)
	}
	beside, err := other.Write(w.ctx, 0, nil, position(7))
	if err != nil {
		t.Fatal(err)
	}
	var fence uint64
	for i := range 10 {
		e, err := l.Write(w.ctx, fence, tasks(i, 1), position(i+1))
		if err != nil {
			t.Fatal(err)
		}
		fence = e.Sequence
	}
	if err := l.Trim(w.ctx); err != nil {
		t.Fatal(err)
	}
	stream, err := w.js.Stream(w.ctx, testStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 10+1+1 {
		t.Errorf("%d messages, want ten tasks and two entries", n)
	}
	if e, err := other.Read(w.ctx); err != nil || e.Sequence != beside.Sequence {
		t.Errorf("the other ledger: %+v, %v", e, err)
	}
	if e, err := l.Write(w.ctx, fence, tasks(10, 1), position(11)); err != nil || e.Sequence <= fence {
		t.Errorf("the fence after it: %+v, %v", e, err)
	}
}
