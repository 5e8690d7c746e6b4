package schedules

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Prose is when an entry is due, in words: "weekdays at 09:00 Europe/Berlin",
// "every 10 seconds". A line of cron for which there are none is repeated, as is
// one that is wrong.
func (e Entry) Prose() string {
	out := e.when()
	if !e.Start.IsZero() {
		out += ", from " + formatTime(e.Start)
	}
	if !e.End.IsZero() {
		out += ", until " + formatTime(e.End)
	}
	if e.Jitter > 0 {
		out += ", up to " + shortDuration(e.Jitter) + " later"
	}
	return out
}

func (e Entry) when() string {
	switch {
	case !e.At.IsZero():
		return "once at " + formatTime(e.At)
	case e.Cron == "":
		return intervalWords(e.Every)
	}
	zone := e.Zone
	if zone == "" {
		zone = "UTC"
	}
	table, err := parseCron(e.Cron)
	if err != nil {
		return "cron " + e.Cron + " " + zone
	}
	clock, often := table.clockWords()
	days, known := table.dayWords()
	switch {
	case clock == "" || !known:
		return "cron " + e.Cron + " " + zone
	case !often && days == "":
		return "every day " + clock + " " + zone
	case !often:
		return days + " " + clock + " " + zone
	case days == "":
		return clock + " " + zone
	case strings.HasPrefix(days, "on "):
		return clock + " " + days + " " + zone
	}
	return clock + " on " + days + " " + zone
}

// intervalWords is an interval in words.
func intervalWords(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d > 0 && d%unit.of == 0 && (d/unit.of < 100 || unit.of == time.Hour) {
			return everyUnits(int(d/unit.of), unit.name)
		}
	}
	return "every " + shortDuration(d)
}

func everyUnits(n int, unit string) string {
	if n == 1 {
		return "every " + unit
	}
	return "every " + strconv.Itoa(n) + " " + unit + "s"
}

const (
	allSixty = 1<<60 - 1
	allHours = 1<<24 - 1
	allDays  = 1<<32 - 2
	allMonth = 1<<13 - 2
	allWeek  = 1<<7 - 1
	workdays = 0b0111110
	weekend  = 0b1000001
)

// clockWords are the fields of the clock in words, empty where there are none,
// and whether they tell of more than a few times a day.
func (t *timetable) clockWords() (words string, often bool) {
	minute, oneMinute := only(t.minute)
	second, oneSecond := only(t.second)
	hours := members64(t.hour)
	switch {
	case !oneSecond:
		if n := stepOf(t.second, 60); n > 0 && t.minute == allSixty && t.hour == allHours {
			return everyUnits(n, "second"), true
		}
	case !oneMinute:
		if n := stepOf(t.minute, 60); n > 0 && t.hour == allHours && second == 0 {
			return everyUnits(n, "minute"), true
		}
	case t.hour == allHours || len(hours) > 3 && stepOf(t.hour, 24) > 0:
		words = everyUnits(stepOf(t.hour, 24), "hour")
		if minute != 0 || second != 0 {
			words += fmt.Sprintf(" at :%02d", minute)
		}
		if second != 0 {
			words += fmt.Sprintf(":%02d", second)
		}
		return words, true
	case len(hours) <= 4:
		var at []string
		for _, hour := range hours {
			clock := fmt.Sprintf("%02d:%02d", hour, minute)
			if second != 0 {
				clock += fmt.Sprintf(":%02d", second)
			}
			at = append(at, clock)
		}
		return "at " + andList(at), false
	}
	return "", false
}

// dayWords are the fields of days in words, empty for every day.
func (t *timetable) dayWords() (words string, known bool) {
	weekday, day := t.weekday, t.day
	if !t.bothDays && (weekday == allWeek || day == allDays) {
		weekday, day = allWeek, allDays // either is enough, and one of them is any day
	}
	week := weekWords(weekday)
	days, anyDay := members64(day), day == allDays
	switch {
	case anyDay && t.month == allMonth:
		return week, true
	case anyDay && weekday == allWeek:
		return "on each day in " + andList(monthNames(t.month)), true
	case anyDay:
		return week + " in " + andList(monthNames(t.month)), true
	case weekday != allWeek || len(days) > 5:
		return "", false
	}
	var ordinals []string
	for _, day := range days {
		ordinals = append(ordinals, ordinal(day))
	}
	words = "on the " + andList(ordinals)
	if t.month == allMonth {
		return words + " of each month", true
	}
	return words + " of " + andList(monthNames(t.month)), true
}

// weekWords are days of the week, empty for all.
func weekWords(set uint64) string {
	switch set {
	case allWeek:
		return ""
	case workdays:
		return "weekdays"
	case weekend:
		return "weekends"
	}
	var names []string
	for _, day := range append(members64(set&^1), members64(set&1)...) { // Sunday last
		names = append(names, time.Weekday(day).String()+"s")
	}
	return andList(names)
}

func monthNames(set uint64) []string {
	var names []string
	for _, month := range members64(set) {
		names = append(names, time.Month(month).String())
	}
	return names
}

// only is the member of a set of one.
func only(set uint64) (int, bool) {
	return bits.TrailingZeros64(set), bits.OnesCount64(set) == 1
}

func members64(set uint64) (out []int) {
	for v := atLeast(set, 0); v >= 0; v = atLeast(set, v+1) {
		out = append(out, v)
	}
	return out
}

// stepOf is n where a set is each nth of size from 0 on, and n divides size; 0
// where it is not.
func stepOf(set uint64, size int) int {
	count := bits.OnesCount64(set)
	if count == 0 || size%count != 0 {
		return 0
	}
	step := size / count
	for v := 0; v < size; v += step {
		if set>>v&1 == 0 {
			return 0
		}
	}
	return step
}

func ordinal(n int) string {
	suffix := "th"
	switch {
	case n%10 == 1 && n != 11:
		suffix = "st"
	case n%10 == 2 && n != 12:
		suffix = "nd"
	case n%10 == 3 && n != 13:
		suffix = "rd"
	}
	return strconv.Itoa(n) + suffix
}

func andList(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}
