package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"pelton/engine/enginetest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMain is also the main of a measurement's broker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bench-broker" {
		os.Exit(Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, nil))
	}
	goleak.VerifyTestMain(m)
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", path, diff)
	}
}

// world is the brokers and an environment that names them.
type world struct {
	t      *testing.T
	broker *enginetest.Broker
	kafka  *kfake.Cluster
	env    []string
}

// newWorld has a NATS broker; withKafka adds the other.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, broker: enginetest.Start(t)}
	w.env = []string{"NATS_URL=" + w.broker.URL()}
	return w
}

func (w *world) withKafka(topics ...string) *world {
	w.t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cluster.Close)
	w.kafka = cluster
	w.env = append(w.env, "KAFKA_BOOTSTRAP_SERVERS="+strings.Join(cluster.ListenAddrs(), ","))
	return w
}

// ended is a command that has ended.
type ended struct {
	code           int
	stdout, stderr string
}

// run runs a command to its end.
func (w *world) run(args ...string) ended { return w.runWith("", args...) }

func (w *world) runWith(stdin string, args ...string) ended {
	w.t.Helper()
	return runIn(testContext(w.t), w.env, strings.NewReader(stdin), args...)
}

func runIn(ctx context.Context, env []string, stdin io.Reader, args ...string) ended {
	var stdout, stderr watched
	code := Run(ctx, args, stdin, &stdout, &stderr, env)
	return ended{code, stdout.String(), stderr.String()}
}

// ok runs a command that must end with 0 and returns its standard output.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	got := w.run(args...)
	if got.code != exitOK {
		w.t.Fatalf("pelton %s: exit code %d: %s", strings.Join(args, " "), got.code, got.stderr)
	}
	return got.stdout
}

// role is a command that runs until it is told to end.
type role struct {
	t              *testing.T
	stdout, stderr watched
	cancel         context.CancelFunc
	code           chan int
}

// start starts a role. It is told to end with the test, at the latest.
func (w *world) start(args ...string) *role {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &role{t: w.t, cancel: cancel, code: make(chan int, 1)}
	go func() { r.code <- Run(ctx, args, strings.NewReader(""), &r.stdout, &r.stderr, w.env) }()
	w.t.Cleanup(func() { r.stop() })
	return r
}

// stop tells the role to end and returns its exit code.
func (r *role) stop() int {
	r.cancel()
	return r.wait()
}

// wait returns the role's exit code once it has ended.
func (r *role) wait() int {
	r.t.Helper()
	select {
	case code := <-r.code:
		r.code <- code // for whoever asks again
		return code
	case <-time.After(time.Minute):
		r.t.Errorf("the role does not end: %s", r.stderr.String())
		return -1
	}
}

// watched is a writer that can be waited for.
type watched struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	return w.buf.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// has waits until a text was written.
func (w *watched) has(t *testing.T, text string) {
	t.Helper()
	ctx := testContext(t)
	for {
		w.mu.Lock()
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed, found := w.changed, strings.Contains(w.buf.String(), text)
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%q was never written, but %q", text, w.String())
		}
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
