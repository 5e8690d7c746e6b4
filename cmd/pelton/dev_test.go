package main

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// TestDevStaysWithItself: whatever the environment says, dev never connects to a
// server that it did not start.
func TestDevStaysWithItself(t *testing.T) {
	w := newWorld(t).withKafka("commands", "results")
	got := w.run("dev", "--for", "500ms", "--rate", "20/s", "--assert", "--nats-port", freePort(t), "--kafka-port", freePort(t))
	if got.code != exitOK || !strings.Contains(got.stdout, "counted from topics and streams: produced") {
		t.Fatalf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	for name := range w.broker.JetStream().StreamNames(testContext(t)).Name() {
		t.Errorf("stream %s was made on a server that is not dev's", name)
	}
	if got := w.run("dev", "--nats-url", w.broker.URL()); got.code != exitUsage {
		t.Errorf("--nats-url: exit code %d: %s", got.code, got.stderr)
	}
	w.env = append(w.env, "KAFKA_BOOTSTRAP_SERVERS=no port", "NATS_URL=%%")
	if got := w.run("dev", "--for", "100ms", "--quiet", "--nats-port", freePort(t), "--kafka-port", freePort(t)); got.code != exitOK {
		t.Errorf("with nonsense in the environment: exit code %d: %s", got.code, got.stderr)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
