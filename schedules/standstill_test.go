package schedules

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
)

// An hour in which no beat ran, by clocks that are set to it: what is sent of it
// is what the policy says, and the rest is told as skipped.
func TestStandstill(t *testing.T) {
	tests := map[string]struct {
		policy         CatchUp
		fired, skipped int
	}{
		"none":         {CatchUp{Policy: CatchUpNone}, 0, 59},
		"one":          {CatchUp{Policy: CatchUpOne}, 1, 58},
		"all":          {CatchUp{Policy: CatchUpAll}, 59, 0},
		"all(10)":      {CatchUp{Policy: CatchUpAll, Max: 10}, 10, 49},
		"all(100,30m)": {CatchUp{Policy: CatchUpAll, Max: 100, MaxAge: 30 * time.Minute}, 30, 29},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e := every("minutely", time.Minute)
			e.CatchUp = test.policy
			w.put(e)
			// The first beat sends one occurrence, at last, and the second one looks
			// 45 s after the last of the 59 that follow it.
			now := time.Now()
			last := now.Truncate(time.Minute).Add(-time.Minute)
			first := last.Add(-59 * time.Minute)
			b := w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), first.Add(-time.Second).Sub(now)}))
			if o := b.next(t); !o.Nominal.Equal(first) || o.Outcome != Fired {
				t.Fatalf("before the standstill %+v, want %s", o, first)
			}
			b.end(t)
			w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), time.Until(last.Add(45 * time.Second))}))
			w.decided("default", "minutely", func(p position) bool { return !p.Last.Before(last) })
			fired, skipped := w.whole("minutely", "default", time.Minute)
			if fired != 1+test.fired || skipped != test.skipped {
				t.Errorf("after the standstill %d were sent and %d skipped, want %d and %d", fired-1, skipped, test.fired, test.skipped)
			}
			if p := w.position("default", "minutely"); p.Counts[SkipCatchUp] != test.skipped {
				t.Errorf("the ledger counts %v", p.Counts)
			}
		})
	}
}

// A large standstill with large bodies, in one batch.
func TestStandstillOfLargeEntries(t *testing.T) {
	w := newWorld(t)
	e := every("large", time.Second)
	e.CatchUp = CatchUp{Policy: CatchUpAll, Max: mostCatchUpMax, MaxAge: time.Hour}
	e.Body = append(append([]byte{'"'}, make([]byte, 15<<10)...), '"')
	for i := range e.Body[1 : len(e.Body)-1] {
		e.Body[1+i] = 'x'
	}
	s := w.put(e)
	now := time.Now().Truncate(time.Second)
	w.seed(s, now.Add(-time.Hour))
	turn, err := w.keeper(s).look(t.Context(), now, false)
	if err != nil || len(turn.done) != 3600 {
		t.Fatalf("%d were decided, %v", len(turn.done), err)
	}
	if fired, skipped := w.whole("large", "default", time.Second); fired < mostCatchUpMax || fired+skipped != 3600 {
		t.Errorf("%d were sent, %d skipped", fired, skipped)
	}
}

// movable is the real clock, which somebody sets.
type movable struct {
	clockwork.Clock
	by *atomic.Int64
}

func (m movable) Now() time.Time { return m.Clock.Now().Add(time.Duration(m.by.Load())) }

// A clock that is set back while a beat runs sends nothing again.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	w.put(every("ping", time.Second))
	clock := movable{clockwork.NewRealClock(), new(atomic.Int64)}
	b := w.run(Config{}, withClock(clock))
	b.next(t)
	o := b.next(t)
	clock.by.Store(int64(-3 * time.Second))
	for range 3 {
		after := b.next(t)
		if !after.Nominal.After(o.Nominal) {
			t.Errorf("decided %s after %s", after.Nominal, o.Nominal)
		}
		o = after
	}
	b.end(t)
	w.whole("ping", "default", time.Second)
}

// A clock that is set an hour forward while a beat runs sends nothing more than
// 2 s before its time.
func TestClockSetForward(t *testing.T) {
	w := newWorld(t)
	w.put(every("ping", time.Second))
	clock := movable{clockwork.NewRealClock(), new(atomic.Int64)}
	b := w.run(Config{}, withClock(clock))
	b.next(t)
	clock.by.Store(int64(time.Hour))
	for range 6 {
		if o := b.next(t); time.Until(o.Nominal) > ahead+500*time.Millisecond {
			t.Fatalf("sent %s before its time", time.Until(o.Nominal))
		}
	}
	b.end(t)
	w.whole("ping", "default", time.Second)
}
