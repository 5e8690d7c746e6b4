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
