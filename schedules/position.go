package schedules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"pelton/engine/ledger"
)

// Fired is what became of an occurrence that was sent. Those that were not have
// the reason for which they were skipped.
const Fired = "fired"

// Changed stands in the history of an entry where its times were changed: what
// was due before and had not been looked at is not made up for.
const Changed = "changed"

// Source is where an entry was defined.
type Source string

// The sources.
const (
	SourceConfig Source = "config" // of the process that runs beat
	SourceKV     Source = "kv"     // the bucket
)

// Span is occurrences in a row of which the same became.
type Span struct {
	Outcome string    `json:"outcome"` // Fired, Changed, or why they were skipped
	From    time.Time `json:"from"`    // nominal time of the first
	To      time.Time `json:"to"`      // and of the last
	Count   int       `json:"count"`
}

// keptSpans bounds a position, which may be 4 KiB: a span is about 110 bytes.
const keptSpans = 24

// position is what an entry's ledger says: up to where its occurrences are
// decided, by which definition, and what became of them.
type position struct {
	Last       time.Time      `json:"last"` // nominal time; nothing up to it fires any more
	Source     Source         `json:"source"`
	Generation uint64         `json:"generation"` // of the definition; grows with each
	Definition string         `json:"definition"` // its digest
	Times      string         `json:"times"`      // digest of what decides its times
	Zones      string         `json:"zones,omitempty"`
	Paused     bool           `json:"paused,omitempty"` // by that definition
	Fired      time.Time      `json:"fired,omitzero"`   // nominal time of the newest that was sent
	Task       string         `json:"task,omitempty"`   // that it was sent to
	Closed     string         `json:"closed,omitempty"` // why nobody writes here any more
	Counts     map[string]int `json:"counts,omitempty"`
	Spans      []Span         `json:"spans,omitempty"` // the oldest first
}

// Why a ledger is closed.
const (
	closedRemoved = "removed"
	closedMoved   = "moved"
)

// readPosition reads an entry of the ledger. The zero position is none.
func readPosition(at ledger.Entry) (position, error) {
	var p position
	if !at.Exists() {
		return p, nil
	}
	if err := json.Unmarshal(at.Position, &p); err != nil {
		return p, fmt.Errorf("%w: %w", ledger.ErrUnreadable, err)
	}
	return p, nil
}

func (p position) encode() (json.RawMessage, error) { return json.Marshal(p) }

// note adds what became of an occurrence. It changes the position in place, so
// the caller has cloned it.
func (p *position) note(outcome string, nominal time.Time) {
	p.count(outcome, 1)
	if n := len(p.Spans); n > 0 && p.Spans[n-1].Outcome == outcome && outcome != Changed {
		p.Spans[n-1].To = nominal
		p.Spans[n-1].Count++
	} else {
		p.Spans = append(p.Spans, Span{Outcome: outcome, From: nominal, To: nominal, Count: 1})
	}
	if over := len(p.Spans) - keptSpans; over > 0 {
		p.Spans = p.Spans[over:]
	}
	if outcome == Fired {
		p.Fired = nominal
	}
}

func (p *position) count(outcome string, n int) {
	if p.Counts == nil {
		p.Counts = map[string]int{}
	}
	p.Counts[outcome] += n
}

// clone shares no memory that note changes.
func (p position) clone() position {
	p.Counts, p.Spans = maps.Clone(p.Counts), slices.Clone(p.Spans)
	return p
}

// changeTimes leaves out what is before now: the new times have never been due
// then, and what was due by the old ones is told in the history.
func (p *position) changeTimes(now time.Time) {
	if !now.After(p.Last) {
		return
	}
	p.note(Changed, p.Last.Add(time.Second))
	p.Spans[len(p.Spans)-1].To = now
	p.Last = now
}

// skipPaused notes what was due while an entry was paused, as far as no beat has
// looked at it: it stays skipped once the entry goes on.
func (p *position) skipPaused(s *Schedule, now time.Time) {
	was := *s
	was.paused = true
	for more := true; more; {
		due := was.Due(p.Last, now, mostDue)
		for _, o := range due.Skip {
			p.note(o.Reason, o.Nominal)
		}
		p.Last, more = due.Last, due.More
	}
}

// digest is a short fingerprint of a definition.
func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		b = fmt.Appendf(nil, "%#v", v)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
