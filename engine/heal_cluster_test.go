//go:build e2e

package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// TestFetchingHealsOnACluster moves the leaders that a worker fetches by, and
// kills the node of the consumer's, which the worker is not connected to: its
// requests are lost there, and nobody says so.
func TestFetchingHealsOnACluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, c := clusterOfThree(ctx, t)
	stream := c.ns.TaskStream(wire.PlainLane(DefaultQueue))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 300 {
				if _, err := c.SendRaw(ctx, DefaultQueue, "flow", []byte(`1`)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()

	leader := consumerNode(ctx, t, c, stream, wire.WorkersDurable)
	apart := []string{b.urls[(leader+1)%3]}
	var last atomic.Int64
	w := NewWorker(clusterClient(t, apart), WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 1}}})
	HandleRaw(w, "flow", func(context.Context, *Message) ([]byte, error) {
		last.Store(time.Now().UnixNano())
		<-time.After(20 * time.Millisecond) // the work
		return nil, nil
	})
	defer background(func(ctx context.Context) {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	})()
	// What has begun within the first half second had been delivered before.
	resumes := func(what string, within time.Duration) {
		t.Helper()
		const before = 500 * time.Millisecond
		since := time.Now()
		eventually(ctx, t, func(context.Context) error {
			if time.Unix(0, last.Load()).Sub(since) > before || time.Since(since) > within {
				return nil
			}
			return fmt.Errorf("nothing runs after %s", what)
		})
		took := time.Unix(0, last.Load()).Sub(since)
		t.Logf("%s: deliveries resumed after %s", what, took.Round(time.Millisecond))
		if took < 0 {
			t.Errorf("%s: no task within %s", what, within)
		}
	}
	resumes("the start", 10*time.Second)

	stepDown(ctx, t, c, stream, wire.WorkersDurable)
	resumes("the consumer's leader stepped down", 5*time.Second)
	eventually(ctx, t, func(ctx context.Context) error {
		_, err := c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.LEADER.STEPDOWN."+stream, nil)
		return err
	})
	resumes("the stream's leader stepped down", 5*time.Second)

	leader = consumerNode(ctx, t, c, stream, wire.WorkersDurable)
	if err := b.children[leader].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.children[leader].Wait()
	resumes(fmt.Sprintf("node %d was killed, the worker is at %s", leader, apart), 10*time.Second)
	b.start(leader)
}

// TestElectionIsWaitedFor kills the node that leads a queue's streams. Until the
// others have elected another nobody takes a task, as if there were no queue:
// whoever waits for an answer gets one, a task sent with or without an id, one
// for later, and one that is waited for.
func TestElectionIsWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, c := clusterOfThree(ctx, t)
	lane := wire.PlainLane(DefaultQueue)
	leader := streamNode(ctx, t, c, c.ns.TaskStream(lane))
	gather(ctx, t, c, leader, c.ns.LaterStream(lane), c.ns.ResultsStream(DefaultQueue))
	apart := clusterClient(t, []string{b.urls[(leader+1)%3]})
	waited, err := apart.SendRaw(ctx, DefaultQueue, "flow", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}

	if err := b.children[leader].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.children[leader].Wait()
	var group sync.WaitGroup
	defer group.Wait()
	for name, opts := range map[string][]SendOption{
		"plain": nil, "with an id": {WithID("job-x")}, "later": {WithCountdown(time.Hour)}, "later with an id": {WithID("job-y"), WithCountdown(time.Hour)},
	} {
		group.Go(func() {
			since := time.Now()
			if _, err := apart.SendRaw(ctx, DefaultQueue, "flow", []byte(`1`), opts...); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			t.Logf("%s: sent after %s", name, time.Since(since).Round(time.Millisecond))
		})
	}
	group.Go(func() {
		if r, err := apart.Wait(ctx, DefaultQueue, waited.ID()); err != nil || r.State != wire.StateSucceeded {
			t.Errorf("waited for %s: %+v, %v", waited.ID(), r, err)
		}
	})
	// The control: publishes that are not repeated. The first may be lost on its way
	// to the node that is gone.
	eventually(ctx, t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		m, err := apart.nc.RequestWithContext(ctx, c.ns.TaskSubject(wire.Address{Lane: lane, Task: "flow"}), []byte(`1`))
		switch {
		case err == nil:
			t.Errorf("%s: somebody takes tasks, this test sees nothing", m.Data)
		case !errors.Is(err, nats.ErrNoResponders):
			return err
		}
		return nil
	})
	group.Go(func() { b.start(leader) })
	w := NewWorker(apart, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 1}}})
	HandleRaw(w, "flow", func(context.Context, *Message) ([]byte, error) { return nil, nil })
	defer background(func(ctx context.Context) {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	})()
	group.Wait()
}

// gather makes a node the leader of streams.
func gather(ctx context.Context, t *testing.T, c *Client, node int, streams ...string) {
	t.Helper()
	for _, stream := range streams {
		placement := fmt.Appendf(nil, `{"placement":{"preferred":"n%d"}}`, node)
		eventually(ctx, t, func(ctx context.Context) error {
			if leads, err := streamNodeNow(ctx, c, stream); err != nil || leads == node {
				return err
			}
			m, err := c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.LEADER.STEPDOWN."+stream, placement)
			if err != nil {
				return err
			}
			return fmt.Errorf("%s is led by another still: %s", stream, m.Data)
		})
	}
}

// streamNode is the number of the node that leads a stream.
func streamNode(ctx context.Context, t *testing.T, c *Client, name string) (node int) {
	t.Helper()
	eventually(ctx, t, func(ctx context.Context) (err error) {
		node, err = streamNodeNow(ctx, c, name)
		return err
	})
	return node
}

// streamNodeNow is the number of the node that leads a stream; none is an error.
func streamNodeNow(ctx context.Context, c *Client, name string) (node int, err error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscanf(stream.CachedInfo().Cluster.Leader, "n%d", &node)
	return node, err
}

// consumerNode is the number of the node that leads a consumer.
func consumerNode(ctx context.Context, t *testing.T, c *Client, stream, durable string) (node int) {
	t.Helper()
	name := consumerLeader(ctx, t, c, stream, durable)
	if _, err := fmt.Sscanf(name, "n%d", &node); err != nil {
		t.Fatalf("node %q: %v", name, err)
	}
	return node
}

// clusterOfThree is three brokers with a queue, and a client.
func clusterOfThree(ctx context.Context, t *testing.T) (*brokers, *Client) {
	t.Helper()
	b := startBrokers(t, 3)
	c := clusterClient(t, b.urls)
	topo, err := topology.New(topology.Config{Replicas: 3, Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, func(ctx context.Context) error { _, err := topology.Apply(ctx, c.js, topo); return err })
	return b, c
}

// clusterClient is a client on a connection of its own.
func clusterClient(t *testing.T, urls []string) *Client {
	t.Helper()
	nc, err := nats.Connect(strings.Join(urls, ","), ConnectOptions(nil)...)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	c, err := NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// eventually tries until it goes, as requests do that may meet a dead broker.
func eventually(ctx context.Context, t *testing.T, try func(context.Context) error) {
	t.Helper()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		trying, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := try(trying)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
