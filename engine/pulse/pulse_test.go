package pulse_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pelton/engine/pulse"
)

func TestLoops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var set pulse.Set
		one, two := set.Loop("one", 10*time.Second), set.Loop("two", time.Minute)
		is := func(when string, want ...string) {
			t.Helper()
			if got := set.Stalled(); !slices.Equal(got, want) {
				t.Errorf("%s: stalled %q, want %q", when, got, want)
			}
		}
		wait := func(d time.Duration) { <-time.After(d) }
		wait(time.Hour)
		is("before the first turn")
		one.Turn()
		two.Turn()
		wait(10 * time.Second)
		is("at the bound")
		wait(2500 * time.Millisecond)
		is("past the bound of one", "one: no turn for 12.5s, at most 10s")
		wait(time.Minute)
		is("past both", "one: no turn for 1m12.5s, at most 10s", "two: no turn for 1m12.5s, at most 1m0s")
		one.Rest()
		two.Turn()
		wait(30 * time.Second)
		is("one rests, two turned")
		one.Turn()
		wait(11 * time.Second)
		is("one came back and stopped", "one: no turn for 11s, at most 10s")
		one.End()
		is("one has ended")
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		health       pulse.Health
		alive, ready bool
	}{
		{pulse.Health{}, true, true},
		{pulse.Health{Unready: []string{"draining"}}, true, false},
		{pulse.Health{Stalled: []string{"loop"}}, false, false},
	} {
		if tc.health.Alive() != tc.alive || tc.health.Ready() != tc.ready {
			t.Errorf("%+v: alive %t, ready %t", tc.health, tc.health.Alive(), tc.health.Ready())
		}
	}
}

func TestTurnAllocatesNothing(t *testing.T) {
	var set pulse.Set
	loop := set.Loop("loop", time.Second)
	if n := testing.AllocsPerRun(100, func() { loop.Turn(); loop.Rest() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
