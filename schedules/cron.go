package schedules

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// timetable is a cron line as sets of values, a bit each. The parser is our own,
// small as it is, because the rules for changes of the clock hang on how the
// hour was written, and because errors must name the field; that of robfig/cron
// keeps neither, and knows no Sunday as 7.
type timetable struct {
	second, minute, hour, day, month, weekday uint64

	// bothDays: one of the fields of days is not restricted, so both must match.
	bothDays bool
	// fixedHour: each wall-clock time is due once; see the package's comment.
	fixedHour bool
}

// cronField is what one field may hold.
type cronField struct {
	name      string
	low, high int
	names     string // of the values from low on, three letters each
}

var cronFields = [6]cronField{
	{name: "second", high: 59},
	{name: "minute", high: 59},
	{name: "hour", high: 23},
	{name: "day of month", low: 1, high: 31},
	{name: "month", low: 1, high: 12, names: "janfebmaraprmayjunjulaugsepoctnovdec"},
	{name: "day of week", high: 6, names: "sunmontuewedthufrisat"},
}

const fieldWeekday = 5

var cronShorthands = map[string]string{
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
	"@monthly":  "0 0 1 * *",
	"@weekly":   "0 0 * * 0",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@hourly":   "0 * * * *",
}

// parseCron reads a line. The error is a rule, without the line.
func parseCron(line string) (timetable, error) {
	texts, err := splitCron(line)
	if err != nil {
		return timetable{}, err
	}
	var sets [6]uint64
	for i, text := range texts {
		if sets[i], err = cronFields[i].parse(text, i == 3 || i == fieldWeekday); err != nil {
			return timetable{}, err
		}
	}
	return timetable{
		second: sets[0], minute: sets[1], hour: sets[2], day: sets[3], month: sets[4], weekday: sets[fieldWeekday],
		bothDays:  strings.ContainsAny(texts[3], "*?") || strings.ContainsAny(texts[fieldWeekday], "*?"),
		fixedHour: !strings.ContainsAny(texts[2], "*/"),
	}, nil
}

// splitCron cuts a line into six fields.
func splitCron(line string) (texts [6]string, err error) {
	for _, c := range []byte(line) {
		if (c < ' ' && c != '\t') || c > '~' {
			return texts, errors.New("must be plain text")
		}
	}
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return texts, errors.New("must have 5 fields, or 6 with the second first, got none")
	}
	first := strings.ToLower(fields[0])
	switch {
	case strings.HasPrefix(first, "tz=") || strings.HasPrefix(first, "cron_tz="):
		return texts, errors.New("must not name a zone; zone does")
	case first == "@every":
		return texts, errors.New("must not be @every; every is a setting of its own")
	case first[0] == '@':
		short, ok := cronShorthands[first]
		if !ok || len(fields) != 1 {
			return texts, errors.New("must be @yearly, @monthly, @weekly, @daily or @hourly where it begins with @")
		}
		fields = strings.Fields(short)
	}
	if len(fields) == 5 {
		fields = append([]string{"0"}, fields...)
	}
	if len(fields) != 6 {
		return texts, fmt.Errorf("must have 5 fields, or 6 with the second first, got %d", len(fields))
	}
	return [6]string(fields), nil
}

// parse reads a field, a list of items.
func (f cronField) parse(text string, question bool) (set uint64, err error) {
	for item := range strings.SplitSeq(text, ",") {
		one, err := f.item(item, question)
		if err != nil {
			return 0, err
		}
		set |= one
	}
	if f.high == 6 && set>>7&1 == 1 {
		set = set&0x7f | 1 // 7 is Sunday
	}
	return set, nil
}

// item reads *, a value or a range, with a step or without.
func (f cronField) item(text string, question bool) (uint64, error) {
	span, stepText, stepped := strings.Cut(text, "/")
	low, high, err := f.span(span, stepped, question)
	if err != nil {
		return 0, err
	}
	step := 1
	if stepped {
		if step, err = number(stepText); err != nil || step < 1 || step > f.high {
			return 0, fmt.Errorf("%s must have a step from 1 to %d, got %q", f.name, f.high, clip(text))
		}
	}
	var set uint64
	for v := low; v <= high; v += step {
		set |= 1 << v
	}
	return set, nil
}

// span reads what stands before the step.
func (f cronField) span(text string, stepped, question bool) (low, high int, err error) {
	if text == "*" || text == "?" && question {
		return f.low, f.high, nil
	}
	from, to, isRange := strings.Cut(text, "-")
	if low, err = f.value(from); err != nil {
		return 0, 0, err
	}
	switch {
	case isRange:
		if high, err = f.value(to); err != nil {
			return 0, 0, err
		}
		if f.high == 6 && high == 0 && low > 0 {
			high = 7 // fri-sun
		}
	case stepped:
		high = max(f.high, low)
	default:
		high = low
	}
	if high < low {
		return 0, 0, fmt.Errorf("%s must have ranges that end after they begin, got %q", f.name, clip(text))
	}
	return low, high, nil
}

// value reads a number or a name.
func (f cronField) value(text string) (int, error) {
	high := f.high
	if high == 6 {
		high = 7
	}
	v, err := number(text)
	if err == nil && v >= f.low && v <= high {
		return v, nil
	}
	if at := strings.Index(f.names, strings.ToLower(text)); len(text) == 3 && at >= 0 && at%3 == 0 {
		return f.low + at/3, nil
	}
	rule := fmt.Sprintf("%s must be from %d to %d", f.name, f.low, high)
	if f.names != "" {
		rule += " or a name as " + strings.ToUpper(f.names[3:6])
	}
	return 0, fmt.Errorf("%s, got %q", rule, clip(text))
}

// number reads digits and nothing else.
func number(text string) (int, error) {
	if len(text) == 0 || len(text) > 4 || strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// clip bounds how much of a stranger's text an error repeats.
func clip(text string) string {
	if len(text) > 20 {
		return text[:20] + "…"
	}
	return text
}

const daySeconds = 24 * 60 * 60

// nextWall is the first wall-clock time after one, up to last. Wall-clock times
// are counted as if they were UTC.
func (t *timetable) nextWall(after, last int64) (int64, bool) {
	from := after + 1
	clock := int(((from % daySeconds) + daySeconds) % daySeconds)
	for day := from - int64(clock); day <= last; clock = 0 {
		date := time.Unix(day, 0).UTC()
		if t.month>>date.Month()&1 == 0 {
			day = time.Date(date.Year(), date.Month()+1, 1, 0, 0, 0, 0, time.UTC).Unix()
			continue
		}
		if t.onDay(date) {
			if at, ok := t.onClock(clock); ok && day+int64(at) <= last {
				return day + int64(at), true
			}
		}
		day += daySeconds
	}
	return 0, false
}

// onDay reports whether the fields of days match a date.
func (t *timetable) onDay(date time.Time) bool {
	day, weekday := t.day>>date.Day()&1 == 1, t.weekday>>date.Weekday()&1 == 1
	if t.bothDays {
		return day && weekday
	}
	return day || weekday
}

// onClock is the first time of day from one on, in seconds.
func (t *timetable) onClock(from int) (int, bool) {
	h, m, s := from/3600, from/60%60, from%60
	for hour := atLeast(t.hour, h); hour >= 0; hour = atLeast(t.hour, hour+1) {
		if hour > h {
			m, s = 0, 0
		}
		for minute := atLeast(t.minute, m); minute >= 0; minute = atLeast(t.minute, minute+1) {
			if minute > m {
				s = 0
			}
			if second := atLeast(t.second, s); second >= 0 {
				return hour*3600 + minute*60 + second, true
			}
		}
	}
	return 0, false
}

// atLeast is the smallest member of a set from one on, -1 where there is none.
func atLeast(set uint64, from int) int {
	rest := set >> from << from
	if rest == 0 {
		return -1
	}
	return bits.TrailingZeros64(rest)
}
