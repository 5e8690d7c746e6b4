package schedules

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"pelton/engine"
	"pelton/engine/wire"
)

// MaxEntry is how many bytes of JSON an entry may be.
const MaxEntry = 16 << 10

// Entry is a task with its times. One of Every, Cron and At says when.
//
// As JSON it is an object of the fields below, durations as "1m30s" and times as
// RFC 3339 has them; what is not set is left out, and the name stands elsewhere:
//
//	{"cron":"0 2 * * *","zone":"Europe/Berlin","catch_up":"all(10,1h)","task":"report","body":{"full":true}}
type Entry struct {
	// Name is that of the entry, [a-z0-9][a-z0-9-]{0,63}, and must not be that of
	// its queue. It is part of the ids of its tasks.
	Name string
	// Every is the interval, whole seconds up to a year, counted from Start, or
	// from the start of 1970 in UTC.
	Every time.Duration
	// Cron is a line of five or six fields; see the package's comment.
	Cron string
	// At is the one time of an entry that is due once.
	At time.Time
	// Zone is the time zone of Cron, UTC unless set.
	Zone string
	// Start and End are the first and the last time at which an occurrence may
	// lie; the zero time is no bound. All times are whole seconds.
	Start, End time.Time
	// Jitter is by how much less at most an occurrence runs later than its
	// nominal time, up to 24h; see [Schedule.JitterOf].
	Jitter time.Duration
	// CatchUp is what is sent of what was missed; one unless set.
	CatchUp CatchUp
	// Overlap is what becomes of an occurrence while the one before waits or
	// runs; queue unless set.
	Overlap Overlap
	// Paused skips what is due.
	Paused bool
	// Task and Queue are where the occurrences go; the queue is default unless
	// set.
	Task, Queue string
	// Body is what the task is given, as JSON; null unless set.
	Body json.RawMessage
	// Header are headers for the handler. Those of Pelton and of the broker are
	// refused.
	Header map[string]string
	// Expires is how long after it was due, or moved to by jitter, a task may
	// still begin, up to a year; 0 is for ever.
	Expires time.Duration
}

// Overlap says what becomes of an occurrence while the one before waits or runs.
type Overlap string

// The policies.
const (
	OverlapQueue   Overlap = "queue"   // it is sent all the same
	OverlapSkip    Overlap = "skip"    // it is skipped
	OverlapReplace Overlap = "replace" // the one before is revoked, and it is sent
)

const mostJitter = 24 * time.Hour

// queue is the entry's queue, default unless it says.
func (e Entry) queue() string {
	if e.Queue == "" {
		return engine.DefaultQueue
	}
	return e.Queue
}

// Validate reports the first thing that is wrong with an entry. The error names
// the entry, the field, its value and the rule. A line of cron that is never due
// is wrong; an entry whose times have passed is not.
func (e Entry) Validate() error {
	_, err := e.Compile()
	return err
}

// Compile checks an entry as Validate does and makes its schedule.
func (e Entry) Compile() (*Schedule, error) {
	if wire.CheckRoute(e.Name) != nil {
		return nil, &wire.NameError{Field: "entry", Value: e.Name, Rule: wire.RuleRoute}
	}
	s, err := e.compile()
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", e.Name, err)
	}
	return s, nil
}

func (e Entry) compile() (*Schedule, error) {
	for _, check := range []func() error{e.checkTarget, e.checkWhen, e.checkPolicies, e.checkContent} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	times, err := e.times()
	if err != nil {
		return nil, err
	}
	s := &Schedule{
		times: times, start: firstNominal, end: lastNominal,
		entry: e.Name, jitter: e.Jitter, catchUp: e.CatchUp.filled(), paused: e.Paused,
	}
	if !e.Start.IsZero() {
		s.start = e.Start.Unix()
	}
	if !e.End.IsZero() {
		s.end = e.End.Unix()
	}
	if _, ever := s.Next(time.Unix(firstNominal-1, 0)); !ever {
		return nil, e.neverDue()
	}
	return s, nil
}

// neverDue is why an entry has no nominal time at all.
func (e Entry) neverDue() error {
	rule := "must be due at all: there is no such day"
	if !e.Start.IsZero() || !e.End.IsZero() {
		rule = "must be due between start and end"
	}
	if e.Cron != "" {
		return wrong("cron", e.Cron, rule)
	}
	return wrong("every", e.Every.String(), rule)
}

func wrong(field, value, rule string) error {
	return &wire.NameError{Field: field, Value: value, Rule: rule}
}

// checkTarget is about where the occurrences go.
func (e Entry) checkTarget() error {
	switch {
	case e.Task == "":
		return errors.New("task: must be given")
	case strings.HasPrefix(e.Task, wire.ReservedTaskPrefix):
		return wrong("task", e.Task, "must not begin with "+wire.ReservedTaskPrefix)
	}
	if err := wire.CheckTask(e.Task); err != nil {
		return err
	}
	if err := wire.CheckQueue(e.queue()); err != nil {
		return err
	}
	if err := wire.CheckEntryIDs(e.Name, e.queue()); err != nil {
		return wrong("queue", e.queue(), "must not be the entry's own name: its ids would look like the queue's own, <queue>-<digits>")
	}
	return nil
}

// checkWhen is about the times, but for the line of cron.
func (e Entry) checkWhen() error {
	given := 0
	for _, is := range []bool{e.Every != 0, e.Cron != "", !e.At.IsZero()} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return errors.New("every, cron, at: one of them must be given")
	case given > 1:
		return errors.New("every, cron, at: only one of them may be given")
	case e.Every != 0 && (e.Every < time.Second || e.Every > wire.MaxDuration || e.Every%time.Second != 0):
		return wrong("every", e.Every.String(), ruleEvery)
	case e.Zone != "" && e.Cron == "":
		return wrong("zone", e.Zone, "must be left out without cron: an interval and a time do not depend on it")
	case !e.At.IsZero() && !e.Start.IsZero():
		return wrong("start", formatTime(e.Start), "must be left out with at")
	case !e.At.IsZero() && !e.End.IsZero():
		return wrong("end", formatTime(e.End), "must be left out with at")
	}
	for _, t := range []struct {
		field string
		at    time.Time
	}{{"at", e.At}, {"start", e.Start}, {"end", e.End}} {
		if !t.at.IsZero() && (t.at.Nanosecond() != 0 || t.at.Unix() < firstNominal || t.at.Unix() > lastNominal) {
			return wrong(t.field, t.at.UTC().Format(time.RFC3339Nano), "must be whole seconds in the years 1970 to 9999")
		}
	}
	if !e.Start.IsZero() && !e.End.IsZero() && e.End.Before(e.Start) {
		return wrong("end", formatTime(e.End), "must not be before start, "+formatTime(e.Start))
	}
	return nil
}

const ruleEvery = "must be whole seconds, from 1s to a year (8760h)"

func (e Entry) checkPolicies() error {
	if err := e.CatchUp.check(); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]Overlap{"", OverlapQueue, OverlapSkip, OverlapReplace}, e.Overlap):
		return wrong("overlap", string(e.Overlap), "must be skip, queue or replace")
	case e.Jitter < 0 || e.Jitter > mostJitter:
		return wrong("jitter", e.Jitter.String(), ruleJitter)
	case e.Expires < 0 || e.Expires > wire.MaxDuration:
		return wrong("expires", e.Expires.String(), ruleExpires)
	}
	return nil
}

const (
	ruleJitter  = "must be a duration as 30s, from 0 to 24h"
	ruleExpires = "must be a duration as 10m, from 0 to a year (8760h)"
)

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)

// checkContent is about what each task carries.
func (e Entry) checkContent() error {
	if len(e.Body) > 0 {
		if err := bodyLimits.CheckJSON(e.Body); err != nil {
			return err
		}
	}
	h := wire.Header{}
	for name, value := range e.Header {
		lower := strings.ToLower(name)
		_, twice := h.Lookup(name)
		switch {
		case !headerName.MatchString(name):
			return wrong("headers", name, "must have names that match "+headerName.String())
		case strings.HasPrefix(lower, "pelton-") || strings.HasPrefix(lower, "nats-"):
			return wrong("headers", name, "must not have names that begin with Pelton- or Nats-")
		case twice:
			return wrong("headers", name, "must have each name once, in whatever case")
		case strings.ContainsAny(value, "\r\n\x00"):
			return fmt.Errorf("headers: %s: must be one line", name)
		}
		h.Set(name, value)
	}
	if _, err := wire.ParseMeta(h, time.Time{}); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	encoded, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(encoded) > MaxEntry {
		return fmt.Errorf("%d bytes as JSON, must be at most %d", len(encoded), MaxEntry)
	}
	return nil
}

var bodyLimits = wire.Limits{Bytes: MaxEntry, Depth: wire.DefaultLimits.Depth, Keys: wire.DefaultLimits.Keys}

// times makes the nominal times, without the bounds.
func (e Entry) times() (times, error) {
	switch {
	case !e.At.IsZero():
		return once(e.At.Unix()), nil
	case e.Every != 0:
		i := interval{every: int64(e.Every / time.Second)}
		if !e.Start.IsZero() {
			i.anchor = e.Start.Unix()
		}
		return i, nil
	}
	table, err := parseCron(e.Cron)
	if err != nil {
		return nil, wrong("cron", e.Cron, err.Error())
	}
	zone, err := loadZone(e.Zone)
	if err != nil {
		return nil, err
	}
	return &wallClock{timetable: table, zone: zone}, nil
}
