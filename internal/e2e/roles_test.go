//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pelton/engine/enginetest"
)

// shipped is the configuration of nats-server that is shipped, with a user for
// each role.
const shipped = "../../deployments/nats/nats-server.conf"

// violations keeps what a broker says of what it has forbidden.
type violations struct {
	mu   sync.Mutex
	said []string
}

func (v *violations) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("Violation")) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.said = append(v.said, string(b))
	}
	return len(b), nil
}

func (v *violations) all() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.said)
}

// as is the world to a user of the broker.
func (w *world) as(user string) *world {
	as := *w
	as.env = append(slices.Clone(w.env), "PELTON_NATS__USER="+user, "PELTON_NATS__PASSWORD="+password(user), "PELTON_NATS__INBOX_PREFIX=_INBOX_"+user)
	return &as
}

func password(user string) string { return "of-" + user }

// does runs a command to its end, which must be a good one.
func (w *world) does(args ...string) string {
	w.t.Helper()
	out, code := w.pelton(args...)
	if code != 0 {
		w.t.Fatalf("pelton %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// beats has entries of every policy of overlap sent, and looked at.
func (w *world) beats() {
	w.t.Helper()
	s := w.as("scheduler")
	entries := []string{"queue", "skip", "replace"}
	for _, overlap := range entries {
		s.does("schedule", "add", overlap, "--every", "1s", "--overlap", overlap, "print", `"tick"`)
	}
	deadline := time.Now().Add(time.Minute)
	for _, name := range entries {
		for fired := 0; fired < 2; {
			var entry struct{ Counts map[string]int }
			if err := json.Unmarshal([]byte(s.does("schedule", "show", name)), &entry); err != nil {
				w.t.Fatal(err)
			}
			if fired = entry.Counts["fired"]; time.Now().After(deadline) {
				w.t.Fatalf("entry %s was sent %d times", name, fired)
			}
		}
	}
	s.does("schedule", "ls", "--next", "3")
	s.does("schedule", "pause", "skip")
	s.does("schedule", "resume", "skip")
	s.does("schedule", "history", "skip")
	s.does("schedule", "run", "skip")
	s.does(append([]string{"schedule", "rm"}, entries...)...)
}

// TestRolesWithTheirUsers runs every role as the user that is shipped for it:
// the broker forbids nothing of what they do.
func TestRolesWithTheirUsers(t *testing.T) {
	for _, user := range []string{"publisher", "trusted", "waiter", "canceller", "worker", "beat", "scheduler", "ingest", "emit", "setup", "janitor", "observer", "operator"} {
		t.Setenv("NATS_"+strings.ToUpper(user)+"_PASSWORD", password(user))
	}
	forbidden := &violations{}
	w := emptyWorld(t, enginetest.Start(t, func(cfg *enginetest.ServerConfig) {
		cfg.ConfigFile, cfg.Monitor, cfg.Logger = shipped, true, slog.New(slog.NewTextHandler(forbidden, nil))
	}))
	w.as("setup").does("setup", "apply")
	roles := []*role{w.as("worker").start("worker"), w.as("beat").start("beat"), w.as("ingest").start("edge", "ingest"), w.as("emit").start("edge", "emit")}

	const commands = 20
	w.does("produce", "hello", "--topic", "commands", "--count", fmt.Sprint(commands), "--every", "1ms")
	w.allResults(commands, time.Minute)

	w.as("publisher").does("send", "print", `1`, "--id", "first")
	w.as("publisher").does("send", "print", `1`, "--count", "500")
	w.as("publisher").does("send", "print", `1`, "--count", "20", "--atomic")
	w.as("trusted").does("send", "print", `1`, "--id", "late", "--in", "1h")
	w.as("trusted").does("send", "print", `1`, "--id", "soon", "--in", "100ms")
	w.as("waiter").does("task", "wait", "soon", "--timeout", "20s")
	w.as("canceller").does("task", "cancel", "late")
	for _, id := range []string{"first", "late", "soon"} {
		w.as("operator").does("task", "show", id)
	}
	w.beats()
	w.as("operator").does("queue", "ls")
	w.as("operator").does("dead", "ls")
	w.as("operator").does("doctor")
	for _, r := range roles {
		r.stop()
	}
	for _, line := range forbidden.all() {
		// Who waits asks whether it may look into the queue for a task that has no
		// record yet.
		if !strings.Contains(line, "user:waiter") || !strings.Contains(line, "STREAM.MSG.GET") {
			t.Error(line)
		}
	}

	// The control: what a role does not do is forbidden, and told.
	before := len(forbidden.all())
	if out, code := w.as("publisher").pelton("queue", "ls"); code != 7 || len(forbidden.all()) == before {
		t.Errorf("a publisher that looks at queues: exit %d, %d violations\n%s", code, len(forbidden.all())-before, out)
	}
}
