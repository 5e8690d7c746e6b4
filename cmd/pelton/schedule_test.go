package main

import (
	"encoding/json"
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
	When    string
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
	w.ok("schedule", "add", "there", "--every", "1h", "print")
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"add", "a", "--cron", "* * * * * * *", "print"}, exitUsage, `entry a: cron "* * * * * * *": must have 5 fields, or 6 with the second first, got 7`},
		{[]string{"add", "a", "--cron", "61 * * * *", "print"}, exitUsage, `entry a: cron "61 * * * *": minute must be from 0 to 59, got "61"`},
		{[]string{"add", "a", "--cron", "0 0 31 2 *", "print"}, exitUsage, `entry a: cron "0 0 31 2 *": must be due at all: there is no such day`},
		{[]string{"add", "a", "--cron", "@daily", "--zone", "Europe/Berlim", "print"}, exitUsage, `entry a: zone "Europe/Berlim": must be a zone of the IANA database, as Europe/Berlin`},
		{[]string{"add", "a", "--every", "0s", "print"}, exitUsage, `entry a: every "0s": must be whole seconds, from 1s to a year (8760h)`},
		{[]string{"add", "a", "--every", "-5s", "print"}, exitUsage, `entry a: every "-5s": must be whole seconds, from 1s to a year (8760h)`},
		{
			[]string{"add", "a", "--every", "1m", "--start", "2030-01-02T00:00:00Z", "--end", "2030-01-01T00:00:00Z", "print"},
			exitUsage,
			`entry a: end "2030-01-01T00:00:00Z": must not be before start, 2030-01-02T00:00:00Z`,
		},
		{[]string{"add", "a", "--every", "1m", "--at", "2030-01-02T00:00:00Z", "print"}, exitUsage, `entry a: every, cron, at: only one of them may be given`},
		{[]string{"add", "a", "print"}, exitUsage, `entry a: every, cron, at: one of them must be given`},
		{[]string{"add", "a", "--every", "1m", "--catch-up", "some", "print"}, exitUsage, `entry a: catch_up "some": must be none, one, all, or all(10,1h)`},
		{[]string{"add", "a", "--every", "1m", "--overlap", "wait", "print"}, exitUsage, `entry a: overlap "wait": must be skip, queue or replace`},
		{[]string{"add", "a", "--every", "1s", "print", "hi"}, exitUsage, `entry a: body: not JSON, must be JSON; a text needs quotes: '"hi"'`},
		{[]string{"add", "a", "--every", "1s", "-H", "Pelton-Eta=now", "print"}, exitUsage, `entry a: headers "Pelton-Eta": must not have names that begin with Pelton- or Nats-`},
		{[]string{"add", "a", "--every", "1s", "--queue", "nosuch", "print"}, exitNotFound, `entry a: queue "nosuch": queue does not exist`},
		{[]string{"add", "default", "--every", "1s", "print"}, exitUsage, `entry default: queue "default": must not be the entry's own name`},
		{[]string{"add", "Nightly", "--every", "1s", "print"}, exitUsage, `entry "Nightly": must match [a-z0-9][a-z0-9-]{0,63}`},
		{[]string{"add", "there", "--every", "1s", "print"}, exitRefused, `entry there: stands in bucket PELTON_SCHEDULES, key there already`},
		{[]string{"add", "own", "--every", "1s", "print"}, exitRefused, "PELTON_BEAT__ENTRIES__OWN__EVERY"},
		{[]string{"rm", "own"}, exitNotFound, "PELTON_BEAT__ENTRIES__OWN__EVERY"},
		{[]string{"rm"}, exitUsage, "NAME must be given"},
		{[]string{"ls", "--next", "0"}, exitUsage, "--next must be from 1 to 1000, got 0"},
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

// Entries that somebody has written into the bucket by hand: each is told of by
// its name and its field, by beat and by ls, and the others go on.
func TestScheduleEditedByHand(t *testing.T) {
	w := beatWorld(t, "PELTON_BEAT__ENTRIES__TWICE__EVERY=1h", "PELTON_BEAT__ENTRIES__TWICE__TASK=print")
	kv, err := w.broker.JetStream().KeyValue(t.Context(), "PELTON_SCHEDULES")
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string][2]string{ // value, what is said of it
		"seven":   {`{"cron":"* * * * * * *","task":"print"}`, `cron "* * * * * * *": must have 5 fields`},
		"minute":  {`{"cron":"61 * * * *","task":"print"}`, `minute must be from 0 to 59, got "61"`},
		"never":   {`{"cron":"0 0 31 2 *","task":"print"}`, `must be due at all: there is no such day`},
		"zone":    {`{"cron":"@daily","zone":"Mars/Olympus","task":"print"}`, `zone "Mars/Olympus": must be a zone of the IANA database`},
		"zero":    {`{"every":"0s","task":"print"}`, `every "0s": must be whole seconds`},
		"minus":   {`{"every":"-1s","task":"print"}`, `every "-1s": must be whole seconds`},
		"end":     {`{"every":"1s","start":"2030-01-02T00:00:00Z","end":"2030-01-01T00:00:00Z","task":"print"}`, `must not be before start`},
		"body":    {`{"every":"1s","task":"print","body":hi}`, `not JSON at byte 37, must be JSON`},
		"nowhere": {`{"every":"1s","task":"print","queue":"nosuch"}`, `queue "nosuch": queue does not exist`},
		"default": {`{"every":"1s","task":"print"}`, `queue "default": must not be the entry's own name`},
		"twice":   {`{"every":"1s","task":"print"}`, `is defined twice, in PELTON_BEAT__ENTRIES__TWICE__EVERY: beat.entries.twice and in bucket PELTON_SCHEDULES, key twice`},
		"number":  {`{"every":10,"task":"print"}`, `every: must be a text`},
		"unknown": {`{"evry":"10s","task":"print"}`, `field "evry": must be one of every, cron, at`},
		"noise":   {"\x00\xff\x01", `must be JSON`},
		"empty":   {``, `empty, must be JSON`},
	}
	beat := w.start("beat", "--log-format", "json")
	beat.stderr.has(t, `"msg":"beat started"`)
	for name, e := range entries {
		if _, err := kv.PutString(t.Context(), name, e[0]); err != nil {
			t.Fatal(err)
		}
	}
	w.ok("schedule", "add", "good", "--every", "1s", "print")
	for name, e := range entries {
		said, err := json.Marshal(e[1])
		if err != nil {
			t.Fatal(err)
		}
		beat.stderr.has(t, `"msg":"entry is not run"`)
		beat.stderr.has(t, `"entry":"`+name+`"`)
		beat.stderr.has(t, strings.Trim(string(said), `"`))
		if got := w.ok("schedule", "show", name); !strings.Contains(got, `"invalid"`) {
			t.Errorf("show %s:\n%s", name, got)
		}
	}
	listed := w.ok("schedule", "ls")
	if n := strings.Count(listed, "invalid"); n != len(entries)+1 { // both of twice
		t.Errorf("%d are invalid in:\n%s", n, listed)
	}
	worker := w.start("worker", "--queues", "default:2")
	worker.stdout.has(t, "null")
}

// Entries of pelton.yaml that are wrong are told of by their line, name and
// field, and the others go on.
func TestScheduleOfTheSettings(t *testing.T) {
	w := beatWorld(t)
	dir := t.TempDir()
	writeFile(t, dir, "pelton.yaml", `beat:
  entries:
    good: {every: 1s, task: print, body: {message: fine}}
    seven: {cron: "* * * * * * *", task: print}
    minute: {cron: "61 * * * *", task: print}
    never: {cron: "0 0 31 2 *", task: print}
    zone: {cron: "@daily", zone: Mars/Olympus, task: print}
    zero: {every: 0s, task: print}
    minus: {every: -5s, task: print}
    end: {every: 1s, start: "2030-01-02T00:00:00Z", end: "2030-01-01T00:00:00Z", task: print}
    nowhere: {every: 1s, task: print, queue: nosuch}
    default: {every: 1s, task: print}
`)
	w.env = append(w.env, "PELTON_CONFIG="+filepath.Join(dir, "pelton.yaml"))
	want := []string{
		`pelton.yaml:4: beat.entries.seven: entry seven: cron "* * * * * * *": must have 5 fields, or 6 with the second first, got 7`,
		`pelton.yaml:5: beat.entries.minute: entry minute: cron "61 * * * *": minute must be from 0 to 59, got "61"`,
		`pelton.yaml:6: beat.entries.never: entry never: cron "0 0 31 2 *": must be due at all: there is no such day`,
		`pelton.yaml:7: beat.entries.zone: entry zone: zone "Mars/Olympus": must be a zone of the IANA database`,
		`pelton.yaml:8: beat.entries.zero: entry zero: every "0s": must be whole seconds, from 1s to a year (8760h)`,
		`pelton.yaml:9: beat.entries.minus: entry minus: every "-5s": must be whole seconds, from 1s to a year (8760h)`,
		`pelton.yaml:10: beat.entries.end: entry end: end "2030-01-01T00:00:00Z": must not be before start`,
		`pelton.yaml:11: beat.entries.nowhere: entry nowhere: queue "nosuch": queue does not exist`,
		`pelton.yaml:12: beat.entries.default: entry default: queue "default": must not be the entry's own name`,
	}
	beat := w.start("beat", "--log-format", "json")
	for _, line := range want {
		said, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		beat.stderr.has(t, strings.Trim(string(said), `"`))
	}
	worker := w.start("worker", "--queues", "default:2")
	worker.stdout.has(t, `{"message":"fine"}`)
	if listed := w.ok("schedule", "ls"); strings.Count(listed, "invalid") != len(want) {
		t.Errorf("ls:\n%s", listed)
	}
}

func TestScheduleImport(t *testing.T) {
	w := beatWorld(t, "PELTON_BEAT__ENTRIES__OWN__EVERY=1h", "PELTON_BEAT__ENTRIES__OWN__TASK=print")
	const file = `{
		"send report": {"task": "proj.tasks.report", "schedule": {"minute": 0, "hour": 9, "day_of_week": "mon-fri"}, "kwargs": {"full": true}},
		"poll": {"task": "proj.tasks.poll", "schedule": 30.0, "options": {"expires": 20}},
		"dusk": {"task": "proj.tasks.lights", "schedule": {"event": "sunset", "lat": 52.5, "lon": 13.4}}
	}`
	got := w.runWith(file, "schedule", "import", "-", "--dry-run")
	if want := "{\"poll\":{\"every\":\"30s\",\"task\":\"poll\",\"expires\":\"20s\"}}\n"; !strings.Contains(got.stdout, want) || got.code != exitUsage {
		t.Errorf("dry run: exit code %d, want %s in:\n%s", got.code, want, got.stdout)
	}
	if listed := w.ok("schedule", "ls", "-q"); listed != "own\n" {
		t.Errorf("a dry run has added %s", listed)
	}
	got = w.runWith(file, "schedule", "import", "-")
	if got.code != exitUsage || got.stdout != "poll\nsend-report\n" || !strings.Contains(got.stderr, `entry "dusk": schedule: must not be solar`) {
		t.Errorf("import: exit code %d\n%s\n%s", got.code, got.stdout, got.stderr)
	}
	if listed := w.ok("schedule", "ls"); !strings.Contains(listed, "weekdays at 09:00 UTC") || !strings.Contains(listed, "every 30 seconds") {
		t.Errorf("ls:\n%s", listed)
	}
	if got := w.runWith(`{"poll": {"task": "poll", "schedule": 30}}`, "schedule", "import", "-"); got.code != exitRefused {
		t.Errorf("import of what is there: exit code %d: %s", got.code, got.stderr)
	}
	// One of the settings is not made a second time, and so stopped.
	got = w.runWith(`{"own": {"task": "poll", "schedule": 30}}`, "schedule", "import", "-", "--replace")
	if got.code != exitRefused || !strings.Contains(got.stderr, "entry own: stands in PELTON_BEAT__ENTRIES__OWN__EVERY") {
		t.Errorf("import of what the settings have: exit code %d: %s", got.code, got.stderr)
	}
	w.runWith(`{"poll": {"task": "poll", "schedule": 60}}`, "schedule", "import", "-", "--replace")
	if s := w.scheduleOf("poll"); s.When != "every minute" {
		t.Errorf("replaced: %+v", s)
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
		`(?m)^weekdays +weekdays at 09:00 Europe/Berlin +print +\S+Z \S+Z \S+Z +- +- +0 +0 +0 +ok$`,
		`(?m)^once +once at 2099-01-01T00:00:00Z +print +2099-01-01T00:00:00Z +- +- +0 +0 +0 +ok$`,
		`(?m)^over +.* +print +- +- +- +0 +0 +0 +ended$`,
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

func TestScheduleWithoutBucket(t *testing.T) {
	w := newWorld(t)
	if got := w.run("schedule", "ls"); got.code != exitNotFound || !strings.Contains(got.stderr, "bucket PELTON_SCHEDULES: not found (pelton setup apply makes it)") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	if got := w.run("beat"); got.code != exitNotFound || !strings.Contains(got.stderr, "KV_PELTON_SCHEDULES: missing") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}
