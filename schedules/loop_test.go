package schedules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// What is sent and what is skipped after an hour in which no beat ran.
func TestCatchUpAfterAnHour(t *testing.T) {
	// Due at each full minute. The first beat decides one of them, the second
	// begins an hour later: sixty are missed, the newest of which is 40 s old.
	tests := map[string]string{
		"none":       "catch_up:60",
		"one":        "catch_up:59 fired:1",
		"all":        "fired:60",
		"all(10,2h)": "fired:10 catch_up:50",
		// Those that are older than the age are skipped, however many may be sent.
		"all(20,30m)": "catch_up:30 fired:20 catch_up:10",
	}
	for policy, want := range tests {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			e := printEvery("minute", time.Minute)
			var err error
			if e.CatchUp, err = ParseCatchUp(policy); err != nil {
				t.Fatal(err)
			}
			w.put(e)
			clock := clockwork.NewFakeClockAt(time.Now().Add(-3 * time.Hour).Truncate(time.Minute).Add(40 * time.Second))
			first := w.run(Config{}, withClock(clock))
			w.decided("default", "minute", func(p position) bool { return !p.Last.IsZero() })
			clock.Advance(25 * time.Second)
			if o := first.next(t); o.Outcome != Fired {
				t.Errorf("on time: %+v", o)
			}
			first.end(t)

			clock.Advance(time.Hour + 35*time.Second)
			second := w.run(Config{}, withClock(clock))
			var outcomes []string
			for range 60 {
				outcomes = append(outcomes, second.next(t).Outcome)
			}
			second.end(t)
			if got := runsOf(outcomes); got != want {
				t.Errorf("decided %s, want %s", got, want)
			}
			fired, skipped := w.whole("minute", "default", time.Minute)
			if sent := strings.Count(strings.Join(outcomes, " "), Fired); fired != sent+1 || skipped != 60-sent {
				t.Errorf("stored %d, in the ledger as skipped %d, of %s", fired, skipped, want)
			}
		})
	}
}

// A large standstill with large bodies, in one batch.
func TestStandstillOfLargeEntries(t *testing.T) {
	w := newWorld(t)
	e := printEvery("large", time.Second)
	e.CatchUp = CatchUp{Policy: CatchUpAll, Max: mostCatchUpMax, MaxAge: time.Hour}
	e.Body = fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), 15<<10))
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

// Each batch leaves an entry of the ledger, which counts against the queue's
// limit. The janitor removes them, and beats go on from what it leaves.
func TestLedgersAreTrimmed(t *testing.T) {
	w := newWorld(t)
	s := w.put(printEvery("minute", time.Minute))
	clock := clockwork.NewFakeClockAt(time.Now().Add(-24 * time.Hour).Truncate(time.Minute))
	b, err := NewBeat(w.c, Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.store, b.clock = w.store, clock
	d, err := newDefinition(s.Entry, SourceKV, s.Revision, "test")
	if err != nil {
		t.Fatal(err)
	}
	const looks = 60
	slots := []*slot{b.newSlot(d), b.newSlot(d)} // two beats, one of which has not looked for long
	look := func(s *slot) {
		t.Helper()
		if r := b.look(t.Context(), s, false); r.err != nil {
			t.Fatal(r.err)
		}
		clock.Advance(time.Minute)
	}
	look(slots[1])
	for range looks - 1 {
		look(slots[0])
	}
	if kept := w.ledgerEntries("minute"); kept < looks/2 {
		t.Fatalf("the ledger has %d entries after %d batches: there is nothing to trim", kept, looks)
	}
	if err := engine.NewJanitor(w.c, engine.JanitorConfig{}).Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept := w.ledgerEntries("minute"); kept != 1 {
		t.Errorf("%d entries were left", kept)
	}
	look(slots[1])
	look(slots[0])
	if fired, _ := w.whole("minute", "default", time.Minute); fired != looks+1 {
		t.Errorf("%d were sent in %d minutes", fired, looks+1)
	}
}

// ledgerEntries is how many entries the ledger of an entry in the default queue
// has.
func (w *world) ledgerEntries(name string) uint64 {
	w.Helper()
	lane := wire.PlainLane("default")
	stream, err := w.c.JetStream().Stream(w.Context(), w.c.Namespace().TaskStream(lane))
	if err != nil {
		w.Fatal(err)
	}
	subject := w.c.Namespace().LedgerSubject(lane, "beat", name)
	info, err := stream.Info(w.Context(), jetstream.WithSubjectFilter(subject))
	if err != nil {
		w.Fatal(err)
	}
	return info.State.Subjects[subject]
}

// runsOf tells a list as a:3 b:1.
func runsOf(list []string) string {
	var out []string
	for i := 0; i < len(list); {
		n := 1
		for i+n < len(list) && list[i+n] == list[i] {
			n++
		}
		out = append(out, list[i]+":"+strconv.Itoa(n))
		i += n
	}
	return strings.Join(out, " ")
}

// works is a worker whose tasks take longer than their interval.
type works struct {
	mu        sync.Mutex
	now, most int
	begun     map[string]bool // ids
	revoked   chan string     // ids of the tasks whose handler was told
}

const longTask = 2500 * time.Millisecond

func (w *world) works(takes time.Duration) *works {
	w.Helper()
	seen := &works{begun: map[string]bool{}, revoked: make(chan string, 1000)}
	w.handle(func(ctx context.Context) error {
		info, _ := engine.InfoFrom(ctx)
		seen.begin(info.ID)
		defer seen.end()
		err := pause(ctx, takes)
		if errors.Is(err, engine.ErrRevoked) {
			seen.revoked <- info.ID
		}
		return err
	})
	return seen
}

// handle runs a worker until the test ends.
func (w *world) handle(f func(context.Context) error) {
	w.Helper()
	worker := engine.NewWorker(w.client(), engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 32}}, Grace: time.Second})
	engine.HandleRaw(worker, "print", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		return []byte("null"), f(ctx)
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("worker: %v", err)
		}
	})
}

func (s *works) begin(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[id] = true
	s.now++
	s.most = max(s.most, s.now)
}

func (s *works) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
}

func (s *works) hasBegun(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun[id]
}

// atOnce is how many tasks ran together at most.
func (s *works) atOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Tasks that take longer than the interval of their entry, with a worker.
func TestOverlapOfLongTasks(t *testing.T) {
	start := func(t *testing.T, policy Overlap, takes time.Duration) (*world, *works, *running) {
		t.Helper()
		t.Parallel()
		w := newWorld(t)
		seen := w.works(takes)
		e := printEvery("long", time.Second)
		e.Overlap = policy
		w.put(e)
		return w, seen, w.run(Config{})
	}
	t.Run("queue", func(t *testing.T) {
		w, seen, b := start(t, OverlapQueue, longTask)
		w.decided("default", "long", func(p position) bool { return p.Counts[Fired] >= 5 && seen.atOnce() >= 2 })
		b.end(t)
		if p := w.position("default", "long"); p.Counts[SkipOverlap] > 0 {
			t.Errorf("counts %v, %d at once", p.Counts, seen.atOnce())
		}
	})
	t.Run("skip", func(t *testing.T) {
		w, seen, b := start(t, OverlapSkip, longTask)
		w.decided("default", "long", func(p position) bool { return p.Counts[Fired] >= 3 && p.Counts[SkipOverlap] >= 4 })
		b.end(t)
		if p := w.position("default", "long"); seen.atOnce() != 1 {
			t.Errorf("counts %v, %d at once", p.Counts, seen.atOnce())
		}
	})
	t.Run("replace", func(t *testing.T) {
		w, seen, b := start(t, OverlapReplace, time.Hour)
		var fired []string
		told := map[string]bool{}
		hear := func() {
			t.Helper()
			select {
			case o := <-b.heard:
				if o.Outcome == Fired {
					fired = append(fired, o.ID)
				}
			case id := <-seen.revoked:
				told[id] = true
			case <-time.After(patience):
				t.Fatalf("of %v only the handlers of %v were told", fired, told)
			}
		}
		for len(told) < 3 || len(fired) < 4 {
			hear()
		}
		for _, id := range fired[:len(fired)-1] {
			r := w.record(id, func(r *engine.Record) bool { return r.State.Terminal() })
			if r.State != wire.StateRevoked {
				t.Errorf("the one before is %s, want it revoked", r.State)
			}
			for seen.hasBegun(id) && !told[id] { // one that was replaced at once never begins
				hear()
			}
		}
	})
}

// record waits for the record of a task in the default queue.
func (w *world) record(id string, ok func(*engine.Record) bool) *engine.Record {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		r, err := w.c.Record(w.Context(), "default", id)
		if err == nil && ok(r) {
			return r
		}
		if time.Now().After(deadline) {
			w.Fatalf("task %s: the record stays %+v, %v", id, r, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// A change in the bucket, made by hand, is obeyed a second later. A machine that
// does something else meanwhile gets more tries; what was not heard of would be
// obeyed much later than that.
func TestChangeTakesEffect(t *testing.T) {
	w := newWorld(t)
	b := w.run(Config{})
	for range 5 {
		w.put(printEvery("ping", time.Second))
		for o := b.next(t); o.Task != "print"; o = b.next(t) {
		}
		late, took := w.change(b)
		t.Logf("the first by the new definition was due %s after the change, the removed entry was closed after %s", late, took)
		if late > 10*time.Second || took > 10*time.Second {
			break
		}
		if late <= 2*time.Second && took <= time.Second {
			return
		}
	}
	t.Error("must be at most 2s and 1s")
}

// change has the entry ping changed and removed by hand, and tells how long each
// took.
func (w *world) change(b *running) (late, took time.Duration) {
	w.Helper()
	changed := time.Now()
	if _, err := w.store.kv.PutString(w.Context(), "ping", `{"every":"1s","task":"echo"}`); err != nil {
		w.Fatal(err)
	}
	o := b.next(w.T)
	for ; o.Task != "echo"; o = b.next(w.T) {
	}
	if err := w.store.kv.Delete(w.Context(), "ping"); err != nil {
		w.Fatal(err)
	}
	removed := time.Now()
	w.decided("default", "ping", func(p position) bool { return p.Closed == closedRemoved })
	return o.Nominal.Sub(changed), time.Since(removed)
}

// set is a clock that somebody sets.
type set struct {
	clockwork.Clock
	mu *sync.Mutex
	by *time.Duration
}

func newSet() set { return set{clockwork.NewRealClock(), new(sync.Mutex), new(time.Duration)} }

func (s set) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Clock.Now().Add(*s.by)
}

func (s set) put(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.by = by
}

// The clock of the machine is set while a beat runs: forward, and nothing fires
// before its time; back, and nothing fires again.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("ping", time.Second))
	clock := newSet()
	b := w.run(Config{}, withClock(clock))
	b.next(t)
	for _, by := range []time.Duration{time.Hour, -time.Hour, 0} {
		clock.put(by)
		switch {
		case by < 0:
			// Nothing is due until the clock has come to where it was: another
			// entry, which is new, tells that the beat goes on.
			w.put(printEvery("other", time.Second))
			for range 2 {
				for o := b.next(t); o.Entry != "other"; o = b.next(t) {
				}
			}
		default:
			o := b.next(t)
			for ; o.Entry != "ping"; o = b.next(t) {
			}
			if early := time.Until(o.Nominal); early > ahead+500*time.Millisecond {
				t.Errorf("clock set by %s: fired %s before its time", by, early)
			}
		}
	}
	for range 3 {
		b.next(t)
	}
	b.end(t)
	w.whole("ping", "default", time.Second)
}
