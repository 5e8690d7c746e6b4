package main

import (
	"encoding/json"
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
		{[]string{"add", "a", "--every", "1s", "print", "hi"}, exitUsage, "must be JSON"},
		{[]string{"add", "a", "--every", "1s", "--queue", "nosuch", "print"}, exitNotFound, `queue "nosuch": queue does not exist`},
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

func TestScheduleWithoutBucket(t *testing.T) {
	w := newWorld(t)
	if got := w.run("schedule", "ls"); got.code != exitNotFound || !strings.Contains(got.stderr, "bucket PELTON_SCHEDULES: not found (pelton setup apply makes it)") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	if got := w.run("beat"); got.code != exitNotFound || !strings.Contains(got.stderr, "KV_PELTON_SCHEDULES: missing") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}
