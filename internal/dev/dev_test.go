package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"pelton/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ports are two free ones: tests must not take the default ones.
func ports(t *testing.T) (a, b int) {
	t.Helper()
	for _, p := range []*int{&a, &b} {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*p = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func TestTheWholePath(t *testing.T) {
	var out bytes.Buffer
	nats, kafka := ports(t)
	cfg := Config{StoreDir: t.TempDir(), NATSPort: nats, KafkaPort: kafka, Interval: 20 * time.Millisecond, For: 2 * time.Second, Assert: true, Stdout: &out, tick: time.Second}
	for round := range 2 { // the second on the files of the first
		if err := Run(t.Context(), cfg); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, out.String())
		}
	}
	for _, want := range []string{
		fmt.Sprintf(`(?m)^export NATS_URL=nats://127\.0\.0\.1:%d$`, nats),
		fmt.Sprintf(`(?m)^export KAFKA_BOOTSTRAP_SERVERS=127\.0\.0\.1:%d$`, kafka),
		`sync_interval 1s`,
		`record +commands/\d@0\n`,
		`task +commands/\d@0 → commands-\d-0  print in default\n`,
		`print +\{"uuid":"[0-9a-f-]{36}","content":`,
		`beat +tick → tick-\d+  print in default\n`,
		`ok +commands-\d-0  print  \S+  attempt 1\n`,
		`result +commands-\d-0 → results/\d@\d+  succeeded\n`,
		`counted from topics and streams: produced \d\d+ = ingested \d+ = finished \d+ = emitted \d+, 0 failed, 0 doubled\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}

// TestBusyDefaultPorts: another free one is taken, and said aloud.
func TestBusyDefaultPorts(t *testing.T) {
	var busy [2]int
	for i := range busy {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		busy[i] = l.Addr().(*net.TCPAddr).Port
	}
	var out bytes.Buffer
	if err := Run(t.Context(), Config{defaults: busy, For: 500 * time.Millisecond, Interval: 50 * time.Millisecond, Assert: true, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"nats", "kafka"} {
		if want := fmt.Sprintf("port %d is taken: %s has another", busy[i], name); !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if regexp.MustCompile(fmt.Sprintf(`export \S+:(%d|%d)\n`, busy[0], busy[1])).MatchString(out.String()) {
		t.Errorf("a busy port is exported:\n%s", out.String())
	}
}

// TestADeadTaskFailsTheAssertion: the account is counted, not assumed.
func TestADeadTaskFailsTheAssertion(t *testing.T) {
	nats, kafka := ports(t)
	out := &begun{begun: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- Run(t.Context(), Config{NATSPort: nats, KafkaPort: kafka, Interval: 50 * time.Millisecond, For: 5 * time.Second, Assert: true, Stdout: out})
	}()
	<-out.begun
	cl, err := kgo.NewClient(kgo.SeedBrokers(fmt.Sprintf("127.0.0.1:%d", kafka)))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: commandsTopic, Value: []byte("{")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrAssert) || !strings.Contains(err.Error(), "1 failed") {
		t.Errorf("%v", err)
	}
}

// begun tells when something was first written.
type begun struct {
	once  sync.Once
	begun chan struct{}
}

func (b *begun) Write(p []byte) (int, error) {
	b.once.Do(func() { close(b.begun) })
	return len(p), nil
}

func TestBrokersOnlyPrintsTwoLines(t *testing.T) {
	nats, kafka := ports(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &notify{wrote: make(chan string, 1)}
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{NATSPort: nats, KafkaPort: kafka, BrokersOnly: true, Stdout: out}) }()
	want := fmt.Sprintf("export NATS_URL=nats://127.0.0.1:%d\nexport KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:%d\n", nats, kafka)
	if got := <-out.wrote; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// What the roles need is there: they may be started as they are.
	if _, err := openAccount(ctx, []string{fmt.Sprintf("127.0.0.1:%d", kafka)}); err != nil {
		t.Errorf("topics: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type notify struct{ wrote chan string }

func (n *notify) Write(b []byte) (int, error) { n.wrote <- string(b); return len(b), nil }

// TestOneAtATimeOnAStore: two brokers on the same files would ruin them.
func TestOneAtATimeOnAStore(t *testing.T) {
	nats, kafka := ports(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &notify{wrote: make(chan string, 1)}
	done := make(chan error, 1)
	store := t.TempDir()
	go func() {
		done <- Run(ctx, Config{NATSPort: nats, KafkaPort: kafka, BrokersOnly: true, Stdout: out, StoreDir: store})
	}()
	<-out.wrote
	nats, kafka = ports(t)
	if err := Run(ctx, Config{NATSPort: nats, KafkaPort: kafka, StoreDir: store}); !errors.Is(err, ErrCannotStart) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWhatCannotStart(t *testing.T) {
	nats, kafka := ports(t)
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	port := taken.Addr().(*net.TCPAddr).Port
	for _, tc := range []struct {
		name string
		cfg  Config
		is   error
		text string
	}{
		{"nats port", Config{NATSPort: port, KafkaPort: kafka}, enginetest.ErrPortTaken, fmt.Sprint(port)},
		{"kafka port", Config{NATSPort: nats, KafkaPort: port}, enginetest.ErrPortTaken, fmt.Sprint(port)},
		{"port out of range", Config{NATSPort: 99999, KafkaPort: kafka}, nil, "99999"},
		{"store is a file", Config{NATSPort: nats, KafkaPort: kafka, StoreDir: file}, nil, file},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Run(t.Context(), tc.cfg)
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheAccountSeesWhatIsMissing(t *testing.T) {
	even := total{produced: 3, ingested: 3, finished: 3, emitted: 3}
	if !even.even() || even.String() != "produced 3 = ingested 3 = finished 3 = emitted 3, 0 failed, 0 doubled" {
		t.Errorf("%s", even)
	}
	for _, odd := range []total{
		{}, // nothing was shown
		{produced: 3, ingested: 2, finished: 2, emitted: 2},
		{produced: 3, ingested: 3, finished: 2, emitted: 2},
		{produced: 3, ingested: 3, finished: 3, emitted: 2},
		{produced: 3, ingested: 3, finished: 3, emitted: 3, doubled: 1},
		{produced: 3, ingested: 3, finished: 3, emitted: 3, failed: 1},
	} {
		if odd.even() {
			t.Errorf("even: %s", odd)
		}
	}
}
