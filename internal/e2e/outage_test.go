//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// TestBrokersGoneAndBack takes each broker away for half a minute while records
// come: the roles stay, and results flow again within five seconds of its
// return, by themselves; nothing is lost or doubled.
func TestBrokersGoneAndBack(t *testing.T) {
	const gone, back = 30 * time.Second, 5 * time.Second
	w := newWorld(t)
	producer := w.start("produce", "--every", "20ms", "--topic", "commands")
	roles := []*role{producer, w.start("edge", "ingest"), w.start("worker", "--queues", "default:8"), w.start("edge", "emit")}
	flows := func() {
		t.Helper()
		before := len(w.records("results"))
		w.until("a new result", back, func() bool { return len(w.records("results")) > before })
	}
	w.until("the first result", time.Minute, func() bool { return len(w.records("results")) > 0 })

	w.nats.Stop()
	<-time.After(gone)
	if err := w.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	flows()

	w.kafka.Close()
	<-time.After(gone)
	w.startKafka()
	flows()

	producer.stop()
	commands := w.records("commands")
	w.allResults(len(commands), time.Minute)
	w.until("an empty queue", time.Minute, func() bool { return len(w.stored()) == 0 }) // what was not acked in the outage comes again
	for _, r := range roles[1:] {
		r.stop()
	}
	t.Logf("%d commands", len(commands))
	w.oneEach(commands, w.records("results"))
	w.drained()
}

// TestRolesStartBeforeTheBrokers starts every role with nobody to talk to: each
// warns once and waits, and works when the brokers come.
func TestRolesStartBeforeTheBrokers(t *testing.T) {
	w := newWorld(t)
	w.nats.Stop()
	w.kafka.Close()
	roles := []*role{w.start("edge", "ingest"), w.start("worker", "--queues", "default:8"), w.start("edge", "emit")}
	for _, r := range roles {
		w.until("a warning", time.Minute, func() bool { return r.warnings() > 0 })
	}
	<-time.After(3 * time.Second) // time enough for a second warning
	for _, r := range roles {
		if n := r.warnings(); n != 1 {
			t.Errorf("%v warned %d times:\n%s", r.args, n, r.log)
		}
	}
	for _, args := range [][]string{
		{"send", "print", "{}"},
		{"task", "show", "default-1"},
		{"queue", "ls"},
		{"setup", "plan"},
		{"produce", "--message", "hi", "--count", "1"},
	} {
		if out, code := w.pelton(args...); code != 6 {
			t.Errorf("%v: exit %d, want 6\n%s", args, code, out)
		}
	}
	if err := w.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	w.startKafka()
	if out, code := w.pelton("produce", "--message", "hi", "--count", "3", "--topic", "commands"); code != 0 {
		t.Fatalf("produce: exit %d\n%s", code, out)
	}
	w.until("three results", time.Minute, func() bool { return len(w.records("results")) == 3 })
	for _, r := range roles {
		r.stop()
	}
}
