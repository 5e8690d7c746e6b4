package main

import (
	"strings"
	"testing"
	"time"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestSendAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "default"}, {Name: "mail", Priorities: []wire.Priority{wire.PriorityHigh}}}})
	at := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for id, args := range map[string][]string{
		"in":       {"--in", "1h"},
		"at":       {"--at", at, "--expires", "2h", "--tracked"},
		"mail":     {"--queue", "mail", "--priority", "high", "--in", "30m", "--backoff", "1s,5s,1m", "--attempt-timeout", "1m"},
		"explicit": {"--id", "job-77", "--in", "1h"},
	} {
		sent := strings.TrimSpace(w.ok(append([]string{"send", "print", `{"message":"hi"}`}, args...)...))
		queue := "default"
		if id == "mail" {
			queue = "mail"
		}
		shown := w.ok("task", "show", sent, "--queue", queue)
		if !strings.Contains(shown, "scheduled") || !strings.Contains(shown, "DUE") {
			t.Errorf("%s: %s", id, shown)
		}
		if got := w.ok("task", "cancel", sent, "--queue", queue); !strings.Contains(got, "revoked") || !strings.Contains(got, sent) {
			t.Errorf("%s: %s", id, got)
		}
	}
	first := strings.TrimSpace(w.ok("send", "print", `{"message":"hi"}`))
	got := w.run("task", "cancel", "nobody", first, "-o", "jsonl")
	if got.code != exitNotFound || !strings.Contains(got.stdout, `"revoked"`) || !strings.Contains(got.stderr, "nobody") {
		t.Errorf("%+v", got)
	}
	if got := w.run("task", "cancel"); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
}

// TestSendSaysItByHeader: each flag is the header, or the subject, by which any
// client says the same.
func TestSendSaysItByHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: "mail", Priorities: []wire.Priority{wire.PriorityHigh}}}})
	at, expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second), time.Now().Add(2*time.Hour).UTC().Truncate(time.Second)
	flags := []string{
		"send", "print", "1", "--queue", "mail", "--priority", "high", "--id", "one", "--max-attempts", "3", "--backoff", "1s,5s",
		"--attempt-timeout", "90s", "--expires", expires.Format(time.RFC3339), "-H", "X-Customer=42",
	}
	w.ok(flags...)
	w.ok(append(flags, "--id", "two", "--at", at.Format(time.RFC3339))...)
	want := map[string]string{
		"Pelton-Max-Attempts": "3", "Pelton-Backoff": "1s,5s", "Pelton-Timeout": "1m30s", "Pelton-Expires": wire.FormatTime(expires), "X-Customer": "42",
	}
	check := func(stream, subject string) {
		t.Helper()
		s, err := w.broker.JetStream().Stream(testContext(t), stream)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetLastMsgForSubject(testContext(t), subject)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if got := m.Header.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", subject, name, got, value)
			}
		}
	}
	check("PELTON_TASKS_mail_high", "pelton.task.mail_high.print.one")
	want["Pelton-Eta"], want["Nats-Schedule-Target"] = wire.FormatTime(at), "pelton.due.mail_high.print.two"
	check("PELTON_LATER_mail_high", "pelton.later.mail_high.two")
}

func TestSendRefusesBadTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.Setup("default")
	for _, tc := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--in", "-5m"}, `--in "-5m": must be a duration as 1m30s, from 0 to a year (8760h)`, exitUsage},
		{[]string{"--in", "5 minutes"}, `--in "5 minutes": must be a duration`, exitUsage},
		{[]string{"--in", ""}, `--in "": must be a duration`, exitUsage},
		{[]string{"--at", "2026-11-22T22:29:10"}, `--at "2026-11-22T22:29:10": must name its zone`, exitUsage},
		{[]string{"--at", "9999-12-31T23:59:59Z"}, "must lie at most a year (8760h) ahead", exitUsage},
		{[]string{"--at", "soon"}, "must be a time as", exitUsage},
		{[]string{"--in", "5m", "--at", "2026-11-22T22:29:10Z"}, "give one", exitUsage},
		{[]string{"--in", "5m", "--expires", "4m"}, "must not lie before the ETA", exitUsage},
		{[]string{"--expires", "2001-02-03T04:05:06Z"}, "must lie ahead", exitUsage},
		{[]string{"--priority", "urgent"}, `--priority "urgent": must be high or low`, exitUsage},
		{[]string{"--priority", "high"}, "default_high", exitNotFound},
		{[]string{"--backoff", "soon"}, "--backoff: Pelton-Backoff", exitUsage},
		{[]string{"--attempt-timeout", "0s"}, "must be above 0", exitUsage},
	} {
		got := w.run(append([]string{"send", "print", `{}`}, tc.args...)...)
		if got.code != tc.code || !strings.Contains(got.stderr, tc.want) || strings.Count(strings.TrimSpace(got.stderr), "\n") > 0 || got.stdout != "" {
			t.Errorf("%q: %+v", tc.args, got)
		}
	}
}
