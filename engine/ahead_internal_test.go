package engine

import (
	"testing"
	"time"

	"pelton/engine/wire"
)

// TestHowMuchIsAskedForAhead: the shorter the tasks, the more of them; none of
// those that would keep others from them.
func TestHowMuchIsAskedForAhead(t *testing.T) {
	w := NewWorker(&Client{}, WorkerConfig{})
	for _, tc := range []struct {
		pace  time.Duration
		slots int
		poll  Poll
		lanes bool
		want  int
	}{
		{pace: time.Minute, slots: 16, want: 0},
		{pace: time.Second, slots: 16, want: 0},
		{pace: 500 * time.Millisecond, slots: 16, want: 0},
		{pace: 50 * time.Millisecond, slots: 16, want: 16},
		{pace: 5 * time.Millisecond, slots: 16, want: 64},
		{pace: time.Millisecond, slots: 1, want: 20},
		{pace: 10 * time.Microsecond, slots: 16, want: 500},
		{pace: 0, slots: 1, want: 500},
		{pace: time.Microsecond, slots: 10_000, want: 500},
		{pace: time.Microsecond, slots: 2, poll: PollStrict, lanes: true, want: 500},
		{pace: time.Microsecond, slots: 2, poll: PollWeighted, lanes: true, want: 8},
	} {
		q := Queue{Name: "default", Slots: tc.slots, Poll: tc.poll}
		if tc.lanes {
			q.Priorities = []wire.Priority{wire.PriorityHigh}
		}
		p := newPool(w, q)
		p.pace = tc.pace
		if got := p.ahead(); got != tc.want {
			t.Errorf("%d slots, %s a task: %d, want %d", tc.slots, tc.pace, got, tc.want)
		}
	}
}
