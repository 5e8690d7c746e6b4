package topology_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// patience bounds waits that end much earlier.
const patience = 10 * time.Second

func mustFailWith(t *testing.T, err error, code jetstream.ErrorCode) {
	t.Helper()
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != code {
		t.Errorf("error %v, want %d", err, code)
	}
}

// TestHeadersThatWouldHarm tries what whoever may publish a task can put into
// its headers.
func TestHeadersThatWouldHarm(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	apply(t, js, topo)
	if _, err := js.Publish(t.Context(), "pelton.task.mail.print", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		header, value string
		code          jetstream.ErrorCode
	}{
		{"Nats-Rollup", "all", 10111},
		{"Nats-Rollup", "sub", 10111},
		{"Nats-Schedule", "@at 2026-01-01T00:00:00Z", 10188},
		{"Nats-TTL", "1s", 10166},
		{"Nats-Incr", "1", 10168},
		{"Nats-Stream-Source", "OTHER 1 > >", 10227},
	}
	for _, subject := range []string{"pelton.task.mail.print", "pelton.ledger.mail.kin.a"} {
		for _, test := range tests {
			msg := &nats.Msg{Subject: subject, Header: nats.Header{test.header: {test.value}}, Data: []byte(`2`)}
			_, err := js.PublishMsg(t.Context(), msg)
			if err == nil {
				t.Errorf("%s %s: %s: accepted", subject, test.header, test.value)
				continue
			}
			mustFailWith(t, err, test.code)
		}
	}
	stream, err := js.Stream(t.Context(), "PELTON_TASKS_mail")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("stream holds %d messages, want 1", n)
	}
}

func TestFullQueueRefuses(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	apply(t, js, mail(t, "", func(q *topology.Queue) { q.MaxPending = 2 }))
	for range 2 {
		if _, err := js.Publish(t.Context(), "pelton.task.mail.print", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err := js.Publish(t.Context(), "pelton.task.mail.print", nil)
	mustFailWith(t, err, 10077)
	if _, err := js.Publish(t.Context(), "pelton.task.mail_high.print", nil); err != nil {
		t.Errorf("the other lane: %v", err)
	}
}

// TestBucket binds the results as any client would and does what a bucket can.
func TestBucket(t *testing.T) {
	ctx := t.Context()
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "", func(q *topology.Queue) { q.ResultsMax = 3 })
	apply(t, js, topo)
	kv, err := js.KeyValue(ctx, wire.DefaultNamespace.ResultsBucket("mail"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := kv.Create(ctx, "mail-1", []byte(`{"state":"started"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(ctx, "mail-1", nil); !errors.Is(err, jetstream.ErrKeyExists) {
		t.Errorf("second Create = %v", err)
	}
	second, err := kv.Update(ctx, "mail-1", []byte(`{"state":"succeeded"}`), first)
	if err != nil {
		t.Fatal(err)
	}
	_, err = kv.Update(ctx, "mail-1", nil, first)
	mustFailWith(t, err, 10071)
	if entry, err := kv.Get(ctx, "mail-1"); err != nil || entry.Revision() != second {
		t.Errorf("Get = %v, %v", entry, err)
	}
	if err := kv.Delete(ctx, "mail-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(ctx, "mail-1", []byte(`{"state":"queued"}`)); err != nil {
		t.Errorf("Create after Delete: %v", err)
	}
	// Nobody wipes a key, let alone the bucket, by a header.
	mustFailWith(t, kv.Purge(ctx, "mail-1"), 10111)

	for i := 2; i <= 4; i++ {
		if _, err := kv.Put(ctx, fmt.Sprintf("mail-%d", i), []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.Get(ctx, "mail-1"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the oldest of four, at most three kept: %v", err)
	}
	mustBeAlike(t, js, topo)
}

func TestRecordsAreRepeated(t *testing.T) {
	broker := enginetest.Start(t)
	js := broker.JetStream()
	apply(t, js, mail(t, ""))
	nc := broker.Conn()
	sub, err := nc.SubscribeSync(wire.DefaultNamespace.DoneSubject("mail", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	value := []byte(`{"id":"mail-1"}`)
	ack, err := js.Publish(t.Context(), wire.DefaultNamespace.RecordSubject("mail", "mail-1"), value)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Subject != "pelton.done.mail.mail-1" || !bytes.Equal(msg.Data, value) || msg.Header.Get(jetstream.SequenceHeader) != fmt.Sprint(ack.Sequence) {
		t.Errorf("got %s %q %v", msg.Subject, msg.Data, msg.Header)
	}
}

// TestBatches sends an atomic batch to the streams that take them: it is there
// as a whole, with the position of its last message.
func TestBatches(t *testing.T) {
	broker := enginetest.Start(t)
	nc := broker.Conn()
	apply(t, broker.JetStream(), mail(t, ""))
	for _, subject := range []string{"pelton.task.mail.print", "$KV.PELTON_RESULTS_mail.mail-1"} {
		send := func(sequence, commit string) *nats.Msg {
			msg := nats.NewMsg(subject)
			msg.Header.Set("Nats-Batch-Id", "b")
			msg.Header.Set("Nats-Batch-Sequence", sequence)
			if commit != "" {
				msg.Header.Set("Nats-Batch-Commit", commit)
			}
			reply, err := nc.RequestMsg(msg, patience)
			if err != nil {
				t.Fatal(err)
			}
			return reply
		}
		if reply := send("1", ""); len(reply.Data) > 0 {
			t.Errorf("%s: first of a batch: %s", subject, reply.Data)
		}
		if reply := send("2", "1"); !bytes.Contains(reply.Data, []byte(`"count":2`)) {
			t.Errorf("%s: commit: %s", subject, reply.Data)
		}
	}
}

// TestLaterBecomesDue parks a task and reads it when its time has come.
func TestLaterBecomesDue(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	apply(t, js, mail(t, ""))
	lane := wire.PlainLane("mail")
	ns := wire.DefaultNamespace
	target := ns.DueSubject(wire.Address{Lane: lane, Task: "print", ID: "a"})
	for _, body := range []string{"replaced", "last"} {
		msg := &nats.Msg{Subject: ns.LaterSubject(lane, "a"), Data: []byte(body), Header: nats.Header{
			"Nats-Schedule":        {"@at " + wire.FormatTime(time.Now().Add(500*time.Millisecond))},
			"Nats-Schedule-Target": {target},
		}}
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	due, err := js.Consumer(t.Context(), ns.LaterStream(lane), wire.DueDurable)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := due.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		t.Fatal(err)
	}
	if msg.Subject() != target || string(msg.Data()) != "last" {
		t.Errorf("got %s %q", msg.Subject(), msg.Data())
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), ns.LaterStream(lane))
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("the later stream still holds %d messages", n)
	}
}

func TestFirstSequence(t *testing.T) {
	ctx := t.Context()
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "", func(q *topology.Queue) { q.Priorities = []wire.Priority{"high", "low"} })
	apply(t, js, topo)
	kv, err := js.KeyValue(ctx, "PELTON_RESULTS_mail")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{
		"mail-7", "mail-41", "mail-9", "mail_high-1000", // free ids
		"mail_low-x", "mail-007", "mail_highest-9999", "slow-5000", "order-8888", "mail", // not of these lanes
		"mail-9007199254740992", "mail-18446744073709551615", // more than a stream ever numbers
	} {
		if _, err := kv.Create(ctx, id, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	// A deleted record leaves a mark, whose id was given too.
	if err := kv.Delete(ctx, "mail-41"); err != nil {
		t.Fatal(err)
	}
	mustRemake(t, js, topo, map[string]uint64{"mail": 42, "mail_high": 1001, "mail_low": 1})

	// Dead letters and tasks that wait for their time outlive records.
	for _, subject := range []string{
		"pelton.dead.mail.print.mail-100", "pelton.dead.slow.print.mail-999", "pelton.later.mail_low.mail_low-55", "pelton.due.mail.print.mail-99",
	} {
		if _, err := js.Publish(ctx, subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	mustRemake(t, js, topo, map[string]uint64{"mail": 101, "mail_high": 1001, "mail_low": 56})
}

// mustRemake removes the task streams and makes them again: the first task of
// each lane gets the sequence wanted.
func mustRemake(t *testing.T, js jetstream.JetStream, topo topology.Topology, want map[string]uint64) {
	t.Helper()
	tasks := topo.Only(kinds(topology.Tasks))
	for _, s := range tasks.Streams {
		if err := js.DeleteStream(t.Context(), s.Config.Name); err != nil {
			t.Fatal(err)
		}
	}
	// The part alone knows the ids as well as the whole does.
	for _, c := range apply(t, js, tasks) {
		t.Log(c)
	}
	mustBeAlike(t, js, topo)
	for lane, sequence := range want {
		ack, err := js.Publish(t.Context(), "pelton.task."+lane+".print", nil)
		if err != nil {
			t.Fatal(err)
		}
		if ack.Sequence != sequence {
			t.Errorf("lane %s starts at %d, want %d", lane, ack.Sequence, sequence)
		}
	}
	mustBeAlike(t, js, topo)
}

// TestFirstSequenceAmongMany has more records than the broker lists in one
// answer; the highest stands in the last.
func TestFirstSequenceAmongMany(t *testing.T) {
	const first, last = 1_000_001, 1_110_000
	broker := enginetest.Start(t)
	nc := broker.Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	topo := mail(t, "")
	apply(t, js, topo)
	for i := uint64(first); i <= last; i++ {
		subject := wire.DefaultNamespace.RecordSubject("mail", wire.FreeID(wire.PlainLane("mail"), i))
		// An acknowledgement now and then keeps the broker from being overrun.
		if i%5000 == 0 {
			_, err = js.Publish(t.Context(), subject, nil)
		} else {
			err = nc.Publish(subject, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustRemake(t, js, topo, map[string]uint64{"mail": last + 1, "mail_high": 1})
}

func Example() {
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{
		{Name: "mail", Priorities: []wire.Priority{wire.PriorityHigh}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range topo.Streams {
		fmt.Println(s.Kind, s.Config.Name, s.Config.Subjects)
		for _, c := range s.Consumers {
			fmt.Println("  ", c.Durable, c.FilterSubject)
		}
	}
	// Output:
	// dead PELTON_DEAD [pelton.dead.>]
	// revoked KV_PELTON_REVOKED [$KV.PELTON_REVOKED.>]
	// schedules KV_PELTON_SCHEDULES [$KV.PELTON_SCHEDULES.>]
	// results KV_PELTON_RESULTS_mail [$KV.PELTON_RESULTS_mail.>]
	// later PELTON_LATER_mail [pelton.later.mail.> pelton.due.mail.>]
	//    due pelton.due.mail.>
	// later PELTON_LATER_mail_high [pelton.later.mail_high.> pelton.due.mail_high.>]
	//    due pelton.due.mail_high.>
	// tasks PELTON_TASKS_mail [pelton.task.mail.> pelton.ledger.mail.>]
	//    workers pelton.task.mail.>
	// tasks PELTON_TASKS_mail_high [pelton.task.mail_high.> pelton.ledger.mail_high.>]
	//    workers pelton.task.mail_high.>
}
