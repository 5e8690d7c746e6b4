package schedules

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestBeatSends(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := printEvery("ping", time.Second)
	e.Body, e.Header, e.Expires = []byte(`{"message":"ping"}`), map[string]string{"X-Of": "test"}, time.Minute
	b := w.run(Config{Entries: List(e)})
	first := b.next(t)
	for range 2 {
		b.next(t)
	}
	b.end(t)
	if first.Outcome != Fired || first.ID != OccurrenceID("ping", first.Nominal) {
		t.Errorf("first %+v", first)
	}
	m := w.message("default", "print", first.ID)
	if string(m.Data) != `{"message":"ping"}` || m.Header.Get("X-Of") != "test" {
		t.Errorf("body %s, headers %v", m.Data, m.Header)
	}
	if got, want := m.Header.Get("Pelton-Origin"), "beat:ping@"+first.Nominal.UTC().Format(time.RFC3339); got != want {
		t.Errorf("origin %q, want %q", got, want)
	}
	if fired, skipped := w.whole("ping", "default", time.Second); fired < 3 || skipped > 0 {
		t.Errorf("fired %d, skipped %d", fired, skipped)
	}
}

// Three beats whose clocks differ by four seconds.
func TestThreeBeats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("one", time.Second))
	w.put(printEvery("two", 2*time.Second))
	var beats []*running
	for _, by := range []time.Duration{-2 * time.Second, 0, 2 * time.Second} {
		beats = append(beats, w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), by})))
	}
	w.decided("default", "one", func(p position) bool { return p.Counts[Fired] >= 6 })
	w.decided("default", "two", func(p position) bool { return p.Counts[Fired] >= 4 })
	for _, b := range beats {
		b.end(t)
	}
	w.whole("one", "default", time.Second)
	w.whole("two", "default", 2*time.Second)
}

// A machine whose clock is an hour before the broker's.
func TestClockAheadIsHeldBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("ping", time.Second))
	b := w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), time.Hour}))
	o := b.next(t)
	b.log.has(t, "held back")
	if early := time.Until(o.Nominal); early > ahead+500*time.Millisecond {
		t.Errorf("fired %s before its time", early)
	}
}

// One whose clock is an hour slow sends late, and says why.
func TestClockBehindIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), -time.Hour}))
	b.log.has(t, "behind the broker's", "by=")
}

func TestAddedChangedRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.run(Config{})
	b.log.has(t, "beat started")
	w.put(printEvery("ping", time.Second))
	b.next(t)

	e := printEvery("ping", time.Second)
	e.Task = "echo"
	w.put(e)
	for o := b.next(t); o.Task != "echo"; o = b.next(t) {
	}
	if _, err := w.store.Pause(t.Context(), "ping", true); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Remove(t.Context(), "ping"); err != nil {
		t.Fatal(err)
	}
	p := w.decided("default", "ping", func(p position) bool { return p.Closed == closedRemoved })
	w.put(printEvery("other", time.Second))
	for range 3 {
		for o := b.next(t); o.Entry != "other"; o = b.next(t) {
		}
	}
	if now := w.position("default", "ping"); !now.Last.Equal(p.Last) {
		t.Errorf("a removed entry went on from %s to %s", p.Last, now.Last)
	}
	if err := w.store.Remove(t.Context(), "ping"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("second Remove = %v", err)
	}
	w.put(printEvery("ping", time.Second))
	for o := b.next(t); o.Entry != "ping"; o = b.next(t) {
	}
	b.end(t)
	if p := w.position("default", "ping"); p.Closed != "" {
		t.Errorf("an entry that came back is %+v", p)
	}
}

// One entry is edited by hand into nonsense; the others go on.
func TestBadEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.run(Config{
		Entries: List(printEvery("twice", time.Second), Entry{Name: "zero", Task: "print"}),
		Place:   func(name string) string { return "pelton.yaml, beat.entries." + name },
	})
	w.put(printEvery("twice", time.Second))
	if _, err := w.store.kv.PutString(t.Context(), "broken", `{"every":`); err != nil {
		t.Fatal(err)
	}
	nowhere := printEvery("lost", time.Second)
	nowhere.Queue = "nowhere"
	if _, err := w.store.Put(t.Context(), nowhere, true); !errors.Is(err, engine.ErrNoQueue) {
		t.Errorf("Put = %v", err)
	}
	value, err := json.Marshal(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.kv.Put(t.Context(), "lost", value); err != nil {
		t.Fatal(err)
	}
	w.put(printEvery("good", time.Second))
	b.log.has(t, "entry is not run", "zero", "pelton.yaml, beat.entries.zero", "every")
	b.log.has(t, "entry is not run", "twice", "pelton.yaml, beat.entries.twice", "bucket PELTON_SCHEDULES, key twice")
	b.log.has(t, "entry is not run", "broken", "bucket PELTON_SCHEDULES, key broken")
	b.log.has(t, "entry is not run", "lost", "nowhere", "queue does not exist")
	for o := b.next(t); o.Entry != "good"; o = b.next(t) {
	}
	if !b.Health().Ready() {
		t.Errorf("health %+v", b.Health())
	}
}

func TestTwoEntriesOfOneName(t *testing.T) {
	w := newWorld(t)
	_, err := NewBeat(w.c, Config{Entries: List(printEvery("a", time.Second), printEvery("a", time.Minute))})
	if !errors.Is(err, ErrTwice) {
		t.Errorf("NewBeat = %v", err)
	}
}

// What a ledger knew is not guessed.
func TestLedgerGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("ping", time.Second))
	b := w.run(Config{})
	b.next(t)
	b.end(t)
	stream, err := w.c.JetStream().Stream(t.Context(), "PELTON_TASKS_default")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.put(printEvery("other", time.Second))
	b = w.run(Config{})
	b.log.has(t, "entry is not run", "ping", "the ledger has gone", "pelton schedule resume ping --anew")
	if o := b.next(t); o.Entry != "other" {
		t.Errorf("decided %+v", o)
	}
	if err := w.store.Forget(t.Context(), "default", "ping"); err != nil {
		t.Fatal(err)
	}
	for o := b.next(t); o.Entry != "ping"; o = b.next(t) {
	}
}

// An entry that goes to another queue leaves a ledger behind that nobody writes.
func TestMovedToAnotherQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put(printEvery("ping", time.Second))
	b := w.run(Config{})
	b.next(t)
	e := printEvery("ping", time.Second)
	e.Queue = "mail"
	w.put(e)
	o := b.next(t)
	for ; o.Queue != "mail"; o = b.next(t) {
	}
	old := w.position("default", "ping")
	if old.Closed != closedMoved || !old.Last.Before(o.Nominal) {
		t.Errorf("the ledger left behind is %+v, first in the other queue %s", old, o.Nominal)
	}
	w.put(printEvery("ping", time.Second))
	for o = b.next(t); o.Queue != "default"; o = b.next(t) {
	}
	b.end(t)
	sent := w.sent("default")
	for id := range w.sent("mail") {
		if sent[id] > 0 {
			t.Errorf("%s was sent to both queues", id)
		}
	}
}

// A beat that has not heard of a change does not write by the old definition.
func TestOlderDefinition(t *testing.T) {
	w := newWorld(t)
	older := w.put(printEvery("ping", time.Second))
	newer := w.put(printEvery("ping", time.Hour))
	w.seed(newer, time.Now())
	k := w.keeper(older)
	_, err := k.look(t.Context(), time.Now().Add(time.Minute), false)
	if !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), "entry ping") {
		t.Errorf("look = %v", err)
	}
	if n := len(w.sent("default")); n > 0 {
		t.Errorf("%d tasks were sent", n)
	}
}

// A beat whose zones are older than those that an entry goes by leaves it alone.
func TestOlderZones(t *testing.T) {
	w := newWorld(t)
	s := w.put(printEvery("ping", time.Second))
	k := w.keeper(s)
	if err := k.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := k.pos.clone()
	p.Zones = "2999a"
	if err := k.write(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	b := w.run(Config{})
	b.log.has(t, "entry is not run", "ping", "time zone data 2999a, this program has "+ZoneVersion())
	b.end(t)
	if n := len(w.sent("default")); n > 0 {
		t.Errorf("%d tasks were sent", n)
	}
}

// Two beats with different entries of one name in their files: the one that was
// started last wins, and the other says so.
func TestFilesDiffer(t *testing.T) {
	w := newWorld(t)
	older, newer := printEvery("ping", time.Second), printEvery("ping", time.Second)
	newer.Task = "echo"
	first := w.run(Config{Entries: List(older)})
	if o := first.next(t); o.Task != "print" {
		t.Errorf("decided %+v", o)
	}
	second := w.run(Config{Entries: List(newer)})
	if o := second.next(t); o.Task != "echo" {
		t.Errorf("decided %+v", o)
	}
	first.log.has(t, "entry is not run", "entry ping: another beat knows a newer definition")
	for range 2 {
		if o := second.next(t); o.Task != "echo" {
			t.Errorf("decided %+v", o)
		}
	}
	first.end(t)
	second.end(t)
	w.whole("ping", "default", time.Second)
}

// Jitter moves the time from which a task may run, and its expiry with it; the
// nominal time and the id stay.
func TestJitterMovesTheTask(t *testing.T) {
	w := newWorld(t)
	e := printEvery("ping", time.Minute)
	e.Jitter, e.Expires = 24*time.Hour, time.Minute
	s := w.put(e)
	nominal := time.Now().Truncate(time.Minute)
	w.seed(s, nominal.Add(-time.Second))
	k := w.keeper(s)
	if _, err := k.look(t.Context(), nominal, false); err != nil {
		t.Fatal(err)
	}
	by := k.def.schedule.JitterOf(nominal)
	h := w.message("default", "print", OccurrenceID("ping", nominal)).Header
	if got, want := h.Get("Pelton-Eta"), wire.FormatTime(nominal.Add(by)); got != want {
		t.Errorf("ETA %s, want %s", got, want)
	}
	if got, want := h.Get("Pelton-Expires"), (time.Minute + by).String(); got != want {
		t.Errorf("expires %s, want %s", got, want)
	}
	if got, want := h.Get("Pelton-Origin"), "beat:ping@"+nominal.UTC().Format(time.RFC3339); got != want {
		t.Errorf("origin %s, want %s", got, want)
	}
}

// A task that is sent late has no longer to begin than one that is sent in time:
// it is what runs outside of its hours that an expiry is for.
func TestExpiresFromWhenItWasDue(t *testing.T) {
	w := newWorld(t)
	nominal := time.Now().Truncate(time.Hour)
	for _, test := range []struct {
		name            string
		expires, jitter time.Duration
		late            time.Duration
		want            string
	}{
		{name: "in-time", expires: 10 * time.Minute, want: "10m0s"},
		{name: "late", expires: 10 * time.Minute, late: 4 * time.Minute, want: "6m0s"},
		{name: "too-late", expires: 10 * time.Minute, late: 20 * time.Minute, want: "0s"},
		{name: "longest", expires: wire.MaxDuration, jitter: mostJitter, want: wire.MaxDuration.String()},
	} {
		e := printEvery(test.name, time.Hour)
		e.Expires, e.Jitter = test.expires, test.jitter
		s := w.put(e)
		w.seed(s, nominal.Add(-time.Second))
		if _, err := w.keeper(s).look(t.Context(), nominal.Add(test.late), false); err != nil {
			t.Fatal(err)
		}
		m := w.message("default", "print", OccurrenceID(test.name, nominal))
		if got := m.Header.Get("Pelton-Expires"); got != test.want {
			t.Errorf("%s: expires %s, want %s", test.name, got, test.want)
		}
		if _, err := wire.ParseMeta(wire.Header(m.Header), m.Time); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// keeper is that of an entry, without a beat.
func (w *world) keeper(s Stored) *keeper {
	w.Helper()
	d, err := newDefinition(s.Entry, SourceKV, s.Revision, "test")
	if err != nil {
		w.Fatal(err)
	}
	b, err := NewBeat(w.c, Config{})
	if err != nil {
		w.Fatal(err)
	}
	b.store = w.store
	slot := b.newSlot(d)
	if slot.keeper == nil {
		w.Fatal(slot.told)
	}
	return slot.keeper
}

func TestOverlap(t *testing.T) {
	start := time.Now().Truncate(time.Second).Add(-time.Minute)
	tests := map[Overlap]struct {
		outcomes string
		revoked  bool
	}{
		OverlapQueue:   {outcomes: "fired fired"},
		OverlapSkip:    {outcomes: "fired overlap"},
		OverlapReplace: {outcomes: "fired fired", revoked: true},
	}
	for policy, test := range tests {
		t.Run(string(policy), func(t *testing.T) {
			w := newWorld(t)
			e := printEvery("long", 10*time.Second)
			e.Overlap = policy
			s := w.put(e)
			w.seed(s, start)
			k := w.keeper(s)
			var outcomes []string
			for range 2 {
				next, _ := k.def.schedule.Next(w.position("default", "long").Last)
				turn, err := k.look(t.Context(), next, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range turn.done {
					outcomes = append(outcomes, o.Outcome)
				}
			}
			if got := strings.Join(outcomes, " "); got != test.outcomes {
				t.Errorf("outcomes %q, want %q", got, test.outcomes)
			}
			first, _ := k.def.schedule.Next(start)
			r, err := w.c.Record(t.Context(), "default", OccurrenceID("long", first))
			if revoked := err == nil && r != nil && r.State == wire.StateRevoked; revoked != test.revoked {
				t.Errorf("record of the first %+v, %v", r, err)
			}
		})
	}
}

// A full queue holds an entry up, and loses none of it.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "small", MaxPending: 3}}})
	e := printEvery("ping", time.Second)
	e.Queue = "small"
	w.put(e)
	b := w.run(Config{})
	b.log.has(t, "entry is not run", "queue is full")
	seen := w.sent("small")
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "small", MaxPending: 1000}}})
	b.log.has(t, "entry runs again")
	b.next(t)
	b.end(t)
	if fired, _ := w.whole("ping", "small", time.Second); fired <= len(seen) {
		t.Errorf("fired %d", fired)
	}
}

// What was not there is not made up for: an entry that was removed while no beat
// ran comes back from now on.
func TestRemovedAndBack(t *testing.T) {
	w := newWorld(t)
	s := w.put(printEvery("ping", time.Minute))
	k := w.keeper(s)
	k.now = func() time.Time { return time.Now().Add(-time.Hour) }
	if err := k.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Remove(t.Context(), "ping"); err != nil {
		t.Fatal(err)
	}
	if err := w.store.End(t.Context(), "ping", s.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := w.keeper(s).look(t.Context(), time.Now(), false); !errors.Is(err, ErrOlder) {
		t.Errorf("a beat that has not heard of it: %v", err)
	}
	again := w.put(printEvery("ping", time.Minute))
	turn, err := w.keeper(again).look(t.Context(), time.Now(), false)
	if err != nil || len(turn.done) > 0 {
		t.Errorf("decided %+v, %v", turn.done, err)
	}
}

// An entry that was removed after it had gone to another queue does not come back
// with what was sent there, to whichever queue it comes.
func TestRemovedAfterAMove(t *testing.T) {
	for _, back := range []string{"default", "mail", "third"} {
		t.Run(back, func(t *testing.T) {
			w := newWorld(t)
			w.broker.Setup("third")
			at := time.Now().Truncate(time.Minute).Add(-3 * time.Hour)
			e := printEvery("ping", time.Minute)
			e.CatchUp = CatchUp{Policy: CatchUpAll}
			look := func(queue string, from, to time.Time) turn {
				t.Helper()
				e.Queue = queue
				k := w.marked(w.put(e))
				k.now = func() time.Time { return from }
				if err := k.adopt(t.Context()); err != nil {
					t.Fatal(err)
				}
				done, err := k.look(t.Context(), to, false)
				if err != nil {
					t.Fatal(err)
				}
				return done
			}
			look("default", at, at.Add(time.Hour))
			if n := len(look("mail", at.Add(time.Hour), at.Add(2*time.Hour)).done); n != 60 {
				t.Fatalf("%d were decided in the other queue", n)
			}
			s, err := w.store.Entry(t.Context(), "ping")
			if err == nil {
				err = w.store.Remove(t.Context(), "ping")
			}
			if err == nil {
				err = w.store.End(t.Context(), "ping", s.Revision)
			}
			if err != nil {
				t.Fatal(err)
			}
			if done := look(back, at.Add(3*time.Hour), at.Add(3*time.Hour)).done; len(done) > 0 {
				t.Errorf("%d were decided, the first %+v", len(done), done[0])
			}
		})
	}
}

// marked is the keeper of an entry that knows the queues the entry was in.
func (w *world) marked(s Stored) *keeper {
	w.Helper()
	k := w.keeper(s)
	queues, err := w.store.Queues(w.Context(), s.Entry.Name)
	if err != nil {
		w.Fatal(err)
	}
	k.others = func() []string { return without(queues, s.Entry.queue()) }
	return k
}

// What was due while an entry was paused stays skipped, also where no beat ran
// meanwhile.
func TestPausedThroughAStandstill(t *testing.T) {
	w := newWorld(t)
	e := printEvery("ping", time.Minute)
	e.Paused = true
	k := w.keeper(w.put(e))
	at := time.Now().Truncate(time.Minute).Add(-time.Hour)
	k.now = func() time.Time { return at }
	if err := k.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := w.store.Pause(t.Context(), "ping", false)
	if err == nil {
		err = w.store.Begin(t.Context(), s)
	}
	if err != nil {
		t.Fatal(err)
	}
	turn, err := w.keeper(s).look(t.Context(), time.Now(), false)
	if err != nil || len(turn.done) > 1 { // a minute may have begun meanwhile
		t.Errorf("decided %+v, %v", turn.done, err)
	}
	p := w.position("default", "ping")
	if n := p.Counts[SkipPaused]; n < 59 || n > 61 || p.Counts[SkipCatchUp] > 0 || !p.Spans[0].From.Equal(at.Add(time.Minute)) {
		t.Errorf("history %+v", p.Spans)
	}
}

// An entry begins by the broker's time, wherever the clock of the machine stands
// on which it is added.
func TestBeginByBrokersTime(t *testing.T) {
	for _, by := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			w := newWorld(t)
			before := time.Now()
			if err := w.store.begin(t.Context(), w.put(printEvery("ping", time.Minute)), skewed{clockwork.NewRealClock(), by}); err != nil {
				t.Fatal(err)
			}
			last := w.position("default", "ping").Last
			if last.Before(before.Add(-time.Second)) || last.After(time.Now().Add(time.Second)) {
				t.Errorf("begins at %s, want about %s", last, before)
			}
		})
	}
}
