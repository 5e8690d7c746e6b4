package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// TestStrictNeverPicksLowerWhileHigherHas: whatever the lanes have, and
// whatever is known of them.
func TestStrictNeverPicksLowerWhileHigherHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "lanes")
		here := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "here")       // has a task in this worker
		waiting := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "waiting") // has one at the broker
		asked := rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "asked")     // and was asked long enough ago
		quiet := func(i int) bool { return asked[i] && !waiting[i] }     // an answer would be here
		got := pickStrict(n, func(i int) bool { return here[i] }, quiet)
		for i := range n {
			if got > i && (here[i] || waiting[i]) {
				t.Fatalf("lane %d before lane %d, which has tasks", got, i)
			}
		}
		if got >= 0 && !here[got] {
			t.Fatalf("lane %d has nothing", got)
		}
		if got < 0 && slices.Contains(here, true) && !slices.ContainsFunc(asked[:slices.Index(here, true)], func(a bool) bool { return !a }) && !slices.Contains(waiting, true) {
			t.Fatal("nothing is picked although all above is known to be empty")
		}
	})
}

// TestWeightedKeepsTheShares: over any stretch in which the same lanes have
// tasks, each has its share but for one pick, and none waits longer than its
// share allows.
func TestWeightedKeepsTheShares(t *testing.T) {
	lanes := Queue{Name: "q", Priorities: []wire.Priority{wire.PriorityHigh, wire.PriorityLow}}.ranked()
	rapid.Check(t, func(t *rapid.T) {
		c := newChooser(lanes)
		for range rapid.IntRange(1, 5).Draw(t, "stretches") {
			has := rapid.SliceOfN(rapid.Bool(), 3, 3).Draw(t, "has")
			total := 0
			for i, h := range has {
				if h {
					total += c.weights[i]
				}
			}
			picks := rapid.IntRange(1, 60).Draw(t, "picks")
			counts := make([]int, 3)
			for range picks {
				got := c.pick(func(i int) bool { return has[i] }, none)
				if total == 0 {
					if got != -1 {
						t.Fatalf("picked %d of nothing", got)
					}
					continue
				}
				if got < 0 || !has[got] {
					t.Fatalf("picked %d, which has nothing", got)
				}
				counts[got]++
			}
			for i, h := range has {
				if !h {
					continue
				}
				// What was earned before the stretch may shift it by one cycle at most.
				least := picks*c.weights[i]/total - 1 - c.weights[i]
				if counts[i] < least {
					t.Fatalf("lane %d had %d of %d picks, its share is %d of %d", i, counts[i], picks, c.weights[i], total)
				}
			}
		}
	})
	c := newChooser(lanes)
	counts := make([]int, 3)
	for range 1000 {
		counts[c.pick(func(int) bool { return true }, none)]++
	}
	if !slices.Equal(counts, []int{600, 300, 100}) {
		t.Errorf("of 1000 picks %v", counts)
	}
}

// none has anything.
func none(int) bool { return false }

// TestWeightedPaysWhatIsOnItsWay: a lane whose tasks are late to arrive has its
// share all the same, once they have come.
func TestWeightedPaysWhatIsOnItsWay(t *testing.T) {
	c := newChooser(Queue{Name: "q", Priorities: []wire.Priority{wire.PriorityHigh, wire.PriorityLow}}.ranked())
	may := func(int) bool { return true }
	if c.pick(none, may) != -1 {
		t.Fatal("picked of nothing")
	}
	counts := make([]int, 3)
	for n := range 100 {
		counts[c.pick(func(i int) bool { return i == 2 || n >= 10 }, may)]++
	}
	if !slices.Equal(counts, []int{60, 30, 10}) {
		t.Errorf("of 100 picks %v", counts)
	}
}

func TestHeldTasksComeOutInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1_800_000_000, 0)
		var held heldTasks
		var model []time.Duration
		for _, ahead := range rapid.SliceOf(rapid.Int64Range(0, 1000)).Draw(t, "ahead") {
			held.add(&delivery{meta: wire.Meta{ETA: start.Add(time.Duration(ahead))}})
			model = append(model, time.Duration(ahead))
		}
		slices.Sort(model)
		clock := start
		for len(model) > 0 {
			clock = clock.Add(time.Duration(rapid.Int64Range(0, 300).Draw(t, "passes")))
			for len(model) > 0 && !start.Add(model[0]).After(clock) {
				if d := held.due(clock); d == nil || !d.meta.ETA.Equal(start.Add(model[0])) {
					t.Fatalf("due %v, want %s", d, model[0])
				}
				model = model[1:]
			}
			if d := held.due(clock); d != nil {
				t.Fatalf("%s before its time", d.meta.ETA.Sub(clock))
			}
		}
	})
}

// lanesWorld is a queue with both lanes and one worker of one slot that notes
// which lane each task came by.
type lanesWorld struct {
	t       *testing.T
	c       *Client
	w       *Worker
	mu      sync.Mutex
	order   []wire.Priority
	began   chan struct{}
	release chan struct{}
}

func newLanesWorld(t *testing.T) *lanesWorld {
	t.Helper()
	broker := enginetest.Start(t)
	both := []wire.Priority{wire.PriorityHigh, wire.PriorityLow}
	broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "mail", Priorities: both}}})
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &lanesWorld{t: t, c: c, began: make(chan struct{}, 1000), release: make(chan struct{})}
}

func (l *lanesWorld) send(p wire.Priority, opts ...SendOption) *Result[[]byte] {
	l.t.Helper()
	r, err := l.c.SendRaw(l.t.Context(), "mail", "note", []byte(`1`), append(opts, WithPriority(p))...)
	if err != nil {
		l.t.Fatal(err)
	}
	return &Result[[]byte]{c: l.c, queue: r.queue, id: r.id}
}

func (l *lanesWorld) work(poll Poll) {
	l.t.Helper()
	w := NewWorker(l.c, WorkerConfig{Queues: []Queue{{
		Name: "mail", Slots: 1, Poll: poll, Priorities: []wire.Priority{wire.PriorityHigh, wire.PriorityLow},
	}}})
	HandleRaw(w, "note", func(ctx context.Context, m *Message) ([]byte, error) {
		l.began <- struct{}{}
		select {
		case <-l.release:
		case <-ctx.Done():
		}
		lane, _, _ := wire.ParseFreeID(m.Info.ID)
		l.mu.Lock()
		l.order = append(l.order, lane.Priority)
		l.mu.Unlock()
		return nil, nil
	})
	l.w = w
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	})
}

func (l *lanesWorld) wait(results []*Result[[]byte]) []wire.Priority {
	l.t.Helper()
	for _, r := range results {
		if _, err := l.c.Wait(l.t.Context(), "mail", r.ID()); err != nil {
			l.t.Fatal(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

func TestStrictLanes(t *testing.T) {
	l := newLanesWorld(t)
	first := l.send(wire.PriorityHigh)
	l.work(PollStrict)
	<-l.began
	// What a busy machine is slow to bring is no lane that has nothing.
	l.until(func(p *pool) bool { p.quietAfter = time.Second; return true })
	var all []*Result[[]byte]
	for range 20 {
		for _, p := range []wire.Priority{wire.PriorityLow, wire.PriorityNone, wire.PriorityHigh} {
			all = append(all, l.send(p))
		}
	}
	if want := "mail_low-1"; all[0].ID() != want {
		t.Errorf("id %s, want %s", all[0].ID(), want)
	}
	close(l.release)
	got := l.wait(append(all, first))[1:]
	want := slices.Concat(slices.Repeat([]wire.Priority{wire.PriorityHigh}, 20), slices.Repeat([]wire.Priority{wire.PriorityNone}, 20), slices.Repeat([]wire.Priority{wire.PriorityLow}, 20))
	if !slices.Equal(got, want) {
		t.Errorf("order %q", got)
	}
	r, err := all[0].Record(t.Context())
	if err != nil || r.Queue != "mail" || r.Priority != wire.PriorityLow {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestUrgentTaskOvertakes: a task of the high lane that comes while the slot is
// used runs before those of lower lanes that came earlier.
func TestUrgentTaskOvertakes(t *testing.T) {
	l := newLanesWorld(t)
	all := []*Result[[]byte]{l.send(wire.PriorityLow), l.send(wire.PriorityLow), l.send(wire.PriorityLow)}
	l.work(PollStrict)
	<-l.began
	all = append(all, l.send(wire.PriorityHigh), l.send(wire.PriorityNone))
	// What has been asked for comes, to wait for the slot; the rest is asked for
	// when it is free, the more urgent lane first.
	l.until(arrived)
	close(l.release)
	want := []wire.Priority{wire.PriorityLow, wire.PriorityHigh, wire.PriorityNone, wire.PriorityLow, wire.PriorityLow}
	if got := l.wait(all); !slices.Equal(got, want) {
		t.Errorf("order %q", got)
	}
}

// arrived reports whether no lane waits for the first of what it has asked for.
func arrived(p *pool) bool {
	for _, ln := range p.lanes {
		if len(ln.ready) == 0 && ln.plain.outstanding() > 0 {
			return false
		}
	}
	return true
}

// until waits for what is said of the worker's pool.
func (l *lanesWorld) until(holds func(*pool) bool) {
	l.t.Helper()
	p := (*l.w.vitals.pools.Load())[0]
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		is := holds(p)
		p.mu.Unlock()
		if is {
			return
		}
		select {
		case <-tick.C:
		case <-l.t.Context().Done():
			l.t.Fatal(context.Cause(l.t.Context()))
		}
	}
}

func TestWeightedLanesStarveNobody(t *testing.T) {
	l := newLanesWorld(t)
	var all []*Result[[]byte]
	for range 100 {
		all = append(all, l.send(wire.PriorityHigh), l.send(wire.PriorityNone), l.send(wire.PriorityLow))
	}
	l.work(PollWeighted)
	for range 120 {
		<-l.began
		l.until(arrived)
		l.release <- struct{}{}
	}
	close(l.release)
	got := l.wait(all)
	counts := map[wire.Priority]int{}
	// The first one runs while the other lanes' tasks are still on their way.
	for _, p := range got[1:101] {
		counts[p]++
	}
	for p, share := range map[wire.Priority]int{wire.PriorityHigh: 60, wire.PriorityNone: 30, wire.PriorityLow: 10} {
		if n := counts[p]; n < share-3 || n > share+3 {
			t.Errorf("lane %q had %d of 100, its share is %d", p, n, share)
		}
	}
}

func TestLanesAndTime(t *testing.T) {
	t.Parallel()
	l := newLanesWorld(t)
	close(l.release)
	ctx := t.Context()
	delayed := l.send(wire.PriorityHigh, WithCountdown(5*time.Second), WithID("job-1"))
	gone := l.send(wire.PriorityLow, WithCountdown(time.Hour))
	waiting := l.send(wire.PriorityHigh, WithID("job-2"))
	if r, err := l.c.Lookup(ctx, "mail", "job-1"); err != nil || r.State != wire.StateScheduled || r.Priority != wire.PriorityHigh {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := l.c.SendRaw(ctx, "mail", "note", []byte(`1`), WithCountdown(time.Hour), WithID("job-2")); !errors.Is(err, ErrExists) {
		t.Errorf("the id waits in another lane: %v", err)
	}
	if r, err := l.c.Cancel(ctx, "mail", gone.ID()); err != nil || r.State != wire.StateRevoked {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := l.c.Cancel(ctx, "mail", waiting.ID()); err != nil || r.State != wire.StateRevoked {
		t.Errorf("%+v, %v", r, err)
	}
	status, err := l.c.QueueStatus(ctx, "mail")
	if err != nil || status.Later != 1 {
		t.Errorf("%+v, %v", status, err)
	}
	l.work(PollStrict)
	if r, err := l.c.Wait(ctx, "mail", delayed.ID()); err != nil || r.State != wire.StateSucceeded {
		t.Errorf("%+v, %v", r, err)
	}
	if queues, err := l.c.Queues(ctx); err != nil || !slices.Equal(queues, []string{"mail"}) {
		t.Errorf("%q, %v", queues, err)
	}
}

func TestLanesAreThoseOfTheTopology(t *testing.T) {
	cfg := WorkerConfig{
		Queues:   []Queue{{Name: "mail"}, {Name: "plain"}},
		Topology: topology.Config{Queues: []topology.Queue{{Name: "mail", Priorities: []wire.Priority{wire.PriorityLow}}}},
	}.withDefaults()
	if got := cfg.Queues[0].ranked(); len(got) != 2 || got[0].String() != "mail" || got[1].String() != "mail_low" {
		t.Errorf("%v", got)
	}
	if got := cfg.Queues[1].ranked(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestPollIsChecked(t *testing.T) {
	err := WorkerConfig{Queues: []Queue{{Name: "mail", Slots: 1, Poll: "fair"}}}.withDefaults().validate()
	if err == nil || err.Error() != `queues.mail.poll must be strict or weighted, got "fair"` {
		t.Error(err)
	}
}
