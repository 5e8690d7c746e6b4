package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/config"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	missing := topology.Change{Object: "stream A", Action: topology.Create}
	differs := topology.Change{Object: "stream B", Action: topology.Update}
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("something else"), 1},
		{io.ErrClosedPipe, 1},
		{fmt.Errorf("3 of 4 messages %w: %w", produce.ErrUndelivered, errors.New("too large")), 1},
		{&usageError{err: errors.New("unknown flag")}, 2},
		{&usageError{err: engine.ErrNotFound}, 2},
		{&config.Error{Source: "--grace", Rule: "must be"}, 2},
		{&wire.NameError{Field: "queue", Value: "Q"}, 2},
		{&wire.BodyError{Rule: "must be JSON", Have: "empty"}, 2},
		{engine.ErrTooLarge, 2},
		{&topology.DriftError{Changes: []topology.Change{differs}}, 2},
		{&topology.DriftError{Changes: []topology.Change{missing, differs}}, 2},
		{&topology.DriftError{Changes: []topology.Change{missing}}, 3},
		{engine.ErrNotFound, 3},
		{engine.ErrNoQueue, 3},
		{produce.ErrNoTopic, 3},
		{fmt.Errorf("2 of 2 messages %w: %w", produce.ErrUndelivered, produce.ErrNoTopic), 3},
		{&timeoutError{id: "default-1"}, 4},
		{&engine.TaskError{ID: "default-1"}, 5},
		{engine.ErrRevoked, 5},
		{engine.ErrExpired, 5},
		{engine.ErrUnreachable, 6},
		{engine.ErrUnconfirmed, 6},
		{produce.ErrUnreachable, 6},
		{produce.ErrRefused, 6},
		{nats.ErrAuthorization, 6},
		{nats.ErrNoServers, 6},
		{jetstream.ErrJetStreamNotEnabled, 6},
		{context.DeadlineExceeded, 6},
		{engine.ErrQueueFull, 7},
		{engine.ErrExists, 7},
		{engine.ErrForbidden, 7},
		{&ingest.StopError{Topic: "commands"}, 8},
		{&emit.StopError{Edge: "results"}, 8},
		{errDifference, 9},
		{errInterrupted, 130},
		{context.Canceled, 130},
		{fmt.Errorf("%w: %w", errInterrupted, engine.ErrUnreachable), 130},
	} {
		for _, err := range []error{tc.err, wrap(tc.err)} {
			if got := exitCode(err); got != tc.want {
				t.Errorf("%v: exit code %d, want %d", err, got, tc.want)
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("on the way: %w", err))
}

// broken is a standard output that nobody reads.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestExitInternal(t *testing.T) {
	t.Parallel()
	var stderr watched
	if code := Run(t.Context(), []string{"version"}, nil, broken{}, &stderr, nil); code != exitInternal {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestExitUsage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args string
		env  string
		want string
	}{
		{args: "wroker", want: `unknown command "pelton wroker", did you mean worker? (see pelton --help)`},
		{args: "wroker --queues a", want: `unknown command "pelton wroker", did you mean worker? (see pelton --help)`},
		{args: "enqueu print 1", want: `unknown command "pelton enqueu", did you mean enqueue? (see pelton --help)`},
		{args: "task", want: `say which: cancel, show, wait (see pelton task --help)`},
		{args: "task shwo x", want: `unknown command "pelton task shwo", did you mean show? (see pelton task --help)`},
		{args: "help wroker", want: `pelton has no command "wroker" (see pelton --help)`},
		{args: "worker --quues a", want: `unknown flag: --quues, did you mean --queues? (see pelton worker --help)`},
		{args: "worker -z", want: `unknown shorthand flag: 'z' in -z (see pelton worker --help)`},
		{args: "worker extra", want: `unexpected argument "extra" (see pelton worker --help)`},
		{args: "send print", want: `BODY must be given (see pelton send --help)`},
		{args: "send print hi", want: `body: not JSON, must be JSON; a text needs quotes: '"hi"'`},
		{args: "send print @/no/such/file", want: `open /no/such/file: no such file or directory`},
		{args: "send print 1 --count 0", want: `--count must be at least 1, got 0 (see pelton send --help)`},
		{args: "send print 1 --count 2 --id a", want: `--id is for one task, --count for several (see pelton send --help)`},
		{args: "send print 1 -H nothing", want: `-H "nothing" must be NAME=VALUE (see pelton send --help)`},
		{args: "queue ls -o xml", want: `invalid argument "xml" for "-o, --output" flag: must be table, json or jsonl (see pelton queue ls --help)`},
		{args: "dead ls --limit=-1", want: `--limit must be at least 0, got -1 (see pelton dead ls --help)`},
		{args: "worker --grace soon", want: `--grace: worker.grace must be a duration such as 500ms, 25s or 1h30m, got soon`},
		{args: "worker", env: "PELTON_WORKER__GRASE=1s", want: `PELTON_WORKER__GRASE: worker.grase is unknown, did you mean PELTON_WORKER__GRACE?`},
		{args: "queue ls", env: "NATS_URL=nats://joe:secret@:x", want: `NATS_URL: nats.url must be nats://host:port, several by comma, got ***`},
		{args: "produce --rate 1/s --every 1s", want: `--rate: produce.every must not stand beside --every`},
		{args: "produce --rate often", want: `invalid argument "often" for "--rate" flag: rate: "often": must be a whole number per s, m or h, such as 100/m (see pelton produce --help)`},
		{args: "produce a --message b", want: `--message must not stand beside other messages (see pelton produce --help)`},
		{args: "produce - b", want: `- must be the only argument (see pelton produce --help)`},
		{args: "produce --acks 1 --idempotent", want: `--acks: kafka.acks must be all while produce.idempotent is true (--idempotent), got 1`},
		{args: "produce a", env: "PELTON_PRODUCE__MAX_MESSAGE_BYTES=4GiB", want: `PELTON_PRODUCE__MAX_MESSAGE_BYTES: produce.max_message_bytes must be from 512 to 100MiB, got 4GiB`},
		{args: "edge emit", env: "PELTON_EDGES__EMIT__RESULTS__MAX_RECORD_BYTES=4GiB", want: `PELTON_EDGES__EMIT__RESULTS__MAX_RECORD_BYTES: edges.emit.results.max_record_bytes must be from 16KiB to 1GiB, got 4GiB`},
		{args: "edge ingest --task pelton-dead", want: `--task: edges.ingest.commands.task must not begin with pelton-, got pelton-dead`},
		{args: "edge ingest a b --topic c", want: `--topic: is for one edge, name it: a or b`},
		{args: "edge ingest a b --from-offset 1", want: `--from-offset is for one route, name it (see pelton edge ingest --help)`},
		{args: "edge ingest --topic Orders.v1", want: `--topic: does not name its route, which must match [a-z0-9][a-z0-9-]{0,63}; give it a name: pelton edge ingest NAME, got Orders.v1`},
		{args: "edge emit --from default", want: `--from "default" must be QUEUE=SEQUENCE, such as default=41 (see pelton edge emit --help)`},
		{args: "setup plan --queues Mail", want: `queue: must match [a-z0-9][a-z0-9-]{0,63}, got Mail`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			got := runIn(t.Context(), []string{tc.env}, strings.NewReader(""), strings.Fields(tc.args)...)
			if got.code != exitUsage || got.stderr != "pelton: "+tc.want+"\n" || got.stdout != "" {
				t.Errorf("exit code %d, %q\n  wrote %swant pelton: %s", got.code, got.stdout, got.stderr, tc.want)
			}
		})
	}
}

// Names that only the engine knows are refused before anything is sent.
func TestExitUsageWithBroker(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	for _, args := range []string{
		"send pri.nt 1",
		"send pelton-dead 1",
		"send print 1 --queue Mail",
		"send print 1 --id default-7",
		"send print 1 --max-attempts 0",
		"send print 1 -H Nats-Rollup=all",
		"task show with.dot",
	} {
		if got := w.run(strings.Fields(args)...); got.code != exitUsage || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}

func TestExitNotFound(t *testing.T) {
	w := newWorld(t).withKafka("commands")
	for _, args := range []string{
		"send print 1",
		"worker",
		"dead ls",
		"produce --topic nosuch --count 1",
	} {
		if got := w.run(strings.Fields(args)...); got.code != exitNotFound {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.stderr)
		}
	}
	w.ok("setup", "apply")
	for _, args := range []string{
		"task show default-77",
		"task wait job-1",
		"task show job-1 --queue mail",
		"send print 1 --queue mail",
	} {
		got := w.run(strings.Fields(args)...)
		if got.code != exitNotFound || got.stdout != "" || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}

func TestExitTimeout(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	id := strings.TrimSpace(w.ok("send", "print", "1"))
	got := w.run("task", "wait", id, "--timeout", "4s") // until then it has begun to wait
	if got.code != exitTimeout || got.stdout != "" || got.stderr != "pelton: task default-1: not ended in time, it goes on\n" {
		t.Errorf("exit code %d: %q %s", got.code, got.stdout, got.stderr)
	}
}

func TestExitTaskFailed(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	w.start("worker")
	id := strings.TrimSpace(w.ok("send", "add", `{"a":1}`))
	got := w.run("task", "wait", id)
	if got.code != exitTaskFailed || got.stdout != "" || got.stderr != "pelton: task default-1 failed at attempt 1: bad_input: b must be a number\n" {
		t.Errorf("exit code %d: %q %s", got.code, got.stdout, got.stderr)
	}
}

func TestExitRefused(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply", "--queues", "default,small", "--max-pending", "2")
	w.ok("send", "print", "1", "--id", "job-1")
	if got := w.run("send", "print", "1", "--id", "job-1"); got.code != exitRefused || got.stdout != "" || !strings.Contains(got.stderr, "job-1") {
		t.Errorf("an id that exists: exit code %d: %s", got.code, got.stderr)
	}
	got := w.run("send", "print", "1", "--queue", "small", "--count", "3")
	if got.code != exitRefused || got.stdout != "small-1\nsmall-2\n" || !strings.Contains(got.stderr, "queue is full") {
		t.Errorf("a full queue: exit code %d: %q %s", got.code, got.stdout, got.stderr)
	}
}

func TestExitUnreachable(t *testing.T) {
	t.Parallel()
	nobody := "127.0.0.1:1"
	for _, args := range []string{
		"queue ls", "dead ls", "send print 1", "task show default-1", "task wait default-1", "setup plan", "setup apply",
	} {
		got := runIn(t.Context(), []string{"NATS_URL=nats://joe:secret@" + nobody}, nil, strings.Fields(args)...)
		want := "pelton: nats nats://joe:***@" + nobody + ": unreachable: nats: no servers available for connection\n"
		if got.code != exitUnreachable || got.stdout != "" || got.stderr != want {
			t.Errorf("%s: exit code %d: %q\nwrote %swant  %s", args, got.code, got.stdout, got.stderr, want)
		}
	}
	got := runIn(t.Context(), nil, nil, "produce", "--count", "1", "--kafka", nobody, "--timeout", "1s")
	if got.code != exitUnreachable || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, "kafka "+nobody) {
		t.Errorf("produce: exit code %d: %s", got.code, got.stderr)
	}
}

// refusing is a NATS server that refuses all credentials.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, `INFO {"server_id":"S","version":"2.15.2","proto":1,"auth_required":true,"max_payload":1048576,"headers":true}`+"\r\n")
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, "-ERR 'Authorization Violation'\r\n")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func TestExitRefusedCredentials(t *testing.T) {
	t.Parallel()
	address := refusing(t)
	for _, args := range []string{"queue ls", "worker", "edge ingest", "edge emit"} {
		ctx := testContext(t)
		got := runIn(ctx, []string{"NATS_URL=nats://sometoken@" + address}, nil, strings.Fields(args)...)
		if ctx.Err() != nil {
			t.Fatalf("%s waits for ever", args)
		}
		if got.code != exitUnreachable || !strings.Contains(got.stderr, "nats://***@"+address) || !strings.Contains(strings.ToLower(got.stderr), "authorization violation") {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.stderr)
		}
		if strings.Contains(got.stderr, "sometoken") {
			t.Errorf("%s tells the token: %s", args, got.stderr)
		}
	}
}

func TestExitDifference(t *testing.T) {
	w := newWorld(t)
	if got := w.run("setup", "plan"); got.code != exitOK || !strings.Contains(got.stdout, "PELTON_TASKS_default") {
		t.Errorf("without --exit-code: exit code %d: %s", got.code, got.stdout)
	}
	if got := w.run("setup", "plan", "--exit-code"); got.code != exitDifference || !strings.Contains(got.stdout, "PELTON_TASKS_default") {
		t.Errorf("with --exit-code: exit code %d: %s", got.code, got.stdout)
	}
	w.ok("setup", "apply")
	if got := w.run("setup", "plan", "--exit-code"); got.code != exitOK || got.stdout != "" {
		t.Errorf("once applied: exit code %d: %s", got.code, got.stdout)
	}
}

func TestExitInterrupted(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	w.ok("send", "print", "1")
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan ended, 1)
	go func() { done <- runIn(ctx, w.env, nil, "task", "wait", "default-1") }()
	// Once it listens, a request to it is not refused but unanswered.
	nc := w.broker.Conn()
	for err := nats.ErrNoResponders; errors.Is(err, nats.ErrNoResponders); {
		_, err = nc.Request("pelton.done.default.default-1", nil, 50*time.Millisecond)
	}
	cancel()
	if got := <-done; got.code != exitInterrupted || !strings.HasPrefix(got.stderr, "pelton: interrupted: ") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 2)
	told, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	code := make(chan int, 1)
	go func() {
		code <- untilSecond(signals, new(hurry).now, func(ctx context.Context) int {
			<-ctx.Done()
			close(told)
			<-release // a drain that takes long
			return exitOK
		})
	}()
	signals <- syscall.SIGTERM
	<-told
	signals <- os.Interrupt
	if got := <-code; got != exitInterrupted {
		t.Errorf("exit code %d", got)
	}
}

func TestOneSignal(t *testing.T) {
	t.Parallel()
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGTERM
	got := untilSecond(signals, new(hurry).now, func(ctx context.Context) int {
		<-ctx.Done()
		return exitOK
	})
	if got != exitOK {
		t.Errorf("exit code %d", got)
	}
}

// blocking is a standard output that takes nothing until it is released.
type blocking struct{ wrote, release chan struct{} }

func (b blocking) Write([]byte) (int, error) {
	b.wrote <- struct{}{}
	<-b.release
	return 0, io.ErrClosedPipe
}

// TestSecondSignalHandsBack: the task of a worker that two signals end runs at
// another one within a second or so, although its handler never returns. The
// control is a worker that the second signal just kills: its task waits for the
// lease to pass.
func TestSecondSignalHandsBack(t *testing.T) {
	t.Parallel()
	for _, hands := range []bool{true, false} {
		w := newWorld(t)
		w.ok("setup", "apply")
		signals, code := make(chan os.Signal, 2), make(chan int, 1)
		stuck := blocking{make(chan struct{}, 8), make(chan struct{})}
		var stderr watched
		a := &app{stdin: strings.NewReader(""), stdout: stuck, stderr: &stderr, env: w.env}
		tell := a.hurry.now
		if !hands {
			tell = func() bool { return false }
		}
		ended := make(chan struct{})
		go func() {
			code <- untilSecond(signals, tell, func(ctx context.Context) int {
				defer close(ended)
				return a.run(ctx, []string{"worker"})
			})
		}()
		id := strings.TrimSpace(w.ok("send", "print", `"hi"`))
		<-stuck.wrote
		signals <- syscall.SIGTERM
		stderr.has(t, "worker drains")
		other := w.start("worker")
		other.stderr.has(t, "worker started")
		began := time.Now()
		signals <- os.Interrupt
		if got := <-code; got != exitInterrupted {
			t.Errorf("exit code %d: %s", got, stderr.String())
		}
		got := w.run("task", "wait", id, "--timeout", "4s")
		if hands != (got.code == exitOK) {
			t.Errorf("handed back %t: exit code %d after %s: %s", hands, got.code, time.Since(began), got.stderr)
		}
		if took := time.Since(began); hands && took > 3*time.Second {
			t.Errorf("the task ran elsewhere after %s", took)
		}
		a.hurry.now() // the control ends, too
		<-ended
		close(stuck.release)
	}
}
