package engine

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// probe asks a worker for its health until it is as wanted.
func probe(t *testing.T, w *Worker, what string, want func(Health) bool) Health {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		h := w.Health()
		if want(h) {
			return h
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: never, but %+v", what, h)
		}
	}
}

func says(lines []string, text string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, text) })
}

// healthy starts a worker of the default queue with a task that waits for its
// release.
func healthy(t *testing.T, broker *enginetest.Broker, cfg WorkerConfig) (w *Worker, release chan struct{}, stop func()) {
	t.Helper()
	nc := broker.Conn(ConnectOptions(nil)...)
	client, err := NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	cfg.Queues = []Queue{{Name: DefaultQueue, Slots: 2}}
	w = NewWorker(client, cfg)
	release = make(chan struct{})
	HandleRaw(w, "hold", func(ctx context.Context, _ *Message) ([]byte, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	return w, release, cancel
}

func publishHold(t *testing.T, w *Worker) {
	t.Helper()
	if _, err := w.c.js.Publish(t.Context(), w.c.ns.TaskSubject(wire.Address{Lane: wire.PlainLane(DefaultQueue), Task: "hold"}), json.RawMessage("1")); err != nil {
		t.Fatal(err)
	}
}

func TestHealthOfALife(t *testing.T) {
	t.Parallel()
	broker := enginetest.Start(t)
	client, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if h := NewWorker(client, WorkerConfig{}).Health(); !h.Alive() || !says(h.Unready, "not started") {
		t.Errorf("before Run: %+v", h)
	}
	broker.Setup(DefaultQueue)
	w, release, stop := healthy(t, broker, WorkerConfig{})
	probe(t, w, "ready", Health.Ready)
	publishHold(t, w)
	if err := broker.Restart(); err != nil {
		t.Fatal(err)
	}
	probe(t, w, "ready after a restart", Health.Ready)
	broker.Stop()
	if h := probe(t, w, "broker gone", func(h Health) bool { return says(h.Unready, "nats: not connected") }); !h.Alive() {
		t.Errorf("without a broker: %+v", h)
	}
	if err := broker.Restart(); err != nil {
		t.Fatal(err)
	}
	probe(t, w, "ready again", Health.Ready)
	stop()
	probe(t, w, "draining", func(h Health) bool { return says(h.Unready, "draining") || says(h.Unready, "ended") })
	close(release)
	if h := probe(t, w, "ended", func(h Health) bool { return says(h.Unready, "ended") }); !h.Alive() {
		t.Errorf("after the end: %+v", h)
	}
}

// A consumer that has gone is no reason to start the worker again, but it
// fetches nothing.
func TestHealthWithoutAConsumer(t *testing.T) {
	t.Parallel()
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	w, release, _ := healthy(t, broker, WorkerConfig{})
	defer close(release)
	probe(t, w, "ready", Health.Ready)
	if err := w.c.js.DeleteConsumer(t.Context(), "PELTON_TASKS_default", wire.WorkersDurable); err != nil {
		t.Fatal(err)
	}
	if h := probe(t, w, "cannot fetch", func(h Health) bool { return says(h.Unready, "queue default: cannot fetch") }); !h.Alive() {
		t.Errorf("not alive: %+v", h)
	}
	broker.Setup(DefaultQueue)
	probe(t, w, "ready again", Health.Ready)
}

// An OnRecord that does not return holds up the outcomes; the worker says so
// and says no more once it goes on. Where it returns the same worker stays
// alive.
func TestHealthOfAStalledLoop(t *testing.T) {
	t.Parallel()
	for _, blocks := range []bool{true, false} {
		broker := enginetest.Start(t)
		broker.Setup(DefaultQueue)
		blocked, written := make(chan struct{}), make(chan struct{}, 8)
		w, release, _ := healthy(t, broker, WorkerConfig{Hooks: Hooks{Recorded: func(*Record) {
			written <- struct{}{}
			if blocks {
				<-blocked
			}
		}}})
		probe(t, w, "ready", Health.Ready)
		w.vitals.stallAll(t, 200*time.Millisecond)
		close(release)
		publishHold(t, w)
		<-written
		if !blocks {
			<-time.After(500 * time.Millisecond) // more than twice the bound
			probe(t, w, "control: alive", Health.Alive)
			continue
		}
		h := probe(t, w, "stalled", func(h Health) bool { return !h.Alive() })
		if !says(h.Stalled, "outcomes of queue default: no turn for ") || h.Ready() {
			t.Errorf("stalled: %+v", h)
		}
		close(blocked)
		probe(t, w, "alive again", Health.Alive)
	}
}

// stallAll makes a settler's bound short, once the pools are there.
func (v *vitals) stallAll(t *testing.T, bound time.Duration) {
	t.Helper()
	for _, p := range *v.pools.Load() {
		p.signs.settling.Bound(bound)
	}
}

func TestConnectionInWords(t *testing.T) {
	t.Parallel()
	for status, want := range map[nats.Status]string{
		nats.CLOSED: "closed for good", nats.RECONNECTING: "not connected", nats.DRAINING_PUBS: "is being closed",
	} {
		if got := connection(status); got != want {
			t.Errorf("%s: %q, want %q", status, got, want)
		}
	}
}
