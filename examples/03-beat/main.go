// Beat is a program that sends its tasks at their times and works them. Any
// number of it may run: each time is sent once.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"pelton/engine"
	"pelton/schedules"
)

var Greet = engine.NewTask[string, string]("greet")

func main() {
	ctx := context.Background()
	c, err := engine.Connect(ctx, os.Getenv("NATS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	greeting := schedules.Every("greeting", 2*time.Second, Greet, "world")
	greeting.Overlap = schedules.OverlapSkip
	beat, err := schedules.NewBeat(c, schedules.Config{Entries: schedules.List(greeting)})
	if err != nil {
		log.Fatal(err)
	}
	w := engine.NewWorker(c, engine.WorkerConfig{})
	engine.Handle(w, Greet, func(ctx context.Context, name string) (string, error) {
		return "hello, " + name, nil
	})
	ended := make(chan error)
	go func() { ended <- beat.Run(ctx) }()
	go func() { ended <- w.Run(ctx) }()
	log.Fatal(<-ended)
}
