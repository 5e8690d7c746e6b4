package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// The numbers of a busy queue are asked for one after the other and need not
// add up, so a queue is looked at several times and the least of it counts.
const (
	orphanLooks = 4
	orphanPause = 150 * time.Millisecond
)

// orphans looks for tasks that stand in a queue and that no worker will be
// given: below the consumer's floor, as a server that was killed between two
// writes to disk can leave them.
func orphans(ctx context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, s := range cfg.Topology.Streams {
		if s.Kind != topology.Tasks {
			continue
		}
		n, err := fewestOrphans(ctx, cfg, s)
		if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue // told with the streams
		}
		if err != nil {
			return found, fmt.Errorf("stream %s: %w", s.Config.Name, err)
		}
		if n > 0 {
			found = append(found, note(Warn, "pelton janitor", "%s: %d tasks that no worker will be given", s.Lane(), n))
		}
	}
	return found, nil
}

func fewestOrphans(ctx context.Context, cfg Config, s topology.Stream) (int64, error) {
	fewest := int64(0)
	for look := range orphanLooks {
		n, err := countOrphans(ctx, cfg, s)
		if err != nil || n <= 0 {
			return 0, err
		}
		if look == 0 || n < fewest {
			fewest = n
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(orphanPause):
		}
	}
	return fewest, nil
}

// countOrphans is what neither waits, nor is in the hands of workers, nor is a
// ledger.
func countOrphans(ctx context.Context, cfg Config, s topology.Stream) (int64, error) {
	messages, entries, err := countEntries(ctx, cfg, s)
	if err != nil {
		return 0, err
	}
	consumer, err := cfg.Client.JetStream().Consumer(ctx, s.Config.Name, wire.WorkersDurable)
	if err != nil {
		return 0, err
	}
	workers := consumer.CachedInfo()
	return messages - entries - int64(workers.NumPending) - int64(workers.NumAckPending), nil
}

// countEntries is how many messages stand in a queue, and how many of them are
// entries of ledgers.
func countEntries(ctx context.Context, cfg Config, s topology.Stream) (messages, entries int64, err error) {
	stream, err := cfg.Client.JetStream().Stream(ctx, s.Config.Name)
	if err != nil {
		return 0, 0, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(cfg.Client.Namespace().LedgerFilter(s.Lane())))
	if err != nil {
		return 0, 0, err
	}
	for _, n := range info.State.Subjects {
		entries += int64(n)
	}
	return int64(info.State.Msgs), entries, nil
}

// ledgerMost is how many entries of ledgers a queue without a limit may have; one
// with a limit a hundredth of it. A janitor leaves a few dozen.
const ledgerMost = 10_000

// ledgers warns of a queue that fills with the positions of its writers, because
// nobody trims them.
func ledgers(ctx context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, s := range cfg.Topology.Streams {
		if s.Kind != topology.Tasks {
			continue
		}
		_, entries, err := countEntries(ctx, cfg, s)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // told with the streams
		}
		if err != nil {
			return found, fmt.Errorf("stream %s: %w", s.Config.Name, err)
		}
		most := int64(ledgerMost)
		if s.Config.MaxMsgs > 0 {
			most = s.Config.MaxMsgs / 100
		}
		if entries > most {
			found = append(found, note(Warn, "pelton janitor", "%s: %d positions of ingest and beat count against its limit, and no janitor trims them", s.Lane(), entries))
		}
	}
	return found, nil
}
