package schedules

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"time"

	"pelton/engine/wire"
)

// Schedule is an entry that was checked, ready to be asked for its times. It may
// be used by several goroutines at once.
type Schedule struct {
	times      times
	start, end int64 // Unix seconds, both inclusive
	entry      string
	jitter     time.Duration
	catchUp    CatchUp
	paused     bool
}

// Nominal times lie within the years that RFC 3339 can say.
const (
	firstNominal = 0
	lastNominal  = 253402300799
)

// Next is the first nominal time after a time; false where there is none any
// more. It is told of as UTC.
func (s *Schedule) Next(after time.Time) (time.Time, bool) {
	from := max(after.Unix(), s.start-1)
	if from >= s.end {
		return time.Time{}, false
	}
	t, ok := s.times.next(from)
	if !ok || t > s.end {
		return time.Time{}, false
	}
	return time.Unix(t, 0).UTC(), true
}

// Due is what has been decided about the occurrences after one time up to
// another.
type Due struct {
	Fire []time.Time // nominal times to send, the oldest first
	Skip []Skipped   // those to leave out, the oldest first
	// Last is up to where it is decided: a nominal time, or what was asked with
	// where nothing is due.
	Last time.Time
	// More is set where the limit was met: ask again, from Last.
	More bool
}

// Skipped is an occurrence that is not sent.
type Skipped struct {
	Nominal time.Time
	Reason  string
}

// Why an occurrence is skipped. Those outside of an entry's Start and End are no
// occurrences.
const (
	SkipCatchUp = "catch_up" // it was missed, and the policy leaves it out
	SkipPaused  = "paused"   // the entry was paused when it was looked at
	SkipOverlap = "overlap"  // the one before had not ended
)

const (
	// onTime is how old an occurrence may be that was not missed.
	onTime = 30 * time.Second
	// mostSkips bounds the occurrences that are skipped in one step.
	mostSkips = 10_000
)

// Due decides the occurrences after a time, up to and with now; none lies after
// now. Of any sequence of calls in which each begins where the one before came
// to, all decisions together are the nominal times up to the greatest now, each
// once and in order, however often and with whatever clocks is asked.
//
// It stops when limit occurrences are to be sent, or 10,000 are skipped. What
// catch-up all decides about one standstill is decided by one call, though, and
// may be more: up to 500 to send, and 7 days' worth to skip.
//
// Whether the occurrence before still runs is not known here: see
// [Entry.Overlap].
func (s *Schedule) Due(after, now time.Time, limit int) Due {
	d := Due{Last: after}
	caughtUp := 0
	for t, ok := s.Next(after); ok && !t.After(now); {
		following, another := s.Next(t)
		newest := !another || following.After(now)
		age := now.Sub(t)
		if s.reached(&d, limit) && (caughtUp == 0 || age <= onTime) {
			d.More = true
			return d
		}
		reason := s.verdict(age, newest, caughtUp)
		if reason == "" {
			d.Fire = append(d.Fire, t)
		} else {
			d.Skip = append(d.Skip, Skipped{Nominal: t, Reason: reason})
		}
		if reason == "" && s.catchUp.Policy == CatchUpAll && age > onTime {
			caughtUp++
		}
		d.Last, t, ok = t, following, another
	}
	return d
}

func (s *Schedule) reached(d *Due, limit int) bool {
	return len(d.Fire) >= max(limit, 1) || len(d.Skip) >= mostSkips
}

// verdict is why an occurrence is skipped, empty where it is sent. But for the
// count of all it depends on nothing but the occurrence and now, so that it does
// not matter where one call ends and the next begins.
func (s *Schedule) verdict(age time.Duration, newest bool, caughtUp int) string {
	send := age <= onTime
	switch s.catchUp.Policy {
	case CatchUpOne:
		send = send || newest
	case CatchUpAll:
		send = send || age <= s.catchUp.MaxAge && caughtUp < s.catchUp.Max
	case CatchUpNone:
	}
	switch {
	case s.paused:
		return SkipPaused
	case send:
		return ""
	}
	return SkipCatchUp
}

// OccurrenceID is the id of an occurrence's task, `<entry>-<nominal unix>`.
func OccurrenceID(entry string, nominal time.Time) string {
	return wire.BeatOrigin{Entry: entry, Nominal: nominal}.ID()
}

// JitterOf is by how much later than its nominal time an occurrence runs, in
// milliseconds: less than the entry's Jitter, spread evenly, and the same
// whoever asks. Nominal time and id stay.
func (s *Schedule) JitterOf(nominal time.Time) time.Duration {
	if s.jitter <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(OccurrenceID(s.entry, nominal)))
	share, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:8]), uint64(s.jitter))
	return time.Duration(min(share, math.MaxInt64)).Truncate(time.Millisecond)
}
