package schedules_test

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/schedules"
)

// nextTimes are the first times after one, as UTC.
func nextTimes(t *testing.T, e schedules.Entry, after string, count int) string {
	t.Helper()
	e.Name, e.Task = "entry", "print"
	s, err := e.Compile()
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, after)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for range count {
		next, ok := s.Next(at)
		if !ok {
			return strings.Join(append(out, "never"), " ")
		}
		out = append(out, next.Format("01-02T15:04:05"))
		at = next
	}
	return strings.Join(out, " ")
}

// TestChangesOfClocks is the table of what is due where a clock is put forward or
// back. Zones and dates are as they were; times are UTC.
func TestChangesOfClocks(t *testing.T) {
	t.Parallel()
	tests := []struct{ what, cron, zone, after, want string }{
		// Berlin: 2026-03-29 02:00 → 03:00 at 01:00Z, 2026-10-25 03:00 → 02:00 at 01:00Z.
		{"the hour is left out: once, when the clock goes on", "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", "03-28T01:30:00 03-29T01:00:00 03-30T00:30:00"},
		{"several in it are one", "0,20,40 2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", "03-29T01:00:00 03-30T00:00:00 03-30T00:20:00"},
		{"each minute of it is one, and the hour after meets it", "*/20 2,3 29 3 *", "Europe/Berlin", "2026-03-28T22:00:00Z", "03-29T01:00:00 03-29T01:20:00 03-29T01:40:00 03-29T00:00:00"},
		{"the hour after begins as it would", "0 3 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", "03-29T01:00:00 03-30T01:00:00"},
		{"the hour comes twice: the first", "30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", "10-24T00:30:00 10-25T00:30:00 10-26T01:30:00"},
		{"each minute of it: the first pass", "* 2 25 10 *", "Europe/Berlin", "2026-10-25T00:58:00Z", "10-25T00:59:00 10-25T00:00:00"},
		{"seconds, too", "59 59 2 * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", "10-25T00:59:59 10-26T01:59:59"},
		{"the hour after the one that comes twice", "0 3 * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", "10-25T02:00:00 10-26T02:00:00"},
		{"a range is fixed", "30 1-3 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", "03-29T00:30:00 03-29T01:00:00 03-29T01:30:00 03-29T23:30:00"},
		{"@daily is fixed", "@daily", "Europe/Berlin", "2026-10-24T12:00:00Z", "10-24T22:00:00 10-25T23:00:00"},

		{"*: what is left out does not run", "30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "03-29T00:30:00 03-29T01:30:00"},
		{"*: what comes twice runs twice", "30 * * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", "10-24T23:30:00 10-25T00:30:00 10-25T01:30:00 10-25T02:30:00"},
		{"@hourly, too", "@hourly", "Europe/Berlin", "2026-10-25T00:00:00Z", "10-25T01:00:00 10-25T02:00:00"},
		{"a step: 02:30 is left out", "30 */2 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z", "03-28T23:30:00 03-29T02:30:00"},
		{"a step: 02:30 runs twice", "30 */2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", "10-25T00:30:00 10-25T01:30:00 10-25T03:30:00"},
		{"a range with a step", "30 0-8/2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", "10-25T00:30:00 10-25T01:30:00 10-25T03:30:00"},

		// New York: 2026-03-08 07:00Z, 2026-11-01 06:00Z.
		{"west of Greenwich, forward", "15 2 * * *", "America/New_York", "2026-03-07T08:00:00Z", "03-08T07:00:00 03-09T06:15:00"},
		{"west of Greenwich, back", "15 1 * * *", "America/New_York", "2026-10-31T06:00:00Z", "11-01T05:15:00 11-02T06:15:00"},

		// Lord Howe: by half an hour, 2026-10-03T15:30Z 02:00 → 02:30, 2026-04-04T15:00Z 02:00 → 01:30.
		{"half an hour is left out", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "10-03T15:30:00 10-04T15:15:00"},
		{"the other half is as it was", "45 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "10-03T15:45:00"},
		{"half an hour comes twice: the first", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "04-04T14:45:00 04-05T15:15:00"},
		{"*: half an hour comes twice", "45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", "04-04T14:45:00 04-04T15:15:00 04-04T16:15:00"},

		// Midnight is left out in São Paulo, 2018-11-04T03:00Z, and in Beirut.
		{"no midnight: when the day begins", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T04:00:00Z", "11-04T03:00:00 11-05T02:00:00"},
		{"no midnight, by day of the week", "30 0 * * 0", "America/Sao_Paulo", "2018-11-03T04:00:00Z", "11-04T03:00:00 11-11T02:30:00"},
		{"the day before is shown again: once", "30 23 * * *", "America/Sao_Paulo", "2018-02-17T12:00:00Z", "02-18T01:30:00 02-19T02:30:00"},
		{"*: the day before is shown again: twice", "30 */23 * * *", "America/Sao_Paulo", "2018-02-17T12:00:00Z", "02-18T01:30:00 02-18T02:30:00 02-18T03:30:00"},

		// Apia left out 2011-12-30, from -10:00 to +14:00 at 10:00Z.
		{"a day is left out: once, when the next begins", "0 9 * * *", "Pacific/Apia", "2011-12-28T20:00:00Z", "12-29T19:00:00 12-30T10:00:00 12-30T19:00:00"},
		{"a date that never was", "0 9 30 12 *", "Pacific/Apia", "2011-01-01T00:00:00Z", "12-30T10:00:00 12-29T19:00:00"},
		{"*: a day that does not run", "0 */12 * * *", "Pacific/Apia", "2011-12-29T20:00:00Z", "12-29T22:00:00 12-30T10:00:00 12-30T22:00:00"},

		// Kathmandu went from +5:30 to +5:45 at the start of 1986; Monrovia from -0:44:30 to 0 in 1972.
		{"a quarter of an hour", "5 0 1 1 *", "Asia/Kathmandu", "1985-06-01T00:00:00Z", "12-31T18:30:00 12-31T18:20:00"},
		{"an offset of seconds", "30 0,23 6,7 1 *", "Africa/Monrovia", "1972-01-06T12:00:00Z", "01-07T00:14:30 01-07T00:44:30 01-07T23:30:00"},
		{"two hours in Troll", "30 2 * * *", "Antarctica/Troll", "2026-03-28T12:00:00Z", "03-29T01:00:00 03-30T00:30:00"},
		{"negative summer time in Dublin", "30 1 * * *", "Europe/Dublin", "2026-10-24T12:00:00Z", "10-25T00:30:00 10-26T01:30:00"},

		{"29 February", "0 0 29 2 *", "", "2096-02-29T00:00:00Z", "02-29T00:00:00 02-29T00:00:00"},
		{"the end of a leap year", "0 * 31 12 *", "Europe/Berlin", "2028-12-30T22:59:00Z", "12-30T23:00:00 12-31T00:00:00"},
		{"either of two days", "0 0 13 * FRI", "", "2026-02-01T00:00:00Z", "02-06T00:00:00 02-13T00:00:00 02-20T00:00:00"},
		{"both days where one has a *", "0 0 */2 * FRI", "", "2026-02-01T00:00:00Z", "02-13T00:00:00 02-27T00:00:00 03-13T00:00:00"},
		{"Sunday is 7", "0 0 ? * 7", "", "2026-02-02T00:00:00Z", "02-08T00:00:00"},
		{"a range over Sunday", "0 0 * jan fri-Sun", "", "2026-01-01T00:00:00Z", "01-02T00:00:00 01-03T00:00:00 01-04T00:00:00 01-09T00:00:00"},
		{"from a value on, with a step", "50/5 30 9 * * *", "", "2026-02-02T00:00:00Z", "02-02T09:30:50 02-02T09:30:55 02-03T09:30:50"},
	}
	for _, test := range tests {
		got := nextTimes(t, schedules.Entry{Cron: test.cron, Zone: test.zone}, test.after, 1+strings.Count(test.want, " "))
		if got != test.want {
			t.Errorf("%s: %s %s after %s:\n%s, want\n%s", test.what, test.cron, test.zone, test.after, got, test.want)
		}
	}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		out, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tests := []struct {
		what  string
		entry schedules.Entry
		after string
		want  string
	}{
		{"from 1970 on", schedules.Entry{Every: 7 * time.Minute}, "1970-01-01T00:00:00Z", "01-01T00:07:00 01-01T00:14:00"},
		{"1970 itself", schedules.Entry{Every: time.Hour}, "1900-01-01T00:00:00Z", "01-01T00:00:00 01-01T01:00:00"},
		{"a fraction of a second is not a time", schedules.Entry{Every: time.Second}, "2026-01-01T00:00:00.999Z", "01-01T00:00:01"},
		{"from start on", schedules.Entry{Every: time.Hour, Start: at("2026-03-29T00:17:00Z")}, "2026-03-28T00:00:00Z", "03-29T00:17:00 03-29T01:17:00"},
		{"start is one", schedules.Entry{Every: time.Hour, Start: at("2026-03-29T00:17:00Z")}, "2026-03-29T00:16:59Z", "03-29T00:17:00"},
		{"end is one", schedules.Entry{Every: time.Hour, End: at("2026-03-29T01:00:00Z")}, "2026-03-29T00:00:00Z", "03-29T01:00:00 never"},
		{"cron within start and end", schedules.Entry{Cron: "@hourly", Start: at("2026-03-29T01:00:00Z"), End: at("2026-03-29T02:59:59Z")}, "2026-03-01T00:00:00Z", "03-29T01:00:00 03-29T02:00:00 never"},
		{"once", schedules.Entry{At: at("2026-03-29T00:17:00+01:00")}, "2026-03-28T00:00:00Z", "03-28T23:17:00 never"},
		{"the last second there is", schedules.Entry{Every: 24 * time.Hour}, "9999-12-31T00:00:00Z", "never"},
		{"a year", schedules.Entry{Every: 8760 * time.Hour}, "2026-03-28T00:00:00Z", "12-18T00:00:00 12-18T00:00:00"},
	}
	for _, test := range tests {
		got := nextTimes(t, test.entry, test.after, 1+strings.Count(test.want, " "))
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

// TestZones holds the archive against the one of the Go that runs this, where
// they are of one release, and reads each zone.
func TestZones(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(strings.TrimSpace(string(out)), "lib", "time")
	script, err := os.ReadFile(filepath.Join(folder, "update.bash"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(script), "\nDATA="+schedules.ZoneVersion()+"\n") {
		theirs, err := os.ReadFile(filepath.Join(folder, "zoneinfo.zip"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(theirs, schedules.ZoneFiles) {
			t.Errorf("zoneinfo.zip is not release %s", schedules.ZoneVersion())
		}
	}
	files, err := zip.NewReader(bytes.NewReader(schedules.ZoneFiles), int64(len(schedules.ZoneFiles)))
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, f := range files.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		read++
		if err := (schedules.Entry{Name: "entry", Task: "print", Cron: "@daily", Zone: f.Name}).Validate(); err != nil {
			t.Error(err)
		}
	}
	if read < 500 {
		t.Errorf("only %d zones", read)
	}
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		policy string
		every  time.Duration
		now    time.Time
		fire   []string
		skip   int
	}{
		// An hour of standstill, looked at while the newest is on time, and after.
		{"none", 10 * time.Minute, noon.Add(time.Second), []string{"12:00:00"}, 5},
		{"none", 10 * time.Minute, noon.Add(time.Minute), nil, 6},
		{"", 10 * time.Minute, noon.Add(time.Minute), []string{"12:00:00"}, 5},
		{"one", 10 * time.Minute, noon.Add(time.Minute), []string{"12:00:00"}, 5},
		{"one", 10 * time.Minute, noon.Add(time.Second), []string{"12:00:00"}, 5},
		{"all", 10 * time.Minute, noon.Add(time.Minute), []string{"11:10:00", "11:20:00", "11:30:00", "11:40:00", "11:50:00", "12:00:00"}, 0},
		{"all(2)", 10 * time.Minute, noon.Add(time.Minute), []string{"11:10:00", "11:20:00"}, 4},
		{"all(2)", 10 * time.Minute, noon.Add(30 * time.Second), []string{"11:10:00", "11:20:00", "12:00:00"}, 3},
		{"all(2,30m)", 10 * time.Minute, noon.Add(time.Minute), []string{"11:40:00", "11:50:00"}, 4},
		{"all(100,24h)", 20 * time.Minute, noon.Add(31 * time.Second), []string{"11:20:00", "11:40:00", "12:00:00"}, 0},
	}
	for _, test := range tests {
		e := schedules.Entry{Name: "entry", Task: "print", Every: test.every}
		if test.policy != "" {
			var err error
			if e.CatchUp, err = schedules.ParseCatchUp(test.policy); err != nil {
				t.Fatal(err)
			}
		}
		s, err := e.Compile()
		if err != nil {
			t.Fatal(err)
		}
		d := s.Due(noon.Add(-time.Hour), test.now, 1000)
		var fire []string
		for _, at := range d.Fire {
			fire = append(fire, at.Format(time.TimeOnly))
		}
		if diff := cmp.Diff(test.fire, fire); diff != "" || len(d.Skip) != test.skip || !d.Last.Equal(noon) || d.More {
			t.Errorf("%s at %s: skips %d, last %s, more %t, fires%s", test.policy, test.now.Format(time.TimeOnly), len(d.Skip), d.Last, d.More, diff)
		}
	}
}

// TestDueKeepsLimits: a standstill of months is decided in bounded steps, but
// what catch-up all decides about it in one.
func TestDueKeepsLimits(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	due := func(policy string, after time.Time) schedules.Due {
		c, err := schedules.ParseCatchUp(policy)
		if err != nil {
			t.Fatal(err)
		}
		s, err := schedules.Entry{Name: "entry", Task: "print", Every: time.Second, CatchUp: c}.Compile()
		if err != nil {
			t.Fatal(err)
		}
		return s.Due(after, now, 5)
	}
	if d := due("one", now.Add(-90*24*time.Hour)); len(d.Fire) != 0 || len(d.Skip) != 10_000 || !d.More {
		t.Errorf("one: sends %d, skips %d, more %t", len(d.Fire), len(d.Skip), d.More)
	}
	if d := due("one", now.Add(-20*time.Second)); len(d.Fire) != 5 || !d.More || !d.Last.Equal(now.Add(-15*time.Second)) {
		t.Errorf("on time: sends %d, more %t, last %s", len(d.Fire), d.More, d.Last)
	}
	if d := due("all(500,168h)", now.Add(-168*time.Hour)); len(d.Fire) != 500 || len(d.Skip) != 7*86400-500-31 || !d.More {
		t.Errorf("all: sends %d, skips %d, more %t", len(d.Fire), len(d.Skip), d.More)
	}
	if d := due("all", now.Add(time.Hour)); len(d.Fire)+len(d.Skip) != 0 || d.More || !d.Last.Equal(now.Add(time.Hour)) {
		t.Errorf("a clock set back: %+v", d)
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	e := schedules.Entry{Name: "entry", Task: "print", Every: time.Minute, Jitter: 10 * time.Second}
	one, err := e.Compile()
	if err != nil {
		t.Fatal(err)
	}
	other := e
	other.Name, other.Every = "other", time.Hour
	two, err := other.Compile()
	if err != nil {
		t.Fatal(err)
	}
	var tenths [10]int
	same := 0
	for i := range int64(10_000) {
		at := time.Unix(1_790_000_000+60*i, 0)
		j := one.JitterOf(at)
		if j < 0 || j >= e.Jitter || j != one.JitterOf(at.UTC()) || j%time.Millisecond != 0 {
			t.Fatalf("jitter %s at %s", j, at)
		}
		tenths[j/time.Second]++
		if j == two.JitterOf(at) {
			same++
		}
	}
	for tenth, count := range tenths {
		if count < 800 || count > 1200 {
			t.Errorf("%d of 10000 in second %d", count, tenth)
		}
	}
	if same > 100 {
		t.Errorf("another entry has the same jitter %d times", same)
	}
	// It is part of what replicas of different releases must agree about.
	if got := one.JitterOf(time.Unix(1_790_000_000, 0)); got != 9340*time.Millisecond {
		t.Errorf("jitter %s", got)
	}
}

func TestOccurrenceID(t *testing.T) {
	t.Parallel()
	if got := schedules.OccurrenceID("nightly", time.Date(2026, 11, 22, 1, 0, 0, 0, time.FixedZone("", 3600))); got != "nightly-1795305600" {
		t.Error(got)
	}
}
