package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

type Order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

// A task has a name and the types of its input and output. Whoever sends it and
// whoever handles it share the definition.
var Pack = engine.NewTask[Order, string]("pack", engine.WithTimeout(30*time.Second), engine.WithMaxAttempts(3))

func Example() {
	url, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c, err := engine.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// A worker, here in the same process.
	w := engine.NewWorker(c, engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 4}}})
	engine.Handle(w, Pack, func(ctx context.Context, o Order) (string, error) {
		if o.Count < 1 {
			return "", engine.Permanent(fmt.Errorf("nothing to pack"))
		}
		return fmt.Sprintf("%d × %s", o.Count, o.Item), nil
	})
	working, drain := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()

	// Send returns when the broker has stored the task; Wait, when it is done.
	for _, order := range []Order{{"tea", 3}, {"air", 0}} {
		packed, err := Pack.Send(ctx, c, order)
		if err != nil {
			log.Fatal(err)
		}
		out, err := packed.Wait(ctx)
		fmt.Println(packed.ID(), out, err)
	}

	drain()
	fmt.Println("worker ended:", <-ended)
	// Output:
	// default-1 3 × tea <nil>
	// default-2  task default-2 failed at attempt 1: error: nothing to pack
	// worker ended: <nil>
}

// Middleware wraps every handler, and hooks are told what becomes of each task.
func ExampleMiddleware() {
	url, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := engine.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	frozen := func(next engine.Handler) engine.Handler {
		return func(ctx context.Context, m *engine.Message) ([]byte, error) {
			if m.Info.Task == "pack" && m.Info.Attempt == 1 {
				return nil, engine.RetryIn(0, errors.New("the stock is being counted"))
			}
			return next(ctx, m)
		}
	}
	done := make(chan struct{})
	w := engine.NewWorker(c, engine.WorkerConfig{
		Queues:     []engine.Queue{{Name: "default", Slots: 1}},
		Middleware: []engine.Middleware{frozen},
		Hooks: engine.Hooks{
			Failed:    func(e engine.TaskEvent) { fmt.Println("attempt", e.Attempt, "failed:", e.Failure.Message) },
			Succeeded: func(e engine.TaskEvent) { fmt.Println("attempt", e.Attempt, "of", e.ID, "succeeded"); close(done) },
		},
	})
	engine.Handle(w, Pack, func(_ context.Context, o Order) (string, error) { return o.Item, nil })
	working, drain := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()
	if _, err := Pack.Send(ctx, c, Order{"tea", 3}); err != nil {
		log.Fatal(err)
	}
	<-done
	drain()
	fmt.Println("worker ended:", <-ended)
	// Output:
	// attempt 1 failed: the stock is being counted
	// attempt 2 of default-1 succeeded
	// worker ended: <nil>
}

// A task may wait for its time in the broker, be replaced while it waits, and be
// cancelled wherever it is. A handler says what follows an error.
func ExampleClient_Replace() {
	url, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := engine.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	w := engine.NewWorker(c, engine.WorkerConfig{})
	busy := errors.New("the packing table is used")
	engine.Handle(w, Pack, func(_ context.Context, o Order) (string, error) {
		if o.Count > 9 {
			return "", fmt.Errorf("%d at once: %w", o.Count, busy)
		}
		return fmt.Sprintf("%d × %s", o.Count, o.Item), nil
	}, engine.WithRetry(engine.RetryFor(
		func(err error) bool { return errors.Is(err, busy) },
		engine.RetryAfter(time.Second, time.Minute),
		engine.RetryNever(),
	)))
	working, drain := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(working) }()

	packed, err := Pack.Send(ctx, c, Order{"tea", 3}, engine.WithID("order-tea"), engine.WithCountdown(time.Hour), engine.WithExpiresIn(2*time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Replace(ctx, packed.Queue(), packed.ID(), []byte(`{"item":"tea","count":4}`), time.Now()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(packed.Wait(ctx))

	unwanted, err := Pack.Send(ctx, c, Order{"air", 1}, engine.WithCountdown(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	if err := unwanted.Cancel(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = unwanted.Wait(ctx)
	fmt.Println(errors.Is(err, engine.ErrRevoked))

	drain()
	fmt.Println("worker ended:", <-ended)
	// Output:
	// 4 × tea <nil>
	// true
	// worker ended: <nil>
}

// exampleBroker is a broker in the process, with the queue default.
func exampleBroker() (url string, stop func()) {
	dir, err := os.MkdirTemp("", "pelton-example-")
	if err != nil {
		log.Fatal(err)
	}
	server, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	c, err := engine.Connect(ctx, server.URL())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: "default"}}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := topology.Apply(ctx, c.JetStream(), topo); err != nil {
		log.Fatal(err)
	}
	return server.URL(), func() {
		server.Stop()
		_ = os.RemoveAll(dir)
	}
}
