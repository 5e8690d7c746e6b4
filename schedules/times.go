package schedules

import (
	"math"
	"time"
)

// times are the nominal times of an entry, as Unix seconds.
type times interface {
	// next is the first one after a time; false where there is none.
	next(after int64) (int64, bool)
}

// once is a single time.
type once int64

func (o once) next(after int64) (int64, bool) { return int64(o), int64(o) > after }

// interval is anchor + k × every, k ≥ 0.
type interval struct{ anchor, every int64 }

func (i interval) next(after int64) (int64, bool) {
	if after < i.anchor {
		return i.anchor, true
	}
	return i.anchor + ((after-i.anchor)/i.every+1)*i.every, true
}

// wallClock is a timetable by the clock of a zone.
type wallClock struct {
	timetable
	zone *time.Location
}

const (
	// farthest is how far ahead a wall clock is searched. The rarest line that is
	// ever due, a 29 February on a given day of the week, leaves 40 years out.
	farthest = 100 * 366 * daySeconds
	// apart is more than any two clocks on earth are apart, and more than any was
	// put back.
	apart = 26 * 60 * 60
)

func (c *wallClock) next(after int64) (int64, bool) {
	if c.fixedHour {
		return c.nextFixed(after)
	}
	return c.nextShown(after)
}

// nextFixed is when the clock first shows the next wall-clock time, or a later
// one.
func (c *wallClock) nextFixed(after int64) (int64, bool) {
	wall, ok := c.nextWall(c.latest(after), after+farthest)
	if !ok {
		return 0, false
	}
	return c.reach(wall, after+1), true
}

// nextShown is when the clock shows a wall-clock time, whether or not it has
// done so before.
func (c *wallClock) nextShown(after int64) (int64, bool) {
	last := after + farthest
	for t := after + 1; t <= last; {
		offset, _, end := c.period(t)
		if wall, ok := c.nextWall(t+offset-1, min(end-1, last)+offset); ok {
			return wall - offset, true
		}
		t = end
	}
	return 0, false
}

// latest is the latest wall-clock time that has been shown up to t: after the
// clock was put back, that is more than it shows.
func (c *wallClock) latest(t int64) int64 {
	offset, start, _ := c.period(t)
	latest := t + offset
	for start > t-apart {
		before := start - 1
		offset, start, _ = c.period(before)
		latest = max(latest, before+offset)
	}
	return latest
}

// reach is the first moment from one on at which the clock shows a wall-clock
// time or a later one.
func (c *wallClock) reach(wall, from int64) int64 {
	for t := max(from, wall-apart); ; {
		offset, _, end := c.period(t)
		if at := max(t, wall-offset); at < end {
			return at
		}
		t = end
	}
}

// period is what the clock is ahead of UTC at a moment, and from when until
// when, exclusive, it is surely so. It may go on so: ZoneBounds ends a period at
// the end of each year, and in leap years at that of 30 December, also for
// moments of the 31st, for which the end of that day holds.
func (c *wallClock) period(t int64) (offset, start, end int64) {
	at := time.Unix(t, 0).In(c.zone)
	_, seconds := at.Zone()
	from, to := at.ZoneBounds()
	start, end = math.MinInt64, math.MaxInt64
	if !from.IsZero() {
		start = from.Unix()
	}
	if !to.IsZero() {
		end = to.Unix()
	}
	if end <= t {
		end = t - t%daySeconds + daySeconds
	}
	return int64(seconds), start, end
}
