package schedules_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pelton/schedules"
)

// The model knows no calendar, no zones and no search: it looks at a wall clock
// minute by minute, or second by second, and notes what it shows.

// face is what a wall clock shows.
type face struct{ second, minute, hour, day, month, weekday uint8 }

// tick is one look at a clock.
type tick struct {
	unix  int64
	shows face
	// passed is what the clock shows, or has left out, for the first time: all it
	// had ever shown was earlier. Nothing is, while it repeats itself.
	passed []face
}

// window is a clock looked at for a while.
type window struct {
	zone  string
	step  int64
	ticks []tick
}

func (w *window) from() int64 { return w.ticks[0].unix }
func (w *window) to() int64   { return w.ticks[len(w.ticks)-1].unix }

const modelDay = 24 * 60 * 60

// faceOf is a wall-clock time that is counted as if it were UTC.
func faceOf(wall int64) face {
	t := time.Unix(wall, 0).UTC()
	return face{uint8(t.Second()), uint8(t.Minute()), uint8(t.Hour()), uint8(t.Day()), uint8(t.Month()), uint8(t.Weekday())}
}

func wallOf(unix int64, zone *time.Location) int64 {
	t := time.Unix(unix, 0).In(zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC).Unix()
}

func newWindow(t *testing.T, name string, around time.Time, length, step int64) *window {
	t.Helper()
	zone, err := schedules.LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	from := around.Unix() - length/2
	from -= from % 60
	w := &window{zone: name, step: step}
	highest := wallOf(from-2*modelDay, zone)
	for unix := from - 2*modelDay; unix < from; unix += 60 {
		highest = max(highest, wallOf(unix, zone)+60-step)
	}
	for unix := from; unix < from+length; unix += step {
		wall := wallOf(unix, zone)
		one := tick{unix: unix, shows: faceOf(wall)}
		for highest < wall {
			highest += step
			one.passed = append(one.passed, faceOf(highest))
		}
		w.ticks = append(w.ticks, one)
	}
	return w
}

// changes are when the clock of a zone is put forward or back.
func changes(t *testing.T, name string, from, to time.Time) (out []time.Time) {
	t.Helper()
	zone, err := schedules.LoadZone(name)
	if err != nil {
		t.Fatal(err)
	}
	_, before := from.In(zone).Zone()
	for at := from; at.Before(to); at = at.Add(time.Hour) {
		if _, now := at.In(zone).Zone(); now != before {
			before = now
			out = append(out, at)
		}
	}
	return out
}

// lineField is a field of a cron line, as text and as the values it has.
type lineField struct {
	text  string
	has   [60]bool
	plain bool // neither * nor step
	star  bool
}

func (f lineField) String() string { return f.text }

// randomField draws a field that often holds the value like.
func randomField(r *rand.Rand, low, high, like int) lineField {
	f := lineField{plain: true}
	var items []string
	for range 1 + r.IntN(2)*r.IntN(3) {
		a := low + r.IntN(high-low+1)
		if r.IntN(3) > 0 {
			a = like
		}
		b := a + r.IntN(high-a+1)
		step := 1 + r.IntN(max(high, 1))
		if r.IntN(3) > 0 {
			step = min(step, 1+r.IntN(15))
		}
		var from, to int
		by := 1
		switch kind := r.IntN(10); {
		case kind < 2:
			items, from, to = append(items, "*"), low, high
		case kind < 4:
			items, from, to, by = append(items, "*/"+strconv.Itoa(step)), low, high, step
		case kind < 7:
			items, from, to = append(items, strconv.Itoa(a)), a, a
		case kind < 8:
			items, from, to = append(items, fmt.Sprintf("%d-%d", a, b)), a, b
		case kind < 9:
			items, from, to, by = append(items, fmt.Sprintf("%d-%d/%d", a, b, step)), a, b, step
		default:
			items, from, to, by = append(items, fmt.Sprintf("%02d/%d", a, step)), a, high, step
		}
		for v := from; v <= to; v += by {
			f.has[v] = true
		}
	}
	f.text = strings.Join(items, ",")
	f.plain = !strings.ContainsAny(f.text, "*/")
	f.star = strings.Contains(f.text, "*")
	return f
}

// always is a field without a restriction.
func always() lineField {
	f := lineField{text: "*", star: true}
	for i := range f.has {
		f.has[i] = true
	}
	return f
}

// line is a cron line, in the order of six fields.
type line struct {
	fields [6]lineField
	six    bool
}

func (l line) String() string {
	var texts []string
	for _, f := range l.fields[:] {
		texts = append(texts, f.text)
	}
	if !l.six {
		texts = texts[1:]
	}
	return strings.Join(texts, " ")
}

// randomLine draws a line that often holds the face like.
func randomLine(r *rand.Rand, six bool, like face) line {
	l := line{six: six}
	l.fields[0] = lineField{text: "0", plain: true}
	l.fields[0].has[0] = true
	if six {
		l.fields[0] = randomField(r, 0, 59, int(like.second))
	}
	l.fields[1] = randomField(r, 0, 59, int(like.minute))
	l.fields[2] = randomField(r, 0, 23, int(like.hour))
	l.fields[3], l.fields[4], l.fields[5] = always(), always(), always()
	if r.IntN(2) == 0 {
		l.fields[3] = randomField(r, 1, 31, int(like.day))
	}
	if r.IntN(4) == 0 {
		l.fields[4] = randomField(r, 1, 12, int(like.month))
	}
	if r.IntN(3) == 0 {
		l.fields[5] = randomField(r, 0, 6, int(like.weekday))
	}
	return l
}

func (l *line) matches(f face) bool {
	at := &l.fields
	if !at[0].has[f.second] || !at[1].has[f.minute] || !at[2].has[f.hour] || !at[4].has[f.month] {
		return false
	}
	day, weekday := at[3].has[f.day], at[5].has[f.weekday]
	if at[3].star || at[5].star {
		return day && weekday
	}
	return day || weekday
}

// due reports whether a line is due at a tick.
func (l *line) due(at *tick, fixed bool) bool {
	if !fixed {
		return l.matches(at.shows)
	}
	return slices.ContainsFunc(at.passed, l.matches)
}
