package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestWorkerRunsTheBuiltIns(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply", "--queues", "default,mail", "--ack-wait", "5s")
	worker := w.start("worker", "--queues", "default:8,mail:2", "--name", "worker-1", "--log-format", "json")
	for _, tc := range []struct{ task, body, queue, id, want string }{
		{"add", `{"a":2,"b":3}`, "default", "", "5\n"},
		{"echo", `{"n": 9007199254740993}`, "mail", "", `{"n":9007199254740993}` + "\n"},
		{"print", `{"message":"hi"}`, "default", "job-1", `{"message":"hi"}` + "\n"},
	} {
		args := []string{"send", tc.task, tc.body, "--queue", tc.queue}
		if tc.id != "" {
			args = append(args, "--id", tc.id)
		}
		id := strings.TrimSpace(w.ok(args...))
		if got := w.ok("task", "wait", id, "--queue", tc.queue, "--timeout", "50s"); got != tc.want {
			t.Errorf("%s: result %q, want %q", tc.task, got, tc.want)
		}
	}
	var record struct{ Worker, State string }
	if err := json.Unmarshal([]byte(w.ok("task", "show", "job-1", "-o", "json")), &record); err != nil || record.Worker != "worker-1" || record.State != "succeeded" {
		t.Errorf("record %+v, %v", record, err)
	}
	if code := worker.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if got := worker.stdout.String(); got != `{"message":"hi"}`+"\n" {
		t.Errorf("printed %q", got)
	}
	for line := range strings.Lines(worker.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a line of JSON: %q", line)
		}
	}
}

func TestJanitorKeepsOrder(t *testing.T) {
	w := newWorld(t)
	janitor := w.start("janitor", "--every", "1ms", "--queues", "default,mail")
	janitor.stderr.has(t, "the round is not complete") // its streams are not there yet
	w.ok("setup", "apply", "--queues", "default,mail")
	js := w.broker.JetStream()
	for _, queue := range []string{"default", "mail"} {
		for range 100 {
			if _, err := js.Publish(testContext(t), "pelton.ledger."+queue+".in.0", []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	janitor.stderr.has(t, "rounds come to their end again")
	for _, queue := range []string{"default", "mail"} {
		w.ok("janitor", "--once", "--queues", queue)
		stream, err := js.Stream(testContext(t), "PELTON_TASKS_"+queue)
		if err != nil || stream.CachedInfo().State.Msgs > 64 {
			t.Errorf("queue %s: %+v, %v", queue, stream, err)
		}
	}
	if code := janitor.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, janitor.stderr.String())
	}
	if got := w.run("janitor", "--once", "--every", "0s"); got.code != exitUsage {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

func TestDeadLettersRunAgain(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply", "--queues", "default,mail")
	worker := w.start("worker", "--queues", "default:2,mail:2")
	worker.stderr.has(t, "worker started")
	dies := func(args ...string) string {
		id := strings.TrimSpace(w.ok(append([]string{"send", "add", `{"a":"x"}`}, args...)...))
		w.run("task", "wait", id, "--timeout", "50s", "--queue", "mail")
		w.run("task", "wait", id, "--timeout", "50s")
		return id
	}
	plain := dies()
	if got := w.run("dead", "redrive", plain); got.code != exitUnreachable || !strings.Contains(got.stderr, "no janitor of queue default runs") {
		t.Errorf("without a janitor: exit code %d: %s", got.code, got.stderr)
	}
	w.start("janitor", "--queues", "default,mail").stderr.has(t, "janitor started")
	if got := w.ok("dead", "redrive", plain); got != "AGAIN  REMOVED  REFUSED\n    1        0        0\n" {
		t.Errorf("one: %q", got)
	}
	dies("--id", "job-1", "--queue", "mail")
	if got := w.ok("dead", "retry", "--all", "--queue", "mail", "-q"); got != "1\n" {
		t.Errorf("all: %q", got)
	}
	for args, code := range map[string]int{
		"dead redrive nosuch":                exitNotFound,
		"dead redrive":                       exitUsage,
		"dead redrive x --all":               exitUsage,
		"dead redrive --all --task add":      exitUsage,
		"dead redrive a.b":                   exitUsage,
		"dead redrive --task nosuch -o json": exitOK,
	} {
		if got := w.run(strings.Fields(args)...); got.code != code {
			t.Errorf("%s: exit code %d, want %d: %s", args, got.code, code, got.stderr)
		}
	}
}

func TestWorkerManages(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "PELTON_QUEUES__DEFAULT__ACK_WAIT=7s")
	w.start("worker", "--manage").stderr.has(t, "worker started")
	if got := w.run("setup", "plan", "--exit-code"); got.code != exitOK {
		t.Errorf("it has not made what setup would have made:\n%s", got.stdout)
	}
}

func TestWorkerWaitsForTheBroker(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	w.broker.Stop()
	worker := w.start("worker", "--log-format", "json")
	worker.stderr.has(t, "nats is not reachable")
	if err := w.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	worker.stderr.has(t, "worker started")
	if code := worker.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(worker.stderr.String(), `"WARN"`); n != 1 {
		t.Errorf("%d warnings, want 1: %s", n, worker.stderr.String())
	}
}

func TestRolesEndWhileTheyWait(t *testing.T) {
	w := newWorld(t).withKafka()
	w.broker.Stop()
	w.kafka.Close()
	for _, args := range []string{"worker", "janitor", "edge ingest", "edge emit"} {
		r := w.start(strings.Fields(args)...)
		r.stderr.has(t, "WARN")
		if code := r.stop(); code != exitOK {
			t.Errorf("%s: exit code %d: %s", args, code, r.stderr.String())
		}
	}
}

// produced is one line of produce -o jsonl.
type produced struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       string
	Bytes     int
}

func TestFromKafkaToKafka(t *testing.T) {
	w := newWorld(t).withKafka("commands", "results")
	if out := w.ok("setup", "apply"); !strings.Contains(out, "topic pelton.ledger") {
		t.Errorf("no ledger topic: %s", out)
	}
	if got := w.run("setup", "plan", "--exit-code"); got.code != exitOK {
		t.Errorf("something is left to do: %s", got.stdout)
	}
	roles := []*role{
		w.start("worker"),
		w.start("edge", "ingest", "--session-timeout", "6s", "--instance", "here"),
		w.start("edge", "emit", "--session-timeout", "6s", "--instance", "there"),
	}
	const n = 3
	for i := range n {
		w.ok("produce", fmt.Sprintf(`{"n":%d}`, i), "--key", "k", "-H", "pelton-reply-key=mine")
	}
	for i := range n {
		roles[0].stdout.has(t, fmt.Sprintf(`{"n":%d}`, i)+"\n")
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...), kgo.ConsumeTopics("results"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen := map[string]bool{}
	for ctx := testContext(t); len(seen) < n; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("results %v: %s", seen, roles[2].stderr.String())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var record struct{ ID, State string }
			if err := json.Unmarshal(r.Value, &record); err != nil || record.State != "succeeded" || seen[record.ID] {
				t.Errorf("record %s, %v", r.Value, err)
			}
			seen[record.ID] = true
		})
	}
	for i := range n {
		if id := fmt.Sprintf("commands-0-%d", i); !seen[id] {
			t.Errorf("no result of %s in %v", id, seen)
		}
	}
	for i, r := range roles {
		if code := r.stop(); code != exitOK {
			t.Errorf("role %d: exit code %d: %s", i, code, r.stderr.String())
		}
	}
}

// committed waits until a group has committed an offset of partition 0.
func (w *world) committed(group, topic string, offset int64) {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...))
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	for ctx := testContext(w.t); ; {
		offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, group)
		if err != nil {
			w.t.Fatal(err)
		}
		if got, ok := offsets.Lookup(topic, 0); ok && got.At == offset {
			return
		}
	}
}

// The stream was purged with the ledger in it, and the group has committed.
func TestExitStoppedIngest(t *testing.T) {
	w := newWorld(t).withKafka("orders")
	w.env = append(w.env, "COMMANDS_TOPIC=orders")
	w.ok("setup", "apply")
	edge := w.start("edge", "ingest")
	w.ok("produce", "a", "b")
	worker := w.start("worker")
	worker.stdout.has(t, `"content":"b"`)
	w.committed("pelton-orders", "orders", 2)
	if code := edge.stop(); code != exitOK {
		t.Fatalf("exit code %d: %s", code, edge.stderr.String())
	}
	stream, err := w.broker.JetStream().Stream(testContext(t), "PELTON_TASKS_default")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(testContext(t)); err != nil {
		t.Fatal(err)
	}
	edge = w.start("edge", "ingest")
	if code := edge.wait(); code != exitStopped || !strings.Contains(edge.stderr.String(), "pelton: stopped for safety: ") {
		t.Fatalf("exit code %d: %s", code, edge.stderr.String())
	}
	edge = w.start("edge", "ingest", "--from-offset", "2")
	w.ok("produce", "c")
	worker.stdout.has(t, `"content":"c"`)
	if code := edge.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, edge.stderr.String())
	}
}

// The bucket was made anew, so its sequences mean something else.
func TestExitStoppedEmit(t *testing.T) {
	w := newWorld(t).withKafka("results")
	w.ok("setup", "apply")
	w.start("worker")
	edge := w.start("edge", "emit")
	w.ok("send", "add", `{"a":1,"b":2}`)
	w.ok("task", "wait", "default-1")
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...), kgo.ConsumeTopics("results"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if fetches := cl.PollFetches(testContext(t)); fetches.NumRecords() == 0 {
		t.Fatalf("nothing was emitted: %s", edge.stderr.String())
	}
	if code := edge.stop(); code != exitOK {
		t.Fatalf("exit code %d: %s", code, edge.stderr.String())
	}
	if err := w.broker.JetStream().DeleteStream(testContext(t), "KV_PELTON_RESULTS_default"); err != nil {
		t.Fatal(err)
	}
	w.ok("setup", "apply")
	edge = w.start("edge", "emit")
	if code := edge.wait(); code != exitStopped || !strings.Contains(edge.stderr.String(), "pelton: emit stopped for safety: ") {
		t.Fatalf("exit code %d: %s", code, edge.stderr.String())
	}
	edge = w.start("edge", "emit", "--from", "default=1")
	edge.stderr.has(t, "shard is open")
	if code := edge.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, edge.stderr.String())
	}
}

func TestProduce(t *testing.T) {
	w := newWorld(t).withKafka("commands")
	for _, tc := range []struct {
		name, stdin string
		args        []string
		want        string
	}{
		{"a table", "", []string{"a", "b"}, "TOPIC     PARTITION      OFFSET\ncommands          0           0\ncommands          0           1\n"},
		{"ids", "", []string{"--count", "2", "--every", "0", "-q"}, "commands/0@2\ncommands/0@3\n"},
		{"lines of JSON", "x\n\ny\n", []string{"-", "-o", "jsonl", "--key", "k"}, `{"topic":"commands","partition":0,"offset":4,"key":"k","bytes":`},
		{"JSON", "", []string{`{"a":1}`, `[2]`, "-o", "json"}, "[\n  {\"topic\":\"commands\",\"partition\":0,\"offset\":6,\"bytes\":7},\n  {\"topic\":\"commands\",\"partition\":0,\"offset\":7,\"bytes\":3}\n]\n"},
		{"no JSON", "", []string{"-", "-o", "json"}, "[]\n"},
		{"round and round", "", []string{"a", "b", "--rate", "1000/s", "--count", "3", "-q"}, "commands/0@8\ncommands/0@9\ncommands/0@10\n"},
		{"all there is", "", []string{"a", "--acks", "1", "--retries", "0", "--linger", "1ms", "--compression", "zstd", "-H", "a=b=c", "-q"}, "commands/0@11\n"},
		{"nobody confirms", "", []string{"a", "--acks", "0"}, "TOPIC     PARTITION      OFFSET\ncommands          0           -\n"}, // so the last
	} {
		got := w.runWith(tc.stdin, append([]string{"produce"}, tc.args...)...)
		if got.code != exitOK || !strings.HasPrefix(got.stdout, tc.want) || tc.name != "lines of JSON" && got.stdout != tc.want {
			t.Errorf("%s: exit code %d, %s\ngot  %q\nwant %q", tc.name, got.code, got.stderr, got.stdout, tc.want)
		}
	}
}

func TestProduceUntilInterrupted(t *testing.T) {
	w := newWorld(t).withKafka("commands")
	r := w.start("produce", "--message", "hi", "--every", "1ms", "-o", "jsonl")
	r.stdout.has(t, `"offset":5`)
	if code := r.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
	next := int64(0)
	for line := range strings.Lines(r.stdout.String()) {
		var p produced
		if err := json.Unmarshal([]byte(line), &p); err != nil || p.Offset != next {
			t.Fatalf("line %q, want offset %d: %v", line, next, err)
		}
		next++
	}
}

// A role that has nothing to do with Kafka never speaks to it.
func TestKafkaIsForEdges(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "KAFKA_BOOTSTRAP_SERVERS=192.0.2.1:9092")
	w.start("worker", "--manage").stderr.has(t, "worker started")
	w.ok("send", "add", `{"a":1,"b":1}`)
	w.ok("task", "wait", "default-1", "--timeout", "50s")
	w.ok("queue", "ls")
}

func TestSetupWithKafka(t *testing.T) {
	w := newWorld(t).withKafka()
	golden(t, "setup-plan-kafka", w.ok("setup", "plan"))
	if got, want := w.ok("setup", "apply"), w.run("setup", "plan", "--exit-code"); !strings.Contains(got, "topic pelton.ledger") || want.code != exitOK {
		t.Errorf("done:\n%s\nleft, exit code %d:\n%s%s", got, want.code, want.stdout, want.stderr)
	}
	got := w.run("setup", "apply", "--kafka", "127.0.0.1:1", "--queues", "mail", "-q")
	if got.code != exitUnreachable || !strings.Contains(got.stdout, "stream PELTON_TASKS_mail\n") || !strings.Contains(got.stderr, "kafka 127.0.0.1:1: unreachable") {
		t.Errorf("exit code %d: %q %s", got.code, got.stdout, got.stderr)
	}
}

func TestSetupMends(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	ctx, js := testContext(t), w.broker.JetStream()
	stream, err := js.Stream(ctx, "PELTON_TASKS_default")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs, cfg.Duplicates = 5, 10_000_000_000
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	golden(t, "setup-plan", w.ok("setup", "plan"))
	golden(t, "setup-plan-json", w.ok("setup", "plan", "-o", "json"))
	if got := w.run("worker"); got.code != exitUsage || !strings.Contains(got.stderr, "duplicate_window is 10s, must be 30s") {
		t.Errorf("a worker starts on it: exit code %d: %s", got.code, got.stderr)
	}
	golden(t, "setup-apply", w.ok("setup", "apply"))
	if got := w.run("setup", "apply"); got.code != exitOK || got.stdout != "" || got.stderr != "pelton: nothing to do\n" {
		t.Errorf("again: exit code %d: %q %q", got.code, got.stdout, got.stderr)
	}
	if err := js.DeleteStream(ctx, "PELTON_DEAD"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "PELTON_DEAD", Subjects: []string{"pelton.dead.>"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	if got := w.run("setup", "apply"); got.code != exitUsage || !strings.Contains(got.stderr, "nothing was changed") {
		t.Errorf("what cannot be changed: exit code %d: %s", got.code, got.stderr)
	}
}
