package engine

import (
	"testing"
	"time"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// A task that ends after the janitor has read its record is not run again: the
// record is written by compare-and-set, and nothing is published where that is
// refused.
func TestJanitorDoesNotWriteOverATaskThatHasJustEnded(t *testing.T) {
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	j := NewJanitor(c, JanitorConfig{})
	ctx := t.Context()
	lane := wire.PlainLane(DefaultQueue)
	m := &stored{subject: "pelton.task.default.work.job-1", sequence: 7, time: time.Now(), data: []byte(`1`)}
	d, err := c.forgotten(forgotten{lane: lane}, m)
	if err != nil || d.id != "job-1" {
		t.Fatalf("%+v, %v", d, err)
	}
	started := &Record{ID: "job-1", Run: 1, Task: "work", Queue: DefaultQueue, State: wire.StateStarted, Attempt: 1, Sequence: 7, Worker: "lives"}
	read, err := c.casRecord(ctx, started, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := *started
	ended.State = wire.StateSucceeded
	if _, err := c.casRecord(ctx, &ended, read); err != nil {
		t.Fatal(err)
	}
	if err := j.requeue(ctx, d, started, read); classify(err) != outcomeRefused {
		t.Errorf("requeue: %v", err)
	}
	if r, err := c.Record(ctx, DefaultQueue, "job-1"); err != nil || r.State != wire.StateSucceeded {
		t.Errorf("record %+v, %v", r, err)
	}
	if later, err := c.leaderLast(ctx, c.ns.LaterStream(lane), c.ns.LaterSubject(lane, "job-1")); err != nil || later != nil {
		t.Errorf("it was published: %+v, %v", later, err)
	}
	// The control: with the revision that stands it is.
	r, revision, err := c.leaderRecord(ctx, DefaultQueue, "job-1")
	if err != nil {
		t.Fatal(err)
	}
	r.State = wire.StateStarted
	if err := j.requeue(ctx, d, r, revision); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Record(ctx, DefaultQueue, "job-1"); err != nil || r.State != wire.StateQueued {
		t.Errorf("control: record %+v, %v", r, err)
	}
}
