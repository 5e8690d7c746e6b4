package schedules_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pelton/schedules"
)

var walkSeed = flag.Uint64("walk.seed", 0, "seed of the random walks; 0 draws one")

// walkZones are zones with something odd about them: changes by half an hour, by
// two, at midnight, at a minute past it, negative summer time, a day left out.
var walkZones = []string{
	"UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/St_Johns", "Africa/Casablanca",
	"Africa/Cairo", "Asia/Beirut", "Asia/Tehran", "Asia/Kathmandu", "Asia/Gaza", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham",
	"Antarctica/Troll", "Europe/Dublin", "Pacific/Kwajalein",
}

// walkMoments are looked at in every zone.
var walkMoments = []time.Time{
	time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC),
	time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC),
	time.Date(2099, 12, 31, 23, 0, 0, 0, time.UTC),
}

// walkWindows are windows around changes of clocks and the ends of years: first
// those by the minute, then those by the second.
func walkWindows(t *testing.T, r *rand.Rand) (minutes, seconds []*window) {
	t.Helper()
	for _, zone := range walkZones {
		moments := changes(t, zone, time.Date(1984, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		r.Shuffle(len(moments), func(i, j int) { moments[i], moments[j] = moments[j], moments[i] })
		moments = moments[:min(len(moments), 6)]
		for i, at := range append(moments, walkMoments...) {
			minutes = append(minutes, newWindow(t, zone, at, 50*3600, 60))
			if i < 2 {
				seconds = append(seconds, newWindow(t, zone, at, 3*3600, 1))
			}
		}
	}
	return minutes, seconds
}

// walk is one random entry and how time passes over it.
type walk struct {
	entry    schedules.Entry
	expected []int64
	from     time.Time
	asks     []time.Time
	limit    int
}

func (w *walk) String() string {
	text, _ := w.entry.MarshalJSON()
	return fmt.Sprintf("%s from %s, limit %d, asked at %v", text, w.from, w.limit, w.asks)
}

// newWalk draws an entry and works out, tick by tick, when it is due. With
// shown it takes every line for one without a fixed hour.
func newWalk(r *rand.Rand, win *window, shown bool) *walk {
	w := &walk{entry: schedules.Entry{Name: "walk", Task: "print"}, from: time.Unix(win.from()-1, 0), limit: 1 + r.IntN(60)}
	e := &w.entry
	if r.IntN(3) == 0 {
		e.Start = time.Unix(win.from()+r.Int64N(win.to()-win.from()), 0).UTC()
	}
	if r.IntN(4) == 0 {
		e.End = time.Unix(max(win.from()+r.Int64N(win.to()-win.from()), e.Start.Unix()), 0).UTC()
	}
	e.Paused = r.IntN(20) == 0
	switch r.IntN(4) {
	case 0:
		e.CatchUp.Policy = schedules.CatchUpNone
	case 1:
		e.CatchUp.Policy = schedules.CatchUpOne
	case 2:
		e.CatchUp = schedules.CatchUp{Policy: schedules.CatchUpAll, Max: 1 + r.IntN(100), MaxAge: time.Minute + time.Duration(r.IntN(100_000))*time.Second}
	}
	if r.IntN(5) == 0 {
		w.interval(r, win)
	} else {
		w.cron(r, win, shown)
	}
	last := win.from()
	for range r.IntN(12) {
		switch r.IntN(5) {
		case 0:
			last = win.from() + r.Int64N(win.to()-win.from()) // back, too
		default:
			last += r.Int64N(90 * win.step)
		}
		w.asks = append(w.asks, time.Unix(min(last, win.to()), r.Int64N(1e9)))
	}
	w.asks = append(w.asks, time.Unix(win.to(), 0))
	return w
}

func (w *walk) interval(r *rand.Rand, win *window) {
	w.entry.Every = time.Duration(win.step*(1+r.Int64N(400))) * time.Second
	anchor := int64(0)
	if !w.entry.Start.IsZero() {
		w.entry.Start = time.Unix(w.entry.Start.Unix()/win.step*win.step, 0).UTC()
		anchor = w.entry.Start.Unix()
		if !w.entry.End.IsZero() && w.entry.End.Before(w.entry.Start) {
			w.entry.End = w.entry.Start
		}
	}
	for _, at := range win.ticks {
		if (at.unix-anchor)%int64(w.entry.Every/time.Second) == 0 {
			w.expect(at.unix)
		}
	}
}

func (w *walk) cron(r *rand.Rand, win *window, shown bool) {
	l := randomLine(r, win.step == 1, win.ticks[r.IntN(len(win.ticks))].shows)
	w.entry.Cron, w.entry.Zone = l.String(), win.zone
	fixed := l.fields[2].plain && !shown
	for i := range win.ticks {
		if l.due(&win.ticks[i], fixed) {
			w.expect(win.ticks[i].unix)
		}
	}
}

// expect notes a nominal time that lies within the entry's bounds.
func (w *walk) expect(unix int64) {
	if !w.entry.Start.IsZero() && unix < w.entry.Start.Unix() || !w.entry.End.IsZero() && unix > w.entry.End.Unix() {
		return
	}
	w.expected = append(w.expected, unix)
}

// decision is what became of an occurrence.
type decision struct {
	nominal int64
	reason  string // empty: sent
}

// String is for the errors.
func (d decision) String() string {
	return time.Unix(d.nominal, 0).UTC().Format(time.RFC3339) + " " + d.reason
}

// run lets time pass, and says what was decided wrongly.
func (w *walk) run() error {
	s, err := w.entry.Compile()
	if err != nil {
		if len(w.expected) == 0 && strings.Contains(err.Error(), "must be due") {
			return nil
		}
		return err
	}
	after, decided := w.from, 0
	for _, now := range w.asks {
		upTo := decided
		for upTo < len(w.expected) && w.expected[upTo] <= now.Unix() {
			upTo++
		}
		want := w.decide(w.expected[decided:upTo], now)
		var got []decision
		for more := true; more; {
			d := s.Due(after, now, w.limit)
			got = append(got, merge(d)...)
			after, more = d.Last, d.More
			if more && len(d.Fire)+len(d.Skip) == 0 {
				return fmt.Errorf("asked at %s after %s: more, and nothing decided", now, after)
			}
		}
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || got[i] != want[i] {
				return fmt.Errorf("asked at %s: decision %d of %d, want %d: %v, want %v", now, i, len(got), len(want), got[i:min(i+1, len(got))], want[i:min(i+1, len(want))])
			}
		}
		decided = upTo
	}
	if decided != len(w.expected) {
		return fmt.Errorf("%d of %d decided", decided, len(w.expected))
	}
	return nil
}

// decide is what the policies say about what is pending.
func (w *walk) decide(pending []int64, now time.Time) (out []decision) {
	sent := 0
	for i, nominal := range pending {
		age := now.Sub(time.Unix(nominal, 0))
		reason := ""
		if age > 30*time.Second {
			switch w.entry.CatchUp.Policy {
			case schedules.CatchUpNone:
				reason = schedules.SkipCatchUp
			case schedules.CatchUpAll:
				if age > w.entry.CatchUp.MaxAge || sent == w.entry.CatchUp.Max {
					reason = schedules.SkipCatchUp
				} else {
					sent++
				}
			default:
				if i < len(pending)-1 {
					reason = schedules.SkipCatchUp
				}
			}
		}
		if w.entry.Paused {
			reason = schedules.SkipPaused
		}
		out = append(out, decision{nominal, reason})
	}
	return out
}

// merge puts what is sent and what is skipped in the order in which Due must
// have met them; what is out of order stays so.
func merge(d schedules.Due) (out []decision) {
	fire, skip := d.Fire, d.Skip
	for len(fire)+len(skip) > 0 {
		if len(skip) == 0 || len(fire) > 0 && fire[0].Before(skip[0].Nominal) {
			out, fire = append(out, decision{fire[0].Unix(), ""}), fire[1:]
		} else {
			out, skip = append(out, decision{skip[0].Nominal.Unix(), skip[0].Reason}), skip[1:]
		}
	}
	return out
}

func walker(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *walkSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with -walk.seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// walkMany walks, and reports the first that goes wrong.
func walkMany(t *testing.T, count int, shown bool) (int, error) {
	t.Helper()
	r := walker(t)
	minutes, seconds := walkWindows(t, r)
	due := 0
	for i := range count {
		windows := minutes
		if i%8 == 0 {
			windows = seconds
		}
		w := newWalk(r, windows[r.IntN(len(windows))], shown)
		due += len(w.expected)
		if err := w.run(); err != nil {
			return due, fmt.Errorf("walk %d: %s: %w", i, w, err)
		}
	}
	return due, nil
}

// TestWalks holds random entries, and random ways to ask for what is due, against
// a clock that is looked at tick by tick.
func TestWalks(t *testing.T) {
	t.Parallel()
	due, err := walkMany(t, walks, false)
	if err != nil {
		t.Fatal(err)
	}
	if due < walks*10 {
		t.Errorf("only %d occurrences in %d walks: they prove little", due, walks)
	}
}

// TestWalksNotice is the control: a model that goes by what the clock shows, for
// fixed hours too, must be found to differ.
func TestWalksNotice(t *testing.T) {
	t.Parallel()
	if _, err := walkMany(t, 20_000, true); err == nil {
		t.Error("a wrong model was not noticed")
	}
}

// TestManyYears holds days and months against a calendar gone through day by
// day, over leap years and a century that has none.
func TestManyYears(t *testing.T) {
	t.Parallel()
	r := walker(t)
	from, to := time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2110, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 1000 {
		l := randomLine(r, true, face{day: 29, month: 2, weekday: uint8(r.IntN(7))})
		clock := face{second: uint8(r.IntN(60)), minute: uint8(r.IntN(60)), hour: uint8(r.IntN(24))}
		for i, v := range []uint8{clock.second, clock.minute, clock.hour} {
			l.fields[i] = lineField{text: fmt.Sprint(v), plain: true}
			l.fields[i].has[v] = true
		}
		var want, got []int64
		for day := from; day.Before(to); day = day.AddDate(0, 0, 1) {
			at := day.Add(time.Duration(clock.hour)*time.Hour + time.Duration(clock.minute)*time.Minute + time.Duration(clock.second)*time.Second)
			if l.matches(faceOf(at.Unix())) {
				want = append(want, at.Unix())
			}
		}
		e := schedules.Entry{Name: "years", Task: "print", Cron: l.String()}
		s, err := e.Compile()
		if err != nil {
			if len(want) > 0 || !strings.Contains(err.Error(), "there is no such day") {
				t.Fatalf("%s: %v, and is due %d times", e.Cron, err, len(want))
			}
			continue
		}
		for at, ok := s.Next(from.Add(-time.Second)); ok && at.Before(to); at, ok = s.Next(at) {
			got = append(got, at.Unix())
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %d times, want %d", e.Cron, len(got), len(want))
		}
	}
}
