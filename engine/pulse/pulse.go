// Package pulse is how the parts of the path say that they live: each loop
// notes its turns, and whoever is asked tells which of them makes none any more.
//
// It stands beside the path. The engine and the edges have their loops noted
// here; what asks is a probe of the process, such as /livez of the binary or a
// handler of the program that embeds a worker.
package pulse

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Health is what a part says of itself. The zero value is a part that is alive
// and ready.
type Health struct {
	// Stalled are the loops that make no progress, one line each with the name
	// of the loop. A process with one does not mend itself: it should be
	// started again.
	Stalled []string
	// Unready are the reasons for which the part takes no work just now, one
	// line each. They pass, or an operator has to act; to start the process
	// again helps nobody.
	Unready []string
}

// Alive reports whether all loops make progress. It says nothing about brokers.
func (h Health) Alive() bool { return len(h.Stalled) == 0 }

// Ready reports whether the part is alive and does its work.
func (h Health) Ready() bool { return h.Alive() && len(h.Unready) == 0 }

// Set is the loops of a part. The zero value is empty; it is safe for
// concurrent use.
type Set struct {
	mu    sync.Mutex
	loops []*Loop
}

// Loop is one loop of a part. Turn and Rest belong to the goroutine of the loop
// and cost it one atomic store; everything else may be called from anywhere.
type Loop struct {
	set   *Set
	name  string
	bound atomic.Int64
	begun time.Time    // turns are counted from here, by the monotonic clock
	last  atomic.Int64 // nanoseconds since begun; resting where it waits
}

// resting is in place of a turn's time while a loop waits for work.
const resting = -1

// Loop adds a loop that counts as stalled once its last turn is longer ago than
// bound. It rests until its first turn.
func (s *Set) Loop(name string, bound time.Duration) *Loop {
	l := &Loop{set: s, name: name, begun: time.Now()}
	l.Bound(bound)
	l.Rest()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loops = append(s.loops, l)
	return l
}

// Bound sets another bound.
func (l *Loop) Bound(bound time.Duration) { l.bound.Store(int64(bound)) }

// Turn notes that the loop makes a turn.
func (l *Loop) Turn() { l.last.Store(int64(time.Since(l.begun))) }

// Rest notes that the loop waits for something that may take as long as it
// likes, and is none the worse for it. Its next Turn ends that.
func (l *Loop) Rest() { l.last.Store(resting) }

// End takes the loop out of its set.
func (l *Loop) End() {
	l.set.mu.Lock()
	defer l.set.mu.Unlock()
	l.set.loops = slices.DeleteFunc(l.set.loops, func(other *Loop) bool { return other == l })
}

// idle is how long ago the last turn was, 0 for a loop that rests.
func (l *Loop) idle() time.Duration {
	last := l.last.Load()
	if last == resting {
		return 0
	}
	return time.Since(l.begun) - time.Duration(last)
}

// Stalled names the loops without a turn in time, each with how long that is
// ago, in the order in which they were added.
func (s *Set) Stalled() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stalled []string
	for _, l := range s.loops {
		if idle, bound := l.idle(), time.Duration(l.bound.Load()); idle > bound {
			stalled = append(stalled, fmt.Sprintf("%s: no turn for %s, at most %s", l.name, idle.Round(100*time.Millisecond), bound))
		}
	}
	return stalled
}
