package main

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

var probesAt = regexp.MustCompile(`probes are answered.*address"?[=:]"?(127\.0\.0\.1:\d+)`)

// probed is where a role answers probes.
func (r *role) probed() string {
	r.t.Helper()
	r.stderr.has(r.t, "probes are answered")
	return probesAt.FindStringSubmatch(r.stderr.String())[1]
}

// becomes asks a role until pelton health ends with a code.
func (w *world) becomes(code int, args ...string) ended {
	w.t.Helper()
	ctx := testContext(w.t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := w.run(append([]string{"health"}, args...)...)
		if got.code == code {
			return got
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("pelton health %s: exit code %d, want %d: %s", strings.Join(args, " "), got.code, code, got.stderr)
		}
	}
}

// Every role answers: it lives, it becomes ready, and nobody answers once it
// has ended.
func TestEveryRoleAnswersProbes(t *testing.T) {
	w := newWorld(t).withKafka("commands", "results")
	w.ok("setup", "apply")
	for _, args := range []string{
		"worker", "edge ingest", "edge emit", "produce --message hi", "dev --quiet",
	} {
		r := w.start(append(strings.Fields(args), "--telemetry-addr", "127.0.0.1:0", "--log-level", "info")...)
		addr := r.probed()
		if got := w.run("health", "--addr", addr); got.code != exitOK || got.stdout != "" || got.stderr != "" {
			t.Errorf("%s does not live: exit code %d, %q %q", args, got.code, got.stdout, got.stderr)
		}
		w.becomes(exitOK, "--ready", "--addr", addr)
		if code := r.stop(); code != exitOK {
			t.Errorf("%s: exit code %d: %s", args, code, r.stderr.String())
		}
		if got := w.run("health", "--addr", addr); got.code != exitUnreachable || !strings.Contains(got.stderr, "no answer") {
			t.Errorf("%s has ended: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}

// A role whose brokers are absent lives and is not ready, and says why.
func TestNotReadyWithoutBrokers(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"NATS_URL=nats://127.0.0.1:1", "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1", "PELTON_TELEMETRY__ADDR=127.0.0.1:0"}
	for _, args := range []string{"worker", "edge ingest", "edge emit"} {
		addr := w.start(strings.Fields(args)...).probed()
		w.becomes(exitOK, "--addr", addr)
		if got := w.becomes(exitInternal, "--ready", "--addr", addr); !strings.Contains(got.stderr, "unhealthy: ") {
			t.Errorf("%s: %s", args, got.stderr)
		}
	}
}

// From the first signal on a role is not ready, and it lives to the end.
func TestDrainIsToldToProbes(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	r := w.start("worker", "--queues", "default:1", "--telemetry-addr", "127.0.0.1:0")
	addr := r.probed()
	w.becomes(exitOK, "--ready", "--addr", addr)
	unread := make(chan struct{})
	r.stdout.mu.Lock() // the print that is under way holds up the drain
	go func() {
		defer r.stdout.mu.Unlock()
		<-unread
	}()
	w.ok("send", "print", `{"message":"hi"}`)
	w.running(t)
	r.cancel()
	if got := w.becomes(exitInternal, "--ready", "--addr", addr); !strings.Contains(got.stderr, "draining") {
		t.Errorf("draining: %s", got.stderr)
	}
	if got := w.run("health", "--addr", addr); got.code != exitOK {
		t.Errorf("a role that drains does not live: %s", got.stderr)
	}
	close(unread)
	if code := r.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// running waits until a task of the default queue runs.
func (w *world) running(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(w.ok("queue", "ls", "-o", "jsonl"), `"running":1`) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the task does not run")
		}
	}
}

func TestHealthAddresses(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply") // streams that are still being made outlive the broker
	taken := w.start("worker", "--telemetry-addr", "127.0.0.1:0").probed()
	for _, tc := range []struct{ args, want string }{
		{"health", "telemetry.addr must be set"},
		{"health --addr 127.0.0.1:0", "port 0 is a free one"},
		{"health --addr here", "must be host:port"},
		{"worker --telemetry-addr " + taken, "telemetry.addr " + taken + ": cannot listen"},
		{"produce hi --telemetry-addr " + taken, "telemetry.addr " + taken + ": cannot listen"},
	} {
		if got := w.run(strings.Fields(tc.args)...); got.code != exitUsage || !strings.Contains(got.stderr, tc.want) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d: %s", tc.args, got.code, got.stderr)
		}
	}
	w.env = append(w.env, "PELTON_TELEMETRY__ADDR="+taken)
	w.ok("health")
}
