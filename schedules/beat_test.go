package schedules

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestBeatSends(t *testing.T) {
	w := newWorld(t)
	e := every("ping", time.Second)
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
	if string(m.Data) != `{"message":"ping"}` || m.Header.Get("X-Of") != "test" || m.Header.Get("Pelton-Expires") != "1m0s" {
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
	w := newWorld(t)
	w.put(every("one", time.Second))
	w.put(every("two", 2*time.Second))
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
	w := newWorld(t)
	w.put(every("ping", time.Second))
	b := w.run(Config{}, withClock(skewed{clockwork.NewRealClock(), time.Hour}))
	o := b.next(t)
	b.log.has(t, "held back")
	if early := time.Until(o.Nominal); early > ahead+500*time.Millisecond {
		t.Errorf("fired %s before its time", early)
	}
}

func TestAddedChangedRemoved(t *testing.T) {
	w := newWorld(t)
	b := w.run(Config{})
	b.log.has(t, "beat started")
	w.put(every("ping", time.Second))
	b.next(t)

	e := every("ping", time.Second)
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
	w.put(every("other", time.Second))
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
	w.put(every("ping", time.Second))
	for o := b.next(t); o.Entry != "ping"; o = b.next(t) {
	}
	b.end(t)
	if p := w.position("default", "ping"); p.Closed != "" {
		t.Errorf("an entry that came back is %+v", p)
	}
}

// One entry is edited by hand into nonsense; the others go on.
func TestBadEntries(t *testing.T) {
	w := newWorld(t)
	b := w.run(Config{
		Entries: List(every("twice", time.Second), Entry{Name: "zero", Task: "print"}),
		Place:   func(name string) string { return "pelton.yaml, beat.entries." + name },
	})
	w.put(every("twice", time.Second))
	if _, err := w.store.kv.PutString(t.Context(), "broken", `{"every":`); err != nil {
		t.Fatal(err)
	}
	nowhere := every("nowhere", time.Second)
	nowhere.Queue = "nosuch"
	if _, err := w.store.Put(t.Context(), nowhere, true); !errors.Is(err, engine.ErrNoQueue) {
		t.Errorf("Put = %v", err)
	}
	value, err := nowhere.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.kv.Put(t.Context(), "nowhere", value); err != nil {
		t.Fatal(err)
	}
	w.put(every("good", time.Second))
	b.log.has(t, "entry is not run", "zero", "pelton.yaml, beat.entries.zero", "every")
	b.log.has(t, "entry is not run", "twice", "pelton.yaml, beat.entries.twice", "bucket PELTON_SCHEDULES, key twice")
	b.log.has(t, "entry is not run", "broken", "bucket PELTON_SCHEDULES, key broken")
	b.log.has(t, "entry is not run", "nowhere", "queue does not exist")
	for o := b.next(t); o.Entry != "good"; o = b.next(t) {
	}
	if !b.Health().Ready() {
		t.Errorf("health %+v", b.Health())
	}
}

// Nonsense that somebody has written into the bucket by hand is told of, each
// piece with its entry and its field, and the entry beside it goes on.
func TestHandEditedNonsense(t *testing.T) {
	tests := map[string]struct{ value, want string }{
		"seven-fields":   {`{"cron":"0 0 0 1 1 * 2030","task":"print"}`, "entry seven-fields: cron"},
		"minute-61":      {`{"cron":"61 * * * *","task":"print"}`, "entry minute-61: cron"},
		"february-31":    {`{"cron":"0 0 31 2 *","task":"print"}`, "entry february-31: cron"},
		"unknown-zone":   {`{"cron":"@daily","zone":"Mars/Olympus","task":"print"}`, "entry unknown-zone: zone"},
		"never":          {`{"every":"0s","task":"print"}`, "entry never: every"},
		"backwards":      {`{"every":"-1s","task":"print"}`, "entry backwards: every"},
		"ends-first":     {`{"every":"1s","start":"2030-01-02T00:00:00Z","end":"2030-01-01T00:00:00Z","task":"print"}`, "entry ends-first: end"},
		"body":           {`{"every":"1s","task":"print","body":hi}`, "entry body: not JSON at byte 37"},
		"default":        {`{"every":"1s","task":"print"}`, "entry default: queue"},
		"unknown-field":  {`{"every":"1s","task":"print","colour":"red"}`, "entry unknown-field: field"},
		"wrong-type":     {`{"every":1,"task":"print"}`, "entry wrong-type: every"},
		"twice":          {`{"every":"1s","every":"2s","task":"print"}`, "entry twice: field"},
		"not-an-object":  {`[1]`, "entry not-an-object: must be a JSON object"},
		"empty":          {``, "entry empty: "},
		"nosuch-queue":   {`{"every":"1s","task":"print","queue":"nosuch"}`, "entry nosuch-queue: queue"},
		"Upper":          {`{"every":"1s","task":"print"}`, "entry"},
		"dots.in.a.name": {`{"every":"1s","task":"print"}`, "entry"},
	}
	w := newWorld(t)
	w.put(every("good", time.Second))
	b := w.run(Config{})
	b.next(t)
	for key, test := range tests {
		if _, err := w.store.kv.PutString(t.Context(), key, test.value); err != nil {
			t.Fatal(err)
		}
	}
	for key, test := range tests {
		b.log.has(t, "entry is not run", "bucket PELTON_SCHEDULES, key "+key, test.want)
	}
	for range 2 {
		if o := b.next(t); o.Entry != "good" || o.Outcome != Fired {
			t.Errorf("decided %+v", o)
		}
	}
	if got := strings.Count(b.log.String(), "panic"); got > 0 {
		t.Errorf("log:\n%s", b.log)
	}
	// What is mended runs.
	w.put(every("minute-61", time.Second))
	for o := b.next(t); o.Entry != "minute-61"; o = b.next(t) {
	}
}

// How soon a beat goes by a change, from the call until the ledger says so.
func TestChangesTakeEffect(t *testing.T) {
	w := newWorld(t)
	b := w.run(Config{})
	b.log.has(t, "beat started")
	var took []time.Duration
	effect := func(change func() error, ok func(position) bool) {
		t.Helper()
		started := time.Now()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		w.decided("default", "ping", ok)
		took = append(took, time.Since(started))
	}
	for i := range 3 {
		var stored Stored
		effect(func() (err error) {
			stored, err = w.store.Put(t.Context(), every("ping", time.Hour), true)
			return err
		}, func(p position) bool { return p.Generation == stored.Revision && p.Closed == "" })
		effect(func() (err error) {
			stored, err = w.store.Put(t.Context(), every("ping", time.Minute+time.Duration(i)*time.Second), false)
			return err
		}, func(p position) bool { return p.Generation == stored.Revision })
		effect(func() (err error) {
			stored, err = w.store.Pause(t.Context(), "ping", true)
			return err
		}, func(p position) bool { return p.Generation == stored.Revision })
		effect(func() error { return w.store.Remove(t.Context(), "ping") }, func(p position) bool { return p.Closed == closedRemoved })
	}
	slices.Sort(took)
	t.Logf("%d changes took from %s to %s", len(took), took[0], took[len(took)-1])
	if median := took[len(took)/2]; median > time.Second {
		t.Errorf("half of the changes took more than %s", median)
	}
}

func TestTwoEntriesOfOneName(t *testing.T) {
	w := newWorld(t)
	_, err := NewBeat(w.c, Config{Entries: List(every("a", time.Second), every("a", time.Minute))})
	if !errors.Is(err, ErrTwice) {
		t.Errorf("NewBeat = %v", err)
	}
}

// What a ledger knew is not guessed.
func TestLedgerGone(t *testing.T) {
	w := newWorld(t)
	w.put(every("ping", time.Second))
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
	w.put(every("other", time.Second))
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
	w := newWorld(t)
	w.put(every("ping", time.Second))
	b := w.run(Config{})
	b.next(t)
	e := every("ping", time.Second)
	e.Queue = "mail"
	w.put(e)
	o := b.next(t)
	for ; o.Queue != "mail"; o = b.next(t) {
	}
	old := w.position("default", "ping")
	if old.Closed != closedMoved || !old.Last.Before(o.Nominal) {
		t.Errorf("the ledger left behind is %+v, first in the other queue %s", old, o.Nominal)
	}
	w.put(every("ping", time.Second))
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
	older := w.put(every("ping", time.Second))
	newer := w.put(every("ping", time.Hour))
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
			e := every("long", 10*time.Second)
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
	w := newWorld(t)
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "small", MaxPending: 3}}})
	e := every("ping", time.Second)
	e.Queue = "small"
	w.put(e)
	b := w.run(Config{})
	b.log.has(t, "entry is not run", "queue is full")
	stream, err := w.c.JetStream().Stream(t.Context(), "PELTON_TASKS_small")
	if err != nil {
		t.Fatal(err)
	}
	seen := w.sent("small")
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "small", MaxPending: 1000}}})
	_ = stream
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
	s := w.put(every("ping", time.Minute))
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
	again := w.put(every("ping", time.Minute))
	turn, err := w.keeper(again).look(t.Context(), time.Now(), false)
	if err != nil || len(turn.done) > 0 {
		t.Errorf("decided %+v, %v", turn.done, err)
	}
}
