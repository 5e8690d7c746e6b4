package schedules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"pelton/engine/wire"
)

// Fields are an entry as text, as its JSON has it and as command lines and files
// of settings give it. What is empty is not set.
type Fields struct {
	Every   string            `json:"every,omitempty"`
	Cron    string            `json:"cron,omitempty"`
	At      string            `json:"at,omitempty"`
	Zone    string            `json:"zone,omitempty"`
	Start   string            `json:"start,omitempty"`
	End     string            `json:"end,omitempty"`
	Jitter  string            `json:"jitter,omitempty"`
	CatchUp string            `json:"catch_up,omitempty"`
	Overlap Overlap           `json:"overlap,omitempty"`
	Paused  bool              `json:"paused,omitempty"`
	Task    string            `json:"task,omitempty"`
	Queue   string            `json:"queue,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Expires string            `json:"expires,omitempty"`
}

// Entry reads the fields and checks them, by the rules of [ParseEntry].
func (f Fields) Entry(name string) (Entry, error) {
	if len(f.Body) > 0 {
		if err := bodyLimits.CheckJSON(f.Body); err != nil {
			return Entry{Name: name}, fmt.Errorf("entry %s: body: %w", name, notJSON(f.Body, err))
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		return Entry{Name: name}, fmt.Errorf("entry %s: %w", name, err)
	}
	return ParseEntry(name, data)
}

// MarshalJSON writes what [ParseEntry] reads, without the name. Equal entries
// are equal bytes.
func (e Entry) MarshalJSON() ([]byte, error) {
	return json.Marshal(Fields{
		Every: formatDuration(e.Every), Cron: e.Cron, At: formatTime(e.At), Zone: e.Zone,
		Start: formatTime(e.Start), End: formatTime(e.End), Jitter: formatDuration(e.Jitter),
		CatchUp: e.CatchUp.String(), Overlap: e.Overlap, Paused: e.Paused, Task: e.Task, Queue: e.Queue,
		Body: e.Body, Headers: e.Header, Expires: formatDuration(e.Expires),
	})
}

func formatDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return shortDuration(d)
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// ParseEntry reads an entry from its JSON and checks it. Fields that are unknown
// or stand there twice are refused.
func ParseEntry(name string, data []byte) (Entry, error) {
	e := Entry{Name: name}
	if wire.CheckRoute(name) != nil {
		return e, &wire.NameError{Field: "entry", Value: name, Rule: wire.RuleRoute}
	}
	fields, err := members(data, MaxEntry)
	if err != nil {
		return Entry{Name: name}, fmt.Errorf("entry %s: %w", name, err)
	}
	for _, field := range fields {
		if err := e.set(field.name, field.value); err != nil {
			return Entry{Name: name}, fmt.Errorf("entry %s: %w", name, err)
		}
	}
	if err := e.Validate(); err != nil {
		return Entry{Name: name}, err
	}
	return e, nil
}

// member is one of an object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads an object, each name once, in order.
func members(data []byte, most int) ([]member, error) {
	limits := wire.Limits{Bytes: most, Depth: wire.DefaultLimits.Depth + 1, Keys: wire.DefaultLimits.Keys}
	if err := limits.CheckJSON(data); err != nil {
		return nil, notJSON(data, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("must be a JSON object")
	}
	var out []member
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: key.(string)} //nolint:forcetypeassert // keys of objects are
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		if seen[m.name] {
			return nil, wrong("field", m.name, "must stand there once")
		}
		seen[m.name] = true
		out = append(out, m)
	}
	return out, nil
}

// notJSON says what is wrong with text, and where, without its content.
func notJSON(data []byte, err error) error {
	broken, ok := errors.AsType[*wire.BodyError](err)
	if !ok {
		return err
	}
	have := broken.Have
	syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(data, new(any)))
	if ok && have == "not JSON" {
		have += " at byte " + strconv.FormatInt(syntax.Offset, 10)
	}
	return errors.New(have + ", " + broken.Rule)
}

// set reads one field.
func (e *Entry) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "every":
		e.Every, err = durationOf(name, value, time.Second, ruleEvery)
	case "cron":
		e.Cron, err = textOf(name, value)
	case "at":
		e.At, err = timeOf(name, value)
	case "zone":
		e.Zone, err = textOf(name, value)
	case "start":
		e.Start, err = timeOf(name, value)
	case "end":
		e.End, err = timeOf(name, value)
	case "jitter":
		e.Jitter, err = durationOf(name, value, 0, ruleJitter)
	case "catch_up":
		var text string
		if text, err = textOf(name, value); err == nil {
			e.CatchUp, err = ParseCatchUp(text)
		}
	case "overlap":
		var text string
		text, err = textOf(name, value)
		e.Overlap = Overlap(text)
	case "paused":
		err = read(name, value, "true or false", &e.Paused)
	case "task":
		e.Task, err = textOf(name, value)
	case "queue":
		e.Queue, err = textOf(name, value)
	case "body":
		e.Body = compact(value)
	case "headers":
		err = read(name, value, "an object of texts", &e.Header)
	case "expires":
		e.Expires, err = durationOf(name, value, 0, ruleExpires)
	default:
		return wrong("field", name, "must be one of "+entryFields)
	}
	return err
}

const entryFields = "every, cron, at, zone, start, end, jitter, catch_up, overlap, paused, task, queue, body, headers, expires"

// compact makes equal bodies equal bytes, as far as white space goes.
func compact(value json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return value
	}
	return b.Bytes()
}

// read reads a value that is not null.
func read(name string, value json.RawMessage, kind string, into any) error {
	if string(value) == "null" || json.Unmarshal(value, into) != nil {
		return errors.New(name + ": must be " + kind)
	}
	return nil
}

func textOf(name string, value json.RawMessage) (text string, err error) {
	if err := read(name, value, "a text", &text); err != nil {
		return "", err
	}
	if text == "" {
		return "", errors.New(name + ": must not be empty")
	}
	return text, nil
}

func durationOf(name string, value json.RawMessage, least time.Duration, rule string) (time.Duration, error) {
	text, err := textOf(name, value)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least {
		return 0, wrong(name, text, rule)
	}
	return d, nil
}

func timeOf(name string, value json.RawMessage) (time.Time, error) {
	text, err := textOf(name, value)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.IsZero() {
		return time.Time{}, wrong(name, text, "must be a time with its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00")
	}
	return t.UTC(), nil
}
