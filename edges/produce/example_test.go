package produce_test

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kfake"

	"pelton/edges/produce"
)

// Three messages at ten a second. The broker is one within the process.
func ExampleProducer_Run() {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "commands"))
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()

	interval, err := produce.ParseRate("10/s")
	if err != nil {
		log.Fatal(err)
	}
	p, err := produce.New(produce.Config{
		Kafka:    produce.Kafka{Brokers: cluster.ListenAddrs()},
		Topic:    "commands",
		Source:   produce.Cycle(`{"kind":"greet"}`),
		Count:    3,
		Interval: interval,
		OnDelivery: func(d produce.Delivery) {
			if d.Err != nil {
				fmt.Println(d.Number, "lost:", d.Err)
				return
			}
			fmt.Println(d.Topic, d.Partition, d.Offset, string(d.Value))
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// commands 0 0 {"kind":"greet"}
	// commands 0 1 {"kind":"greet"}
	// commands 0 2 {"kind":"greet"}
}

func ExampleParseRate() {
	for _, rate := range []string{"1/s", "100/m", "5/h", "fast"} {
		fmt.Println(produce.ParseRate(rate))
	}
	// Output:
	// 1s <nil>
	// 600ms <nil>
	// 12m0s <nil>
	// 0s rate: "fast": must be a whole number per s, m or h, such as 100/m
}
