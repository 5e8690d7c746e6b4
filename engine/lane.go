package engine

import (
	"container/heap"
	"fmt"
	"slices"
	"time"

	"pelton/engine/wire"
)

// Poll says how the lanes of a queue share its slots.
type Poll string

// The ways to share.
const (
	// PollStrict: a lower lane has a slot only when no higher one has a task. Each
	// is asked, and one that says nothing within four round trips, at least 10 ms,
	// has none: a broker that stalls for longer lets a lower lane go first.
	PollStrict Poll = "strict"
	// PollWeighted: each lane with tasks has its share, of ten slots six for
	// high, three for the plain lane and one for low; none ever starves.
	PollWeighted Poll = "weighted"
)

func (p Poll) validate() error {
	switch p {
	case "", PollStrict, PollWeighted:
		return nil
	}
	return fmt.Errorf("poll must be strict or weighted, got %q", string(p))
}

// weights of the lanes when they are polled by weight.
var weights = map[wire.Priority]int{wire.PriorityHigh: 6, wire.PriorityNone: 3, wire.PriorityLow: 1}

// ranked are the lanes of a queue, the most urgent first.
func (q Queue) ranked() []wire.Lane {
	var lanes []wire.Lane
	for _, p := range []wire.Priority{wire.PriorityHigh, wire.PriorityNone, wire.PriorityLow} {
		declared := p == wire.PriorityNone
		for _, d := range q.Priorities {
			declared = declared || d == p
		}
		if declared {
			lanes = append(lanes, wire.Lane{Queue: q.Name, Priority: p})
		}
	}
	return lanes
}

// chooser picks lanes one after the other. It is smooth weighted round robin:
// each lane that has something earns its weight, the richest is picked and pays
// what all have earned; so picks are spread as evenly as the weights allow.
type chooser struct {
	lanes   []int // their numbers
	weights []int
	credit  []int
}

func newChooser(lanes []wire.Lane) *chooser {
	c := &chooser{credit: make([]int, len(lanes))}
	for i, l := range lanes {
		c.lanes, c.weights = append(c.lanes, i), append(c.weights, weights[l.Priority])
	}
	return c
}

// pick is the next lane among those that have something, -1 where none has. A
// lane that has nothing keeps no credit, for it could starve others later, unless
// it may still have some: what is on its way is paid when it comes.
func (c *chooser) pick(has, may func(lane int) bool) int {
	best, total := -1, 0
	if !slices.ContainsFunc(c.lanes, has) {
		return best
	}
	for i, w := range c.weights {
		is := has(i)
		if !is && !may(i) {
			c.credit[i] = 0
			continue
		}
		c.credit[i] += w
		total += w
		if is && (best < 0 || c.credit[i] > c.credit[best]) {
			best = i
		}
	}
	if best >= 0 {
		c.credit[best] -= total
	}
	return best
}

// pickStrict is the most urgent lane that may be served: one that has something,
// where every lane above is known to have nothing. It is -1 where none is, or
// where that is not known yet.
func pickStrict(lanes int, has, quiet func(lane int) bool) int {
	for i := range lanes {
		if has(i) {
			return i
		}
		if !quiet(i) {
			return -1
		}
	}
	return -1
}

// lane is one lane of a pool's queue: its two consumers and what came by them.
// It belongs to the loop of its pool.
type lane struct {
	lane    wire.Lane
	ackWait time.Duration

	plain, due *puller
	ready      []*delivery // wait for a slot, oldest first
	aside      int         // held or looked at, of those that came by the plain consumer
	asideMost  int         // of these; as many as there are slots may be in any case
}

// pop takes the oldest ready task.
func (ln *lane) pop() *delivery {
	d := ln.ready[0]
	ln.ready[0] = nil
	ln.ready = ln.ready[1:]
	return d
}

// quietAfter is how long a request must have waited at the broker, at least,
// before its lane is said to have nothing: an answer would be here.
const quietAfter = 10 * time.Millisecond

// quiet reports whether the lane is known to have nothing ready, or cannot be
// asked.
func (ln *lane) quiet(now time.Time, after time.Duration) bool {
	p := ln.plain
	return p.trouble || now.Before(p.retryAt) || p.outstanding() > 0 && now.Sub(p.moved) >= after
}

// heldTasks wait for their time, the next one first; a heap.
type heldTasks []*delivery

func (h heldTasks) Len() int           { return len(h) }
func (h heldTasks) Less(i, j int) bool { return h[i].meta.ETA.Before(h[j].meta.ETA) }
func (h heldTasks) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for package heap.
func (h *heldTasks) Push(x any) { *h = append(*h, x.(*delivery)) }

// Pop is the other one.
func (h *heldTasks) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}

func (h *heldTasks) add(d *delivery) { heap.Push(h, d) }

// due takes out the next task whose time has come.
func (h *heldTasks) due(now time.Time) *delivery {
	if len(*h) == 0 || (*h)[0].meta.ETA.After(now) {
		return nil
	}
	return heap.Pop(h).(*delivery)
}
