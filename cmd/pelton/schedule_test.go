package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pelton/schedules"
)

// beatWorld is a broker with its streams and buckets.
func beatWorld(t *testing.T, settings ...string) *world {
	t.Helper()
	w := newWorld(t)
	w.ok("setup", "apply", "--queues", "default")
	w.env = append(w.env, settings...)
	return w
}

// shownEntry is what show prints, as a script reads it.
type shownEntry struct {
	State   schedules.State
	Source  schedules.Source
	Next    []time.Time
	Decided time.Time
	Entry   struct{ Task string }
}

func (w *world) scheduleOf(name string) shownEntry {
	w.t.Helper()
	var s shownEntry
	if err := json.Unmarshal([]byte(w.ok("schedule", "show", name)), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestScheduleAddToRemove(t *testing.T) {
	w := beatWorld(t)
	if got := w.ok("schedule", "add", "ping", "--every", "1s", "print", `{"message":"ping"}`, "-H", "X-Of=test"); got != "ping\n" {
		t.Errorf("add printed %q", got)
	}
	if got := w.run("schedule", "add", "ping", "--every", "1s", "print"); got.code != exitRefused {
		t.Errorf("a second add: exit code %d: %s", got.code, got.stderr)
	}
	if s := w.scheduleOf("ping"); s.State != schedules.StateOK || len(s.Next) != 5 || s.Decided.IsZero() || s.Source != schedules.SourceKV {
		t.Errorf("status %+v", s)
	}
	beat := w.start("beat", "--log-level", "debug", "--log-format", "json")
	beat.stderr.has(t, `"msg":"sent"`)
	worker := w.start("worker", "--queues", "default:2")
	worker.stdout.has(t, `{"message":"ping"}`)
	w.ok("schedule", "pause", "ping")
	if got := w.ok("schedule", "ls"); !strings.Contains(got, "paused") || !strings.Contains(got, "every second") {
		t.Errorf("ls:\n%s", got)
	}
	beat.stderr.has(t, `"reason":"paused"`)
	w.ok("schedule", "resume", "ping")
	if got := w.ok("schedule", "history", "ping"); !strings.Contains(got, "fired") || !strings.Contains(got, "paused") {
		t.Errorf("history:\n%s", got)
	}
	id := strings.TrimSpace(w.ok("schedule", "run", "ping"))
	if !strings.HasPrefix(id, "default-") {
		t.Errorf("run printed %q", id)
	}
	w.ok("schedule", "add", "ping", "--every", "1h", "echo", "--replace")
	if s := w.scheduleOf("ping"); s.Entry.Task != "echo" {
		t.Errorf("status %+v", s)
	}
	if got := w.ok("schedule", "rm", "ping"); got != "ping\n" {
		t.Errorf("rm printed %q", got)
	}
	for _, verb := range []string{"rm", "pause", "resume", "show", "history", "run"} {
		if got := w.run("schedule", verb, "ping"); got.code != exitNotFound || !strings.Contains(got.stderr, "entry ping") {
			t.Errorf("%s of an entry that is gone: exit code %d: %s", verb, got.code, got.stderr)
		}
	}
	if code := beat.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, beat.stderr.String())
	}
}

func TestScheduleBadInput(t *testing.T) {
	w := beatWorld(t, "PELTON_BEAT__ENTRIES__OWN__EVERY=1h", "PELTON_BEAT__ENTRIES__OWN__TASK=print")
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"add", "a", "--every", "0s", "print"}, exitUsage, "entry a: every"},
		{[]string{"add", "a", "--every", "-1s", "print"}, exitUsage, "entry a: every"},
		{[]string{"add", "a", "--every", "often", "print"}, exitUsage, "entry a: every"},
		{[]string{"add", "a", "--cron", "0 0 0 1 1 * 2030", "print"}, exitUsage, "entry a: cron \"0 0 0 1 1 * 2030\": must have 5 fields"},
		{[]string{"add", "a", "--cron", "61 * * * *", "print"}, exitUsage, "entry a: cron \"61 * * * *\": minute must be from 0 to 59"},
		{[]string{"add", "a", "--cron", "0 0 31 2 *", "print"}, exitUsage, "entry a: cron \"0 0 31 2 *\": must be due at all"},
		{[]string{"add", "a", "--cron", "@daily", "--zone", "Mars/Olympus", "print"}, exitUsage, "entry a: zone \"Mars/Olympus\""},
		{[]string{"add", "a", "--cron", "@daily", "--zone", "europe/berlin", "print"}, exitUsage, "did you mean Europe/Berlin?"},
		{[]string{"add", "a", "--every", "1s", "--start", "2030-01-02T00:00:00Z", "--end", "2030-01-01T00:00:00Z", "print"}, exitUsage, "entry a: end"},
		{[]string{"add", "a", "--at", "tomorrow", "print"}, exitUsage, "entry a: at"},
		{[]string{"add", "a", "--every", "1s", "--cron", "@daily", "print"}, exitUsage, "entry a: every, cron, at: only one"},
		{[]string{"add", "a", "print"}, exitUsage, "entry a: every, cron, at: one of them must be given"},
		{[]string{"add", "a", "--every", "1s", "--catch-up", "some", "print"}, exitUsage, "entry a: catch_up"},
		{[]string{"add", "a", "--every", "1s", "--overlap", "merge", "print"}, exitUsage, "entry a: overlap"},
		{[]string{"add", "a", "--every", "1s", "-H", "Pelton-Id=1", "print"}, exitUsage, "Pelton-"},
		{[]string{"add", "default", "--every", "1s", "print"}, exitUsage, "entry default: queue \"default\": must not be the entry's own name"},
		{[]string{"add", "A", "--every", "1s", "print"}, exitUsage, "entry \"A\": must match"},
		{[]string{"add", "a", "--every", "1s", "print", "hi"}, exitUsage, "must be JSON"},
		{[]string{"add", "a", "--every", "1s", "--queue", "nosuch", "print"}, exitNotFound, `queue "nosuch": queue does not exist`},
		{[]string{"add", "own", "--every", "1s", "print"}, exitRefused, "PELTON_BEAT__ENTRIES__OWN__EVERY"},
		{[]string{"rm", "own"}, exitNotFound, "PELTON_BEAT__ENTRIES__OWN__EVERY"},
		{[]string{"rm"}, exitUsage, "NAME must be given"},
		{[]string{"ls", "--next", "0"}, exitUsage, "--next must be from 1 to 1000, got 0"},
		{[]string{"ls", "--next", "1001"}, exitUsage, "--next must be from 1 to 1000, got 1001"},
		{[]string{"import", "/nonexistent/beat.json"}, exitUsage, "/nonexistent/beat.json"},
	}
	for _, test := range tests {
		got := w.run(append([]string{"schedule"}, test.args...)...)
		if got.code != test.code || !strings.Contains(got.stderr, test.want) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%q: exit code %d, want %d with %q:\n%s", test.args, got.code, test.code, test.want, got.stderr)
		}
	}
	if got := w.ok("schedule", "ls"); !strings.Contains(got, "own") || !strings.Contains(got, "new") {
		t.Errorf("ls:\n%s", got)
	}
}

// What the words of ls say of times is what next tells.
func TestScheduleList(t *testing.T) {
	w := beatWorld(t)
	w.ok("schedule", "add", "weekdays", "--cron", "0 9 * * MON-FRI", "--zone", "Europe/Berlin", "print")
	w.ok("schedule", "add", "once", "--at", "2099-01-01T00:00:00Z", "print")
	w.ok("schedule", "add", "over", "--every", "1m", "--start", "2020-01-01T00:00:00Z", "--end", "2020-01-02T00:00:00Z", "print")
	got := w.ok("schedule", "ls", "--next", "3")
	for _, want := range []string{
		`(?m)^weekdays +weekdays at 09:00 Europe/Berlin +print +\S+Z \S+Z \S+Z +- +- +0 +0 +ok$`,
		`(?m)^once +once at 2099-01-01T00:00:00Z +print +2099-01-01T00:00:00Z +- +- +0 +0 +ok$`,
		`(?m)^over +.* +print +- +- +- +0 +0 +ended$`,
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no line %s in\n%s", want, got)
		}
	}
	for _, at := range w.scheduleOf("weekdays").Next {
		if local := at.In(berlin(t)); local.Hour() != 9 || local.Weekday() == time.Saturday || local.Weekday() == time.Sunday {
			t.Errorf("next %s", local)
		}
	}
}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestScheduleImport(t *testing.T) {
	w := beatWorld(t)
	file := filepath.Join(t.TempDir(), "beat.json")
	if err := os.WriteFile(file, []byte(`{
		"add-every-30-seconds": {"task": "print", "schedule": 30.0, "args": [16, 16]},
		"every-monday-morning": {"task": "print", "schedule": {"minute": "30", "hour": "7", "day_of_week": "1"}},
		"at-sunset": {"task": "print", "schedule": {"event": "sunset", "lat": -37.8, "lon": 144.9}}
	}`), 0o600); err != nil {
		t.Fatal(err)
	}
	got := w.run("schedule", "import", file, "--dry-run")
	if got.code != exitUsage || !strings.Contains(got.stdout, `{"every-monday-morning":{"cron":`) {
		t.Errorf("dry run: exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	if got := w.ok("schedule", "ls", "-o", "jsonl"); got != "" {
		t.Errorf("a dry run has added %q", got)
	}
	got = w.run("schedule", "import", file)
	if got.code != exitUsage || got.stdout != "add-every-30-seconds\nevery-monday-morning\n" || !strings.Contains(got.stderr, "at-sunset") || !strings.Contains(got.stderr, "solar") {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	ls := w.ok("schedule", "ls")
	for _, want := range []string{"every 30 seconds", "Mondays at 07:30 UTC"} {
		if !strings.Contains(ls, want) {
			t.Errorf("no %q in\n%s", want, ls)
		}
	}
	if got := w.run("schedule", "import", file); !strings.Contains(got.stderr, "entry add-every-30-seconds: id exists") {
		t.Errorf("a second import: exit code %d: %s", got.code, got.stderr)
	}
}

func TestScheduleWithoutBucket(t *testing.T) {
	w := newWorld(t)
	if got := w.run("schedule", "ls"); got.code != exitNotFound || !strings.Contains(got.stderr, "bucket PELTON_SCHEDULES: not found (pelton setup apply makes it)") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	if got := w.run("beat"); got.code != exitNotFound || !strings.Contains(got.stderr, "KV_PELTON_SCHEDULES: missing") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}
