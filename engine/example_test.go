package engine_test

import (
	"context"
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
