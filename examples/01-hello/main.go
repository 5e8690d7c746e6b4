// Hello is a task and a worker that runs it, in one program.
package main

import (
	"context"
	"log"
	"os"

	"pelton/engine"
)

var Greet = engine.NewTask[string, string]("greet")

func main() {
	c, err := engine.Connect(context.Background(), os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	w := engine.NewWorker(c, engine.WorkerConfig{})
	engine.Handle(w, Greet, func(ctx context.Context, name string) (string, error) {
		return "hello, " + name, nil
	})
	log.Fatal(w.Run(context.Background()))
}
