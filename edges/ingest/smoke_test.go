package ingest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/enginetest"
)

func TestSmoke(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "commands"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	broker := enginetest.Start(t)
	broker.Setup("default")
	cl, _ := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	defer cl.Close()
	for i := range 500 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "commands", Value: fmt.Appendf(nil, `{"n":%d}`, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan Batch, 1000)
	in, err := New(Config{Kafka: Kafka{Brokers: cluster.ListenAddrs()}, NATS: broker.Conn(), Route: Route{Topic: "commands"}, OnBatch: func(b Batch) { got <- b }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	n := 0
	for n < 500 {
		select {
		case b := <-got:
			n += len(b.Tasks)
		case <-ctx.Done():
			t.Fatal("timeout ", n)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
