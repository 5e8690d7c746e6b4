package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	w := newWorld(t)
	if got := w.run("doctor"); got.code != exitDifference || !strings.Contains(got.stdout, "stream PELTON_DEAD: missing") || !strings.Contains(got.stdout, "pelton setup apply") {
		t.Errorf("before setup: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	w.ok("setup", "apply")
	got := w.run("doctor")
	if got.code != exitOK || !strings.Contains(got.stdout, "warn   durability") || strings.Contains(got.stdout, "FAIL") || !strings.Contains(got.stderr, "--all shows them") {
		t.Errorf("after setup: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if all := w.ok("doctor", "--all"); !strings.Contains(all, "ok     clock") {
		t.Errorf("all:\n%s", all)
	}
	w.ok("send", "print", "1")
	got = w.run("doctor", "-o", "json")
	var found []struct{ Level, Check, Finding, Fix string }
	if err := json.Unmarshal([]byte(got.stdout), &found); err != nil || got.code != exitDifference {
		t.Fatalf("exit code %d, %v: %s", got.code, err, got.stdout)
	}
	for _, f := range found {
		if f.Level == "FAIL" && (f.Check != "worker" || f.Fix != "pelton worker --queues default:1") {
			t.Errorf("found %+v", f)
		}
	}
}

func TestDoctorWithoutABroker(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"NATS_URL=nats://who:canary@127.0.0.1:1"}
	got := w.run("doctor", "--timeout", "2s")
	if got.code != exitDifference || strings.Count(got.stdout, "FAIL") != 1 || !strings.Contains(got.stdout, "skipped, because nats is not reachable") {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if strings.Contains(got.stdout+got.stderr, "canary") {
		t.Error("the password is told")
	}
}
