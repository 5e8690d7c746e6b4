package bench

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// firedEarly is how much before its time a task's schedule fires, by hand and
// by Pelton: the broker's timer ticks every 250 ms, and whoever gets the task
// holds it for the rest.
const firedEarly = 500 * time.Millisecond

// Later is the paths of tasks with a time ahead: into the broker's schedules,
// and out of them in time.
func Later() []Path {
	return []Path{
		{Name: "one", Says: "one caller that waits", Tasks: 5000, Headers: 5, Check: scheduled, Raw: rawScheduleOne, Pelton: sendLaterOne},
		{Name: "64", Says: "64 callers that wait", Tasks: 40_000, Headers: 5, Check: scheduled, Raw: atOnce(rawScheduleOne), Pelton: atOnce(sendLaterOne)},
		{Name: "future", Says: "futures", Tasks: 50_000, Headers: 4, Check: scheduled, Raw: rawScheduleAsync(true), Pelton: sendLaterAsync},
		{Name: "many", Says: "many at once", Tasks: 50_000, Headers: 3, Check: scheduled, Raw: rawScheduleAsync(false), Pelton: sendLaterMany},
		duePath("due-400", "400 due in each second", 2000, 400),
		duePath("due-1000", "1,000 due in each second", 10_000, 1000),
		duePath("due-at-once", "all due at one instant", 10_000, 0),
	}
}

// scheduled checks that all tasks of a run wait for their time.
func scheduled(ctx context.Context, r *Run) error {
	return r.holds(ctx, wire.DefaultNamespace.LaterStream(wire.PlainLane(r.Queue)))
}

// tomorrow is a time that no run lives to see.
func tomorrow() time.Time { return time.Now().Add(24 * time.Hour) }

// schedule is a task with a time ahead, written by hand. It has the headers that
// Pelton gives a task that nobody waits for: who waits adds an id to know it by.
func (r *Run) schedule(body []byte, eta time.Time, once bool) *nats.Msg {
	ns, id := wire.DefaultNamespace, rand.Text()
	a := wire.Address{Lane: wire.PlainLane(r.Queue), Task: "nop", ID: id}
	m := &nats.Msg{Subject: ns.LaterSubject(a.Lane, id), Data: body, Header: nats.Header{
		"Pelton-Eta":           {wire.FormatTime(eta)},
		"Nats-Schedule":        {"@at " + wire.FormatTime(eta.Add(-firedEarly))},
		"Nats-Schedule-Target": {ns.DueSubject(a)},
	}}
	if once {
		m.Header["Nats-Expected-Last-Subject-Sequence"] = []string{"0"}
	}
	return m
}

func rawScheduleOne(ctx context.Context, r *Run) error {
	eta := tomorrow()
	for range r.Tasks {
		m := r.schedule(r.Body, eta, true)
		m.Header["Nats-Msg-Id"] = []string{rand.Text()}
		if _, err := r.JS.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func sendLaterOne(ctx context.Context, r *Run) error {
	eta := tomorrow()
	for range r.Tasks {
		if _, err := r.Client.SendRaw(ctx, r.Queue, "nop", r.Body, engine.WithETA(eta)); err != nil {
			return err
		}
	}
	return nil
}

func rawScheduleAsync(once bool) func(context.Context, *Run) error {
	return func(ctx context.Context, r *Run) error {
		eta := tomorrow()
		for range r.Tasks {
			if _, err := r.JS.PublishMsgAsync(r.schedule(r.Body, eta, once), jetstream.WithStallWait(stall)); err != nil {
				return err
			}
		}
		return r.published(ctx)
	}
}

func sendLaterAsync(ctx context.Context, r *Run) error {
	eta := tomorrow()
	for range r.Tasks {
		if _, err := r.Client.SendRawAsync(ctx, r.Queue, "nop", r.Body, engine.WithETA(eta)); err != nil {
			return err
		}
	}
	return r.Client.Flush(ctx)
}

func sendLaterMany(ctx context.Context, r *Run) error {
	_, err := r.Client.SendManyRaw(ctx, r.Queue, "nop", r.bodies(), engine.WithETA(tomorrow()))
	return err
}
