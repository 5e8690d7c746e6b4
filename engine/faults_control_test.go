//go:build e2e

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/faulttest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// zombies freezes workers for longer than their leases while they run tasks,
// and does not let a lease end: what they return then comes late.
func zombies(blind bool) faultPlan {
	return faultPlan{
		brokers: 1, faults: 6, pause: 300 * time.Millisecond, slow: 20,
		weights: map[string]int{"freeze worker": 1}, without: protections{Lease: true}, blind: blind,
	}
}

// TestLateOutcomesReplaceNothing: the revision that a record expects is enough to
// keep out what comes late, whatever became of the lease.
func TestLateOutcomesReplaceNothing(t *testing.T) { holds(t, zombies(false)) }

// TestOutcomesThatExpectNoRevisionReplaceOthers is its control.
func TestOutcomesThatExpectNoRevisionReplaceOthers(t *testing.T) {
	fails(t, zombies(true), faulttest.RuleTwice, faulttest.RuleOlderFence)
}

// TestAckBeforeTheRecordBreaksTheRules is a control of the tests of faults:
// workers that acknowledge a task before it has run lose it with themselves.
func TestAckBeforeTheRecordBreaksTheRules(t *testing.T) {
	fails(t, faultPlan{
		brokers: 1, faults: 20, pause: 300 * time.Millisecond, slow: 20,
		weights: map[string]int{"kill worker": 1}, without: protections{RecordFirst: true},
	}, faulttest.RuleLost)
}

// fails runs a plan whose history must break one of the rules.
func fails(t *testing.T, plan faultPlan, rules ...faulttest.Rule) {
	t.Helper()
	w := startFaults(t, plan)
	w.play()
	verdict := faulttest.Judge(w.events())
	broken := 0
	for _, rule := range rules {
		broken += verdict.Broken(rule)
		t.Logf("%s: %d times", rule, verdict.Broken(rule))
	}
	if broken == 0 {
		t.Errorf("seed %d, history %s: the tests of faults are blind\n%s", w.seed, w.path, verdict)
	}
}

// TestHandedBackOutlivesTheLeader: a task that a worker has handed back is soon
// another's, although the consumer changes its leader then.
func TestHandedBackOutlivesTheLeader(t *testing.T) {
	const soon = 6 * time.Second // the lease is five times that
	if took := handedBack(t, protections{}, soon); took > soon {
		t.Errorf("not delivered within %s", soon)
	}
}

// TestPlainNakIsForgottenWithTheLeader is its control: a nak without a delay must
// wait for the end of the lease.
func TestPlainNakIsForgottenWithTheLeader(t *testing.T) {
	const soon = 6 * time.Second
	if took := handedBack(t, protections{NakDelay: true}, soon); took <= soon {
		t.Errorf("delivered after %s: the test of handing back is blind", took)
	}
}

// handedBack is how long after a change of the leader a task runs that was
// handed back before it, more than within where it does not.
func handedBack(t *testing.T, without protections, within time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster := enginetest.StartCluster(t)
	cluster.Setup(DefaultQueue)
	c, err := NewClient(cluster.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	replicated := heldByTheTest(ctx, t, c)
	began := make(chan struct{}, 10)
	work := func() (stop func()) {
		w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 1}}, Grace: time.Nanosecond})
		w.without = without
		HandleRaw(w, "held", func(ctx context.Context, _ *Message) ([]byte, error) {
			began <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		return background(func(ctx context.Context) {
			if err := w.Run(ctx); err != nil {
				t.Errorf("worker: %v", err)
			}
		})
	}
	stop := work()
	if _, err := c.SendRaw(ctx, DefaultQueue, "held", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	<-began
	stop()
	replicated()
	lane := wire.PlainLane(DefaultQueue)
	stepDown(ctx, t, c, c.ns.TaskStream(lane), wire.WorkersDurable)
	since := time.Now()
	defer work()()
	select {
	case <-began:
	case <-time.After(within + time.Second):
	}
	took := time.Since(since)
	t.Logf("handed back, delivered after %s", took.Round(time.Millisecond))
	return took
}

// heldByTheTest takes a task of its own from the consumer, and returns what acks
// it and waits for the answer. A leader answers an ack once most nodes have it,
// in the order in which the connection spoke: then they have what was said before
// it too, and the next leader is one of them. A leader that gives up forgets what
// only it has heard.
func heldByTheTest(ctx context.Context, t *testing.T, c *Client) (replicated func()) {
	t.Helper()
	if _, err := c.SendRaw(ctx, DefaultQueue, "held", []byte(`0`)); err != nil {
		t.Fatal(err)
	}
	var m jetstream.Msg
	eventually(ctx, t, func(ctx context.Context) error {
		consumer, err := c.js.Consumer(ctx, c.ns.TaskStream(wire.PlainLane(DefaultQueue)), wire.WorkersDurable)
		if err != nil {
			return err
		}
		m, err = consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
		return err
	})
	return func() {
		t.Helper()
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// stepDown has the leader of a consumer give up, and waits for the next.
func stepDown(ctx context.Context, t *testing.T, c *Client, stream, durable string) {
	t.Helper()
	before := consumerLeader(ctx, t, c, stream, durable)
	eventually(ctx, t, func(ctx context.Context) error {
		if now, err := leaderNow(ctx, c, stream, durable); err != nil || now != before {
			return err
		}
		m, err := c.nc.RequestWithContext(ctx, apiPrefix+"CONSUMER.LEADER.STEPDOWN."+stream+"."+durable, nil)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s leads still: %s", before, m.Data)
	})
}

// consumerLeader is the node that leads a consumer, as soon as one does.
func consumerLeader(ctx context.Context, t *testing.T, c *Client, stream, durable string) (name string) {
	t.Helper()
	eventually(ctx, t, func(ctx context.Context) (err error) {
		name, err = leaderNow(ctx, c, stream, durable)
		return err
	})
	return name
}

// leaderNow is the node that leads a consumer; none is an error.
func leaderNow(ctx context.Context, c *Client, stream, durable string) (string, error) {
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	consumer, err := c.js.Consumer(asking, stream, durable)
	if err != nil {
		return "", err
	}
	if cluster := consumer.CachedInfo().Cluster; cluster != nil && cluster.Leader != "" {
		return cluster.Leader, nil
	}
	return "", fmt.Errorf("consumer %s has no leader", durable)
}

// TestTasksWaitInTheQueueAndNotInHands: two workers of one slot have more to do
// than a lease is long; each task runs once, because none waits in their hands.
func TestTasksWaitInTheQueueAndNotInHands(t *testing.T) {
	again := queueOfTwo(t, func(t *testing.T, c *Client, handle func(body []byte)) {
		t.Helper()
		w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 1}}})
		HandleRaw(w, "slow", func(_ context.Context, m *Message) ([]byte, error) { handle(m.Body); return nil, nil })
		t.Cleanup(background(func(ctx context.Context) {
			if err := w.Run(ctx); err != nil {
				t.Errorf("worker: %v", err)
			}
		}))
	})
	if again != 0 {
		t.Errorf("%d runs too many", again)
	}
}

// TestConsumeRunsWhatWaitsInItsHandsAgain is its control: the library's consumer
// takes up to 500 messages and cannot renew their leases.
func TestConsumeRunsWhatWaitsInItsHandsAgain(t *testing.T) {
	again := queueOfTwo(t, func(t *testing.T, c *Client, handle func(body []byte)) {
		t.Helper()
		consumer, err := c.js.Consumer(t.Context(), c.ns.TaskStream(wire.PlainLane(DefaultQueue)), wire.WorkersDurable)
		if err != nil {
			t.Fatal(err)
		}
		consuming, err := consumer.Consume(func(m jetstream.Msg) { handle(m.Data()); _ = m.Ack() })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { consuming.Stop(); <-consuming.Closed() })
	})
	if again == 0 {
		t.Error("nothing ran again: the test of what workers hold is blind")
	}
}

// queueOfTwo has two workers do slow tasks and tells how many ran once too often.
func queueOfTwo(t *testing.T, work func(t *testing.T, c *Client, handle func(body []byte))) (again int) {
	t.Helper()
	const tasks = 24
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: time.Second}}})
	var mu sync.Mutex
	runs := map[string]int{}
	handle := func(body []byte) {
		<-time.After(150 * time.Millisecond) // the work
		mu.Lock()
		defer mu.Unlock()
		runs[string(body)]++
	}
	client := func() *Client {
		c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := client()
	for i := range tasks {
		if _, err := c.SendRaw(ctx, DefaultQueue, "slow", must(json.Marshal(i))); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		work(t, client(), handle)
	}
	awaitDrained(ctx, t, c)
	count := func() (again int) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range runs {
			again += n - 1
		}
		return again
	}
	// What was delivered again may stand in somebody's hands still.
	for end := time.Now().Add(3 * time.Second); count() == 0 && time.Now().Before(end); {
		<-time.After(20 * time.Millisecond)
	}
	again = count()
	if mu.Lock(); len(runs) != tasks {
		t.Errorf("%d of %d tasks ran", len(runs), tasks)
	}
	mu.Unlock()
	return again
}
