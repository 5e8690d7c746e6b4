//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

// ingestWithoutLedger is the consumer that most would write: it publishes what
// it has polled, waits for the acks, and commits the offsets afterwards, once a
// second, where clients that commit by themselves do so every five.
func ingestWithoutLedger() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BOOTSTRAP_SERVERS"), ",")...),
		kgo.ConsumerGroup("control"), kgo.ConsumeTopics("commands"), kgo.DisableAutoCommit(),
		kgo.SessionTimeout(time.Second), kgo.HeartbeatInterval(300*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	for committed := time.Now(); ctx.Err() == nil; {
		fetches := cl.PollFetches(ctx)
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			m := nats.NewMsg("pelton.task.default.print")
			m.Header.Set(wire.HeaderOrigin, wire.KafkaOrigin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}.String())
			m.Data = r.Value
			if _, err := js.PublishMsg(context.WithoutCancel(ctx), m); err != nil && failed == nil {
				failed = fmt.Errorf("publish: %w", err)
			}
		})
		if failed != nil {
			return failed
		}
		if time.Since(committed) < time.Second && ctx.Err() == nil {
			continue
		}
		committed = time.Now()
		// Rebalances and shutdown may refuse the commit; then it is the next
		// owner who publishes again.
		_ = cl.CommitUncommittedOffsets(context.WithoutCancel(ctx))
	}
	return nil
}
