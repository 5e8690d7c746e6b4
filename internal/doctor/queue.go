package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// streams compares streams, consumers and buckets with the plan.
func streams(ctx context.Context, cfg Config) ([]Finding, error) {
	changes, err := topology.Plan(ctx, cfg.Client.JetStream(), cfg.Topology)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, c := range changes {
		level, fix := Warn, "pelton setup apply"
		for _, f := range c.Fields {
			if f.Contract {
				level = Fail
			}
		}
		if c.Action == topology.Create {
			level = Fail
		}
		if c.Action == topology.Replace {
			fix = "remove it by hand (a stream goes with its messages), then: pelton setup apply"
		}
		found = append(found, note(level, fix, "%s", c))
	}
	if found == nil {
		found = []Finding{note(OK, "", "%d streams as planned", len(cfg.Topology.Streams))}
	}
	return found, nil
}

// workers looks at each queue: whether somebody works it, and how much is in
// the hands of workers.
func workers(ctx context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, s := range cfg.Topology.Streams {
		if s.Kind != topology.Tasks || s.Priority != wire.PriorityNone {
			continue
		}
		status, err := cfg.Client.QueueStatus(ctx, s.Queue)
		if errors.Is(err, engine.ErrNoQueue) {
			continue // told with the streams
		}
		if err != nil {
			return found, err
		}
		found = append(found, worked(status))
		crowded, err := crowded(ctx, cfg, s)
		if err != nil {
			return found, err
		}
		found = append(found, crowded...)
	}
	return found, nil
}

func worked(q engine.QueueStatus) Finding {
	switch q.State {
	case engine.QueueNoWorker:
		return note(Fail, "pelton worker --queues "+q.Queue+":1", "%s: %d pending, nobody fetches", q.Queue, q.Pending)
	case engine.QueueNoConsumer:
		return note(Fail, "pelton setup apply", "%s: a consumer is missing, so nobody can fetch", q.Queue)
	case engine.QueueFull:
		return note(Fail, "raise queues."+q.Queue+".max_pending, then: pelton setup apply; or start more workers", "%s: full, tasks are refused", q.Queue)
	case engine.QueuePaused:
		return note(Warn, "nats consumer resume", "%s: paused until %s", q.Queue, q.PausedUntil.Format(time.RFC3339))
	case engine.QueueOK:
	}
	return note(OK, "", "%s: %d pending, %d running", q.Queue, q.Pending, q.Running)
}

// crowded warns of consumers that may soon give out no more tasks.
func crowded(ctx context.Context, cfg Config, s topology.Stream) ([]Finding, error) {
	var found []Finding
	for _, wanted := range s.Consumers {
		consumer, err := cfg.Client.JetStream().Consumer(ctx, s.Config.Name, wanted.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue // told with the queue
		}
		if err != nil {
			return nil, fmt.Errorf("consumer %s/%s: %w", s.Config.Name, wanted.Durable, err)
		}
		info := consumer.CachedInfo()
		if most := info.Config.MaxAckPending; most > 0 && info.NumAckPending*10 >= most*8 {
			found = append(found, note(Warn, "raise queues."+s.Queue+".max_ack_pending, then: pelton setup apply",
				"%s: %d of at most %d tasks are in the hands of workers; at the limit no more are given out", s.Queue, info.NumAckPending, most))
		}
	}
	return found, nil
}

const (
	headerSchedule = "Nats-Schedule"
	// laterMost bounds how many of a queue's later tasks are looked at.
	laterMost = 1000
)

// later looks for messages among the tasks that wait for their time which have
// none: somebody wrote them by hand, and they never fire.
func later(ctx context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, s := range cfg.Topology.Streams {
		if s.Kind != topology.Later {
			continue
		}
		stream, err := cfg.Client.JetStream().Stream(ctx, s.Config.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // told with the streams
		}
		if err != nil {
			return found, fmt.Errorf("stream %s: %w", s.Config.Name, err)
		}
		f, err := laterOf(ctx, cfg, s, stream)
		found = append(found, f...)
		if err != nil {
			return found, fmt.Errorf("stream %s: %w", s.Config.Name, err)
		}
	}
	return found, nil
}

func laterOf(ctx context.Context, cfg Config, s topology.Stream, stream jetstream.Stream) ([]Finding, error) {
	var found []Finding
	filter := cfg.Client.Namespace().LaterFilter(s.Lane())
	looked := 0
	for next := uint64(1); looked < laterMost; looked++ {
		m, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return found, err
		}
		if m.Header.Get(headerSchedule) == "" {
			found = append(found, note(Fail, fmt.Sprintf("nats stream rmm %s %d", s.Config.Name, m.Sequence),
				"%s has no schedule: written by hand, it never fires", m.Subject))
		}
		next = m.Sequence + 1
	}
	if found == nil && looked > 0 {
		found = []Finding{note(OK, "", "%s: %d looked at, all have their time", s.Lane(), looked)}
	}
	return found, nil
}

// deadWithin is how new dead letters are that are told.
const deadWithin = time.Hour

// deadMost bounds how many are looked at.
const deadMost = 500

// dead warns of tasks that died lately.
func dead(ctx context.Context, cfg Config) ([]Finding, error) {
	letters, err := cfg.Client.DeadLetters(ctx, "", deadMost)
	if errors.Is(err, engine.ErrNoQueue) {
		return nil, nil // told with the streams
	}
	if err != nil {
		return nil, err
	}
	return []Finding{died(letters, time.Now())}, nil
}

func died(letters []engine.DeadLetter, now time.Time) Finding {
	n := 0
	for _, l := range letters {
		if now.Sub(l.DiedAt) <= deadWithin {
			n++
		}
	}
	if n == 0 {
		return note(OK, "", "none in the last hour")
	}
	more := ""
	if n == deadMost {
		more = " or more"
	}
	return note(Warn, "pelton dead ls", "%d%s in the last hour, the newest %s: %s", n, more, letters[0].ID, letters[0].ErrorType)
}
