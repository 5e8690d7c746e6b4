package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/bench"
	"pelton/internal/config"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"help":        nil,
		"help-worker": {"worker", "--help"},
		"help-send":   {"help", "enqueue"},
		"help-setup":  {"setup", "apply", "-h"},
	} {
		got := runIn(t.Context(), nil, nil, args...)
		if got.code != exitOK || got.stderr != "" {
			t.Errorf("%s: exit code %d: %s", name, got.code, got.stderr)
		}
		golden(t, name, got.stdout)
	}
}

// walk calls f for each command that does something.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	for _, c := range cmd.Commands() {
		f(c)
		walk(c, f)
	}
}

// Every help ends with examples that can be typed, and every flag that is bound
// to a key is bound to one that exists.
func TestEveryCommand(t *testing.T) {
	t.Parallel()
	root := (&app{}).root()
	walk(root, func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return
		}
		if n := strings.Count(cmd.Example, "pelton "); n < 2 || n > 5 {
			t.Errorf("%s has %d examples", cmd.CommandPath(), n)
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(strings.TrimSpace(line)) > 80 {
				t.Errorf("%s: a long line: %s", cmd.CommandPath(), line)
			}
		}
		for line := range strings.Lines(cmd.Example) {
			args := strings.Fields(line[strings.Index(line, "pelton ")+len("pelton "):])
			found, _, err := root.Find(args)
			if err != nil || found.CommandPath() != cmd.CommandPath() && !cmd.HasSubCommands() {
				t.Errorf("%s: the example is one of %s: %v", cmd.CommandPath(), found.CommandPath(), err)
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { isBoundToKey(t, cmd, f) })
	})
}

func isBoundToKey(t *testing.T, cmd *cobra.Command, f *pflag.Flag) {
	t.Helper()
	part := map[string]config.Part{
		"pelton edge ingest":       config.PartIngest,
		"pelton edge emit":         config.PartEmit,
		"pelton setup plan":        config.PartQueues,
		"pelton setup apply":       config.PartQueues,
		"pelton setup permissions": config.PartQueues,
	}[cmd.CommandPath()]
	given := pflag.NewFlagSet("", pflag.ContinueOnError)
	given.AddFlag(&pflag.Flag{Name: f.Name, Value: new(text), Annotations: f.Annotations})
	if err := given.Set(f.Name, "x"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if v := recover(); v != nil {
			t.Errorf("%s: %v", cmd.CommandPath(), v)
		}
	}()
	_, _ = config.Load(config.Options{Flags: given, Part: part}) // panics on a key that is none; x is no good value
}

func TestVersion(t *testing.T) {
	t.Parallel()
	got := runIn(t.Context(), nil, nil, "version", "-o", "jsonl")
	var b build
	if err := json.Unmarshal([]byte(got.stdout), &b); err != nil || got.code != exitOK || !strings.HasPrefix(b.Go, "go1.") || b.Commit == "" || b.Version == "" {
		t.Errorf("exit code %d, %q, %v", got.code, got.stdout, err)
	}
	if got := runIn(t.Context(), nil, nil, "version"); !strings.HasPrefix(got.stdout, "VERSION") {
		t.Errorf("wrote %q", got.stdout)
	}
}

func TestSendBody(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	file := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(file, []byte(`{"from": "file"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.ok("send", "print", "@"+file, "-H", "Customer=a=b", "--max-attempts", "3"); got != "default-1\n" {
		t.Errorf("wrote %q", got)
	}
	if got := w.runWith(`{"from": "stdin"}`, "enqueue", "print", "-", "-q"); got.stdout != "default-2\n" || got.stderr != "" {
		t.Errorf("wrote %q, %q", got.stdout, got.stderr)
	}
	if got := w.ok("send", "print", "1", "--count", "3"); got != "default-3\ndefault-4\ndefault-5\n" {
		t.Errorf("wrote %q", got)
	}
	stream, err := w.broker.JetStream().Stream(testContext(t), "PELTON_TASKS_default")
	if err != nil {
		t.Fatal(err)
	}
	for sequence, want := range map[uint64]string{1: `{"from": "file"}`, 2: `{"from": "stdin"}`, 5: `1`} {
		m, err := stream.GetMsg(testContext(t), sequence)
		if err != nil || string(m.Data) != want {
			t.Errorf("%d: %s, %v", sequence, m.Data, err)
		}
		if sequence == 1 && (m.Header.Get("Customer") != "a=b" || m.Header.Get("Pelton-Max-Attempts") != "3") {
			t.Errorf("headers %v", m.Header)
		}
	}
}

func TestNamespace(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "PELTON_NAMESPACE=acme")
	w.ok("setup", "apply")
	w.ok("send", "print", "1")
	if got := w.ok("queue", "ls", "-q"); got != "default\n" {
		t.Errorf("queues %q", got)
	}
	if got := w.ok("queue", "ls", "-q", "--namespace", "other"); got != "" {
		t.Errorf("queues of others %q", got)
	}
	if _, err := w.broker.JetStream().Stream(testContext(t), "ACME_TASKS_default"); err != nil {
		t.Error(err)
	}
}

func TestQueueAndDeadList(t *testing.T) {
	w := newWorld(t)
	if got := w.ok("queue", "ls", "-o", "json"); got != "[]\n" {
		t.Errorf("no queues: %q", got)
	}
	w.ok("setup", "apply", "--queues", "default,mail")
	w.ok("send", "print", "1", "--count", "2")
	js := w.broker.JetStream()
	for i := range 3 {
		m := nats.NewMsg(fmt.Sprintf("pelton.dead.mail.send.job-%d", i))
		m.Header.Set(wire.HeaderErrorType, "error")
		m.Header.Set(wire.HeaderError, "no such\x1b[2Jmailbox")
		m.Header.Set(wire.HeaderAttempt, "5")
		m.Header.Set(wire.HeaderDiedAt, "2026-11-22T22:29:10.5Z")
		if _, err := js.PublishMsg(testContext(t), m); err != nil {
			t.Fatal(err)
		}
	}
	var queues []engine.QueueStatus
	if err := json.Unmarshal([]byte(w.ok("queue", "ls", "-o", "json")), &queues); err != nil {
		t.Fatal(err)
	}
	if len(queues) != 2 || queues[0].Pending != 2 || queues[0].State != engine.QueueNoWorker || queues[1].Dead != 3 || queues[1].Queue != "mail" {
		t.Errorf("queues %+v", queues)
	}
	golden(t, "dead-ls", w.ok("dead", "ls"))
	if got := w.run("dead", "ls", "--queue", "mail", "--limit", "2", "-q"); got.stdout != "job-2\njob-1\n" || got.stderr != "pelton: the newest 2 are shown, --limit shows more\n" {
		t.Errorf("wrote %q, %q", got.stdout, got.stderr)
	}
	if got := w.ok("dead", "ls", "--queue", "default"); got != "ID  TASK  QUEUE  ERROR  ATTEMPTS  DIED\n" {
		t.Errorf("wrote %q", got)
	}
	if got := w.ok("dead", "ls", "-o", "jsonl"); strings.Count(got, "\n") != 3 || !strings.Contains(got, `"error":"no such\u001b[2Jmailbox"`) {
		t.Errorf("wrote %q", got)
	}
}

func TestTaskShowWaiting(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	w.ok("send", "print", "1")
	got := w.ok("task", "show", "default-1")
	if !strings.HasPrefix(got, "ID       default-1\nTASK     print\n") || !strings.Contains(got, "STATE    queued\n") {
		t.Errorf("wrote %q", got)
	}
	if got := w.ok("task", "show", "default-1", "-q"); got != "default-1\n" {
		t.Errorf("wrote %q", got)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 22, 29, 10, 0, time.UTC)
	var out strings.Builder
	err := table(&out, []engine.QueueStatus{
		{Queue: "default", State: engine.QueueOK, Pending: 184, Running: 16, Later: 40, Oldest: now.Add(-2100 * time.Millisecond)},
		{Queue: "slow", State: engine.QueueNoWorker, Pending: 3, Dead: 12, Oldest: now.Add(-14*time.Minute - 20*time.Second)},
	}, queueColumns(now))
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString("\n")
	failure := &wire.Failure{Type: "error", Message: "upstream\n503 ✗"}
	err = showRecord(&out, &output{format: formatTable}, &engine.Record{
		ID: "commands-3-18422", Run: 1, Task: "echo", Queue: "default", State: wire.StateFailed, Attempt: 2, Origin: "kafka:commands/3@18422",
		Worker: "worker-2", QueuedAt: now, StartedAt: now.Add(time.Second), FinishedAt: now.Add(2500 * time.Millisecond), Error: failure,
		Attempts: []wire.Attempt{
			{Attempt: 1, Worker: "worker-1", StartedAt: now, FinishedAt: now.Add(3100 * time.Microsecond), Error: failure},
			{Attempt: 2, Worker: "worker-2", StartedAt: now.Add(time.Second), FinishedAt: now.Add(2500 * time.Millisecond), Error: failure},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "tables", out.String())
}

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 0: "0.0s", 2149 * time.Millisecond: "2.1s", 59990 * time.Millisecond: "59.9s",
		14*time.Minute + 20*time.Second: "14m20s", 3*time.Hour + 5*time.Minute: "3h5m", 52 * time.Hour: "2d4h",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("never: %s", got)
	}
}

func TestSendLines(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	var in, ids strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&in, "{\"n\":%d}\n", i)
		fmt.Fprintf(&ids, "default-%d\n", i+1)
	}
	got := w.runWith(in.String(), "send", "print", "--lines")
	if got.code != exitOK || got.stdout != ids.String() || got.stderr != "" {
		t.Errorf("exit code %d, %s", got.code, got.stderr)
	}
	if got := w.runWith(in.String(), "send", "print", "--lines", "--no-ids"); got.code != exitOK || got.stdout != "" {
		t.Errorf("exit code %d, %q, %s", got.code, got.stdout, got.stderr)
	}
	got = w.runWith("1\n\n{\n"+`"`+strings.Repeat("x", 600<<10)+"\"\n5\n", "send", "print", "-", "--lines", "-o", "jsonl")
	want := []string{`{"line":1,"id":"default-2401"}`, `{"line":3,"error":`, `{"line":4,"error":`, `{"line":5,"id":"default-2402"}`}
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	if got.code != exitUsage || len(lines) != len(want) {
		t.Fatalf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]) {
			t.Errorf("line %d: %s", i, line)
		}
	}
	if !strings.Contains(got.stderr, "2 of 4 tasks were not sent; line 3: ") || !strings.Contains(got.stderr, "must be at most 524288 bytes") {
		t.Errorf("%s", got.stderr)
	}
	if got := w.runWith("1\n{\n", "send", "print", "--lines", "--atomic"); got.code != exitUsage || got.stdout != "" {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	if got := w.runWith(strings.Repeat("1\n", 1001), "send", "print", "--lines", "--atomic"); got.code != exitUsage || !strings.Contains(got.stderr, "at most 1000") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	if got := w.ok("send", "print", "1", "--atomic", "--count", "2", "-o", "json"); !strings.Contains(got, `"id": "default-2404"`) {
		t.Errorf("%s", got)
	}
	if got := w.runWith("", "send", "print", "--lines", "-o", "json"); got.code != exitOK || got.stdout != "[]\n" {
		t.Errorf("exit code %d: %q", got.code, got.stdout)
	}
}

// TestSendLinesAsTheyCome has an input that stays open: what has come is sent.
func TestSendLinesAsTheyCome(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	in, write := io.Pipe()
	var stdout, stderr watched
	code := make(chan int, 1)
	go func() {
		code <- Run(testContext(t), []string{"send", "print", "--lines"}, in, &stdout, &stderr, w.env)
	}()
	for i := range 3 {
		if _, err := fmt.Fprintln(write, i); err != nil {
			t.Fatal(err)
		}
		stdout.has(t, fmt.Sprintf("default-%d\n", i+1))
	}
	_ = write.Close()
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d: %s", got, stderr.String())
	}
}

// TestBenchOfLater is a measurement as small as can be, as JSON and as a table.
func TestBenchOfLater(t *testing.T) {
	t.Parallel()
	profile := filepath.Join(t.TempDir(), "cpu.pprof")
	got := runIn(testContext(t), nil, nil, "bench", "eta", "--paths", "many,due-at-once", "--rounds", "1", "--tasks", "20",
		"--cpu-profile", profile, "-o", "json")
	var rounds []bench.Round
	decoder := json.NewDecoder(strings.NewReader(got.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rounds); err != nil || got.code != exitOK {
		t.Fatalf("exit code %d, %v: %s%s", got.code, err, got.stdout, got.stderr)
	}
	if len(rounds) != 2 || rounds[0].Path != "many" || rounds[1].Path != "due-at-once" || rounds[1].Tasks != 20 ||
		rounds[0].Pelton.Late != nil || rounds[1].Pelton.Late == nil || rounds[1].Raw.Late == nil {
		t.Fatalf("%s", got.stdout)
	}
	if !strings.Contains(got.stderr, "due-at-once, round 1 of 1: ") {
		t.Errorf("nothing was said on the way: %s", got.stderr)
	}
	if info, err := os.Stat(profile); err != nil || info.Size() == 0 {
		t.Errorf("no profile: %v", err)
	}

	var table strings.Builder
	a := &app{stdout: &table}
	if err := a.showBench(&output{format: formatTable}, rounds); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(table.String()), "\n")
	want := []string{"pelton ", "PATH ", "many ", "pelton ", "PATH ", "due-at-once "}
	if len(lines) != len(want) {
		t.Fatalf("%d lines:\n%s", len(lines), table.String())
	}
	for i, begins := range want {
		if !strings.HasPrefix(lines[i], begins) {
			t.Errorf("line %d must begin with %q: %s", i+1, begins, lines[i])
		}
	}
	if strings.Contains(lines[0], " slots=") || !strings.Contains(lines[3], " slots=16 ") {
		t.Errorf("conditions: %s / %s", lines[0], lines[3])
	}
}

func TestBench(t *testing.T) {
	got := runIn(testContext(t), nil, nil, "bench", "enqueue", "--paths", "nope")
	if got.code != exitUsage || !strings.Contains(got.stderr, "must be one of one, 64, with-id, future, many, power-safe") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	got = runIn(testContext(t), nil, nil, "bench", "eta", "--paths", "one", "--cpu-profile", filepath.Join(t.TempDir(), "no", "such"))
	if got.code == exitOK || !strings.Contains(got.stderr, "no/such") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	for _, flag := range []string{"--rounds=0", "--tasks=-1", "--body=1", "--body=600000"} {
		if got := runIn(testContext(t), nil, nil, "bench", "enqueue", flag); got.code != exitUsage {
			t.Errorf("%s: exit code %d: %s", flag, got.code, got.stderr)
		}
	}
}
