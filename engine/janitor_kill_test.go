//go:build e2e

package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// TestKilledBrokerLeavesNothingToNobody kills a broker that writes to its disk
// when it likes, while tasks are sent and run. What it forgets differs from run
// to run, often nothing; after a janitor nothing is left, every task that was
// acknowledged has ended, and none has two outcomes.
func TestKilledBrokerLeavesNothingToNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	b := startBrokers(t, 1)
	nc, err := nats.Connect(strings.Join(b.urls, ","), ConnectOptions(nil)...)
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
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: 2 * time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Apply(ctx, c.js, topo); err != nil {
		t.Fatal(err)
	}
	o := newOutage()
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 64}}, Hooks: Hooks{Recorded: o.record}})
	HandleRaw(w, "toil", func(context.Context, *Message) ([]byte, error) { return nil, nil })
	t.Cleanup(background(func(working context.Context) {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	}))
	sent := sendWhileKilled(ctx, t, b, c)
	var forgotten uint64
	eventually(ctx, t, func(ctx context.Context) error {
		name := c.ns.TaskStream(wire.PlainLane(DefaultQueue))
		info, err := c.consumerInfo(ctx, name, wire.WorkersDurable)
		stream, errStream := c.streamInfo(ctx, name)
		if err != nil || errStream != nil || info == nil {
			return fmt.Errorf("consumer %+v: %w", info, errors.Join(err, errStream))
		}
		waiting := info.NumPending + uint64(info.NumAckPending)
		forgotten = stream.State.Msgs - waiting
		if waiting > 0 {
			return fmt.Errorf("%d tasks still wait", waiting)
		}
		return nil
	})
	t.Logf("%d tasks sent, %d forgotten", len(sent), forgotten)
	if err := NewJanitor(c, JanitorConfig{}).Once(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range sent {
		o.mu.Lock()
		ended := o.terminal[id] > 0
		o.mu.Unlock()
		if ended {
			continue
		}
		if r, err := c.Wait(ctx, DefaultQueue, id); err != nil || r.State != wire.StateSucceeded {
			t.Fatalf("%s is lost: %+v, %v", id, r, err)
		}
	}
	awaitDrained(ctx, t, c)
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.terminal {
		if n > 1 {
			t.Errorf("%s has %d terminal records", id, n)
		}
	}
}

// sendWhileKilled sends from many callers while the broker is killed, and
// returns what was acknowledged.
func sendWhileKilled(ctx context.Context, t *testing.T, b *brokers, c *Client) []string {
	t.Helper()
	sending, enough := context.WithCancel(ctx)
	var mu sync.Mutex
	var sent []string
	var group sync.WaitGroup
	bodies := make([][]byte, 200)
	for i := range bodies {
		bodies[i] = []byte(`1`)
	}
	for range 2 {
		group.Go(func() {
			for sending.Err() == nil {
				many, _ := c.SendManyRaw(sending, DefaultQueue, "toil", bodies, WithAllIDs())
				mu.Lock()
				for _, r := range many {
					if r != nil {
						sent = append(sent, r.ID())
					}
				}
				mu.Unlock()
			}
		})
	}
	for range 10 {
		<-time.After(1500 * time.Millisecond)
		b.kill(0)
	}
	<-time.After(time.Second)
	enough()
	group.Wait()
	return sent
}
