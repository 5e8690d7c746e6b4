package engine

import "testing"

func TestWhatIsKeptIsBounded(t *testing.T) {
	for pending, want := range map[int]int{-1: holdMost, 0: holdMost, 11: 0, 12: 1, 10_000: 833, 1 << 30: holdMost} {
		if got := mostKept(pending); got != want {
			t.Errorf("%d in all hands: %d kept, want %d", pending, got, want)
		}
	}
	k := keeping{most: 2}
	if !k.enter(1) || !k.enter(holdBytes-1) {
		t.Fatal("no room at first")
	}
	if k.enter(0) {
		t.Error("a third one entered")
	}
	k.leave(1)
	if k.enter(2) {
		t.Error("more bytes than may be held")
	}
	if !k.enter(1) {
		t.Error("no room after one left")
	}
	k.leave(1)
	k.close()
	if k.enter(1) {
		t.Error("one entered after the end")
	}
}
