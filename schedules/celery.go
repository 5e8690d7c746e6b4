package schedules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"pelton/engine/wire"
)

// maxCelery bounds what ImportCelery reads.
const maxCelery = 1 << 20

// ImportCelery reads a beat_schedule of Celery's as json.dumps writes it, alone or
// as the beat_schedule of a configuration with its timezone. It returns the
// entries that can be taken over, by name, and an error for each that cannot: it
// is left out whole, rather than changed in meaning.
//
//   - schedule is a number of seconds, what str says of a timedelta, as "0:00:30"
//     or "1 day, 0:00:00", an object of crontab's fields (minute, hour,
//     day_of_week, day_of_month, month_of_year), or what str says of a crontab, as
//     "<crontab: 0 7 * * 1 (m/h/dM/MY/d)>".
//   - kwargs alone become the body; args alone become it as an array; both become
//     {"args":[…],"kwargs":{…}}.
//   - of options, queue, expires in seconds and headers are known.
//   - names become lower case with dashes. Of a task's dotted name the last part is
//     kept.
//
// An interval counts from the start of 1970, not from when beat was started.
func ImportCelery(data []byte) ([]Entry, []error) {
	top, err := members(data, maxCelery)
	if err != nil {
		return nil, []error{fmt.Errorf("beat_schedule: %w", err)}
	}
	zone, top, err := celeryConfig(top)
	if err != nil {
		return nil, []error{err}
	}
	slices.SortFunc(top, func(a, b member) int { return strings.Compare(a.name, b.name) })
	i := celeryImport{zone: zone, names: map[string]string{}, tasks: map[string]string{}}
	for _, m := range top {
		e, err := i.entry(m)
		if err != nil {
			i.errs = append(i.errs, err)
			continue
		}
		i.entries = append(i.entries, e)
	}
	slices.SortFunc(i.entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return i.entries, i.errs
}

// celeryConfig finds the beat_schedule where a whole configuration is given.
func celeryConfig(top []member) (zone string, entries []member, err error) {
	at := slices.IndexFunc(top, func(m member) bool { return m.name == "beat_schedule" })
	if at < 0 {
		return "", top, nil
	}
	entries, err = members(top[at].value, maxCelery)
	if err != nil {
		return "", nil, fmt.Errorf("beat_schedule: %w", err)
	}
	for _, m := range top {
		if m.name == "timezone" && string(m.value) != "null" {
			if zone, err = textOf(m.name, m.value); err != nil {
				return "", nil, err
			}
		}
	}
	return zone, entries, nil
}

type celeryImport struct {
	zone    string
	names   map[string]string // Celery's names by ours
	tasks   map[string]string
	entries []Entry
	errs    []error
}

// celeryEntry is what an entry of Celery's may hold.
type celeryEntry struct {
	Task     string                     `json:"task"`
	Schedule json.RawMessage            `json:"schedule"`
	Args     []json.RawMessage          `json:"args"`
	Kwargs   map[string]json.RawMessage `json:"kwargs"`
	Options  *celeryOptions             `json:"options"`
	Relative bool                       `json:"relative"` // by the clock, as ours always are
}

type celeryOptions struct {
	Queue   string            `json:"queue"`
	Expires json.RawMessage   `json:"expires"`
	Headers map[string]string `json:"headers"`
}

// strict reads JSON into a struct, refusing fields it does not know.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return errors.New(strings.TrimPrefix(wrongType.Field+": ", ": ") + "must not be of type " + wrongType.Value)
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (i *celeryImport) entry(m member) (Entry, error) {
	fail := func(err error) (Entry, error) { return Entry{}, fmt.Errorf("entry %q: %w", clipName(m.name), err) }
	var c celeryEntry
	if err := strict(m.value, &c); err != nil {
		return fail(err)
	}
	e := Entry{Name: celeryName(m.name)}
	if other, twice := i.names[e.Name]; twice {
		return fail(fmt.Errorf("its name becomes %s, as that of %q does: one must be renamed", e.Name, clipName(other)))
	}
	i.names[e.Name] = m.name
	if err := i.task(&e, c.Task); err != nil {
		return fail(err)
	}
	if err := i.schedule(&e, c.Schedule); err != nil {
		return fail(err)
	}
	err := c.options(&e)
	if err == nil {
		e.Body, err = c.body()
	}
	if err != nil {
		return fail(err)
	}
	err = e.Validate()
	if err != nil && e.Name != m.name {
		err = fmt.Errorf("entry %q: %w", clipName(m.name), err)
	}
	return e, err
}

func clipName(name string) string {
	if len(name) > 80 {
		return name[:80] + "…"
	}
	return name
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// celeryName makes a name of ours.
func celeryName(name string) string {
	return strings.Trim(notName.ReplaceAllString(strings.ToLower(name), "-"), "-")
}

// task takes the last part of a dotted name, unless two would become one.
func (i *celeryImport) task(e *Entry, name string) error {
	if name == "" {
		return errors.New("task: must be given")
	}
	e.Task = name[strings.LastIndexByte(name, '.')+1:]
	if other, known := i.tasks[e.Task]; known && other != name {
		return fmt.Errorf("task %q: becomes %s, as %q does: one must be renamed", clipName(name), e.Task, clipName(other))
	}
	i.tasks[e.Task] = name
	return nil
}

var (
	celeryRepr  = regexp.MustCompile(`^<crontab: (.{1,200}) \((m/h/dM/MY/d|m/h/d/dM/MY)\)>$`)
	celeryDelta = regexp.MustCompile(`^(?:(\d{1,3}) days?, )?(\d{1,2}):(\d\d):(\d\d)$`)
	celerySolar = regexp.MustCompile(`(?i)^<?solar\b`)
)

const (
	ruleCelery = "must be seconds or the fields of a crontab"
	ruleSolar  = "must not be solar: when the sun rises is not known here; let a task work it out and send the next one with an ETA"
)

func (i *celeryImport) schedule(e *Entry, value json.RawMessage) error {
	var text string
	switch {
	case len(value) == 0:
		return errors.New("schedule: must be given")
	case value[0] == '{':
		return i.crontab(e, value)
	case json.Unmarshal(value, &text) != nil || string(value) == "null":
		seconds, err := celerySeconds("schedule", value)
		if err != nil || seconds < time.Second {
			return errors.New("schedule: " + ruleCelery + "; seconds are whole, from 1 to a year's")
		}
		e.Every = seconds
		return nil
	case celerySolar.MatchString(text):
		return errors.New("schedule: " + ruleSolar)
	}
	if delta := celeryDelta.FindStringSubmatch(text); delta != nil {
		e.Every = deltaOf(delta[1:])
		return nil
	}
	found := celeryRepr.FindStringSubmatch(text)
	if found == nil {
		return wrong("schedule", text, ruleCelery)
	}
	fields := strings.Fields(found[1])
	if len(fields) != 5 {
		return wrong("schedule", text, ruleCelery)
	}
	c := celeryCrontab{minute: fields[0], hour: fields[1], day: fields[2], month: fields[3], weekday: fields[4]}
	if found[2] == "m/h/d/dM/MY" {
		c.weekday, c.day, c.month = fields[2], fields[3], fields[4]
	}
	return i.cron(e, c)
}

// deltaOf is days, hours, minutes and seconds, of which days may be empty.
func deltaOf(digits []string) (d time.Duration) {
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.Atoi(digits[i]) // no digits are none
		d += time.Duration(n) * unit
	}
	return d
}

// celerySeconds reads whole seconds, which Python may write as 30.0.
func celerySeconds(field string, value json.RawMessage) (time.Duration, error) {
	var seconds float64
	if string(value) == "null" || json.Unmarshal(value, &seconds) != nil ||
		seconds != math.Trunc(seconds) || seconds < 0 || seconds > wire.MaxDuration.Seconds() {
		return 0, errors.New(field + ": must be whole seconds, up to a year's")
	}
	return time.Duration(seconds) * time.Second, nil
}

// celeryCrontab is crontab's fields as text.
type celeryCrontab struct{ minute, hour, day, month, weekday string }

func (i *celeryImport) crontab(e *Entry, value json.RawMessage) error {
	fields, err := members(value, maxCelery)
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	c := celeryCrontab{"*", "*", "*", "*", "*"}
	for _, m := range fields {
		var into *string
		switch m.name {
		case "minute":
			into = &c.minute
		case "hour":
			into = &c.hour
		case "day_of_week":
			into = &c.weekday
		case "day_of_month":
			into = &c.day
		case "month_of_year":
			into = &c.month
		case "event", "lat", "lon":
			return errors.New("schedule: " + ruleSolar)
		default:
			return wrong("schedule", m.name, ruleCelery)
		}
		if *into, err = celeryField(m); err != nil {
			return fmt.Errorf("schedule: %w", err)
		}
	}
	return i.cron(e, c)
}

// celeryField reads what a field may be: text, a number, or a list of these.
func celeryField(m member) (string, error) {
	bad := errors.New(m.name + ": must be a text, a number or a list of numbers")
	var list []json.RawMessage
	if json.Unmarshal(m.value, &list) != nil {
		list = []json.RawMessage{m.value}
	}
	var out []string
	for _, item := range list {
		var text string
		var n int
		switch {
		case string(item) == "null":
			return "", bad
		case json.Unmarshal(item, &text) == nil:
		case json.Unmarshal(item, &n) == nil:
			text = strconv.Itoa(n)
		default:
			return "", bad
		}
		out = append(out, strings.ReplaceAll(text, " ", ""))
	}
	if len(out) == 0 {
		return "", bad
	}
	return strings.Join(out, ","), nil
}

// cron writes crontab's fields as a line. Where both fields of days are
// restricted Celery wants both to match and cron either, so that is refused.
func (i *celeryImport) cron(e *Entry, c celeryCrontab) error {
	texts := []string{c.minute, c.hour, c.day, c.month, c.weekday}
	for n, text := range texts {
		field, err := celeryItems(cronFields[n+1], text)
		if err != nil {
			return fmt.Errorf("schedule: %w", err)
		}
		texts[n] = field
	}
	if texts[2] != "*" && texts[4] != "*" && !strings.Contains(texts[2]+texts[4], "*") {
		return errors.New("schedule: day_of_month and day_of_week must not both be given: Celery runs where both match, a cron line where either does")
	}
	e.Cron, e.Zone = strings.Join(texts, " "), i.zone
	return nil
}

// celeryItems rewrites what Celery may say and a cron line may not: whole names
// of days and months, and ranges over the end, as 22-2.
func celeryItems(f cronField, text string) (string, error) {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		span, step, stepped := strings.Cut(item, "/")
		from, to, isRange := strings.Cut(span, "-")
		from, to = shortName(f, from), shortName(f, to)
		if !isRange {
			out = append(out, rejoin(from, step, stepped))
			continue
		}
		low, err := f.value(from)
		if err != nil {
			return "", err
		}
		high, err := f.value(to)
		if err != nil {
			return "", err
		}
		if high >= low {
			out = append(out, rejoin(from+"-"+to, step, stepped))
			continue
		}
		every := 1
		if stepped {
			if every, err = number(step); err != nil || every < 1 {
				return "", fmt.Errorf("%s must have a step above 0, got %q", f.name, clip(item))
			}
		}
		size := f.high - f.low + 1
		for v := low; v <= high+size; v += every {
			out = append(out, strconv.Itoa((v-f.low)%size+f.low))
		}
	}
	return strings.Join(out, ","), nil
}

func rejoin(span, step string, stepped bool) string {
	if !stepped {
		return span
	}
	return span + "/" + step
}

// shortName makes three letters of a whole name, as Celery does.
func shortName(f cronField, name string) string {
	if f.names == "" || len(name) <= 3 {
		return name
	}
	if _, err := f.value(name[:3]); err != nil {
		return name
	}
	return name[:3]
}

// options takes over what is known of them.
func (c celeryEntry) options(e *Entry) error {
	if c.Options == nil {
		return nil
	}
	e.Queue, e.Header = c.Options.Queue, c.Options.Headers
	if len(c.Options.Expires) > 0 && string(c.Options.Expires) != "null" {
		expires, err := celerySeconds("options.expires", c.Options.Expires)
		if err != nil {
			return err
		}
		e.Expires = expires
	}
	return nil
}

// body makes one of arguments.
func (c celeryEntry) body() (json.RawMessage, error) {
	var body any
	switch {
	case len(c.Args) == 0 && len(c.Kwargs) == 0:
		return nil, nil
	case len(c.Args) == 0:
		body = c.Kwargs
	case len(c.Kwargs) == 0:
		body = c.Args
	default:
		body = map[string]any{"args": c.Args, "kwargs": c.Kwargs}
	}
	return json.Marshal(body)
}
