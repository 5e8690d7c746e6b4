package kafka

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// pingTimeout bounds one Ping. It leaves room for a dial that needs its whole
// time and for a broker that is slow to greet.
const pingTimeout = 5 * time.Second

// Ping returns nil as soon as one broker answers. All are asked at once, each a
// single time, for 5 seconds at most. Where none answers, the error names the
// seeds and wraps [ErrUnreachable], or [ErrRefused] where credentials are at
// fault. Where ctx is cancelled meanwhile, its cause is returned as it is.
func Ping(ctx context.Context, cl *kgo.Client) error {
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	brokers := append(cl.SeedBrokers(), cl.DiscoveredBrokers()...)
	answers := make(chan error, len(brokers))
	for _, broker := range brokers {
		go func() { answers <- greet(limited, broker) }()
	}
	var failure error
	answered := false
	for range brokers { // to the last, so that no goroutine is left behind
		switch err := <-answers; {
		case err == nil:
			answered = true
			cancel()
		case failure == nil || Classify(err) == Auth:
			failure = err
		}
	}
	switch {
	case answered:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	default:
		return explain(cl, failure)
	}
}

// greet sends the cheapest request that every broker answers.
func greet(ctx context.Context, broker *kgo.Broker) error {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none; nil means all
	_, err := broker.Request(ctx, req)
	return err
}

// WaitReady returns when a broker answers. A role calls it before its work, so
// that it may start before Kafka does: it warns once, waits as long as it takes
// and says when Kafka is there. It returns early where ctx is done, with its
// cause, and where the credentials are refused, with [ErrRefused].
func WaitReady(ctx context.Context, cl *kgo.Client, logger *slog.Logger) error {
	for failures := 1; ; failures++ {
		err := Ping(ctx, cl)
		switch {
		case err == nil:
			if failures > 1 {
				logger.Info("kafka reachable", slog.String("brokers", seeds(cl)))
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case Classify(err) == Auth:
			return err
		case failures == 1:
			logger.Warn("kafka unreachable, waiting for it", slog.Any("err", err))
		}
		if err := pause(ctx, backoff(failures)); err != nil {
			return err
		}
	}
}

// pause waits for d, or returns the cause of ctx where that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
