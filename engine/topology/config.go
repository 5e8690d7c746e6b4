package topology

import (
	"fmt"
	"time"

	"pelton/engine/wire"
)

// Config says which queues there are. The zero value of every field but Queues
// takes its default.
type Config struct {
	Namespace  wire.Namespace // default pelton
	Queues     []Queue        // at least one, each name once
	Replicas   int            // copies of every stream, 1 to 5; default 1
	DeadMaxAge time.Duration  // how long a dead letter is kept; default 14 days
}

// Queue is one queue. The limits hold for each of its lanes.
type Queue struct {
	Name       string
	Priorities []wire.Priority // lanes beside the plain one

	// MaxPending is how many messages the task stream takes; a full one refuses
	// more. The positions of exactly-once writers count too. Default a million;
	// -1 lifts the limit.
	MaxPending int64
	// MaxBytes bounds the task stream's size; default -1, no limit. It should be
	// set, and lie below the storage limit of the account: a stream that is full
	// refuses a batch whole, an account that is full may tear it.
	MaxBytes int64

	AckWait time.Duration // how long a lease lasts; default 30 s
	// MaxAckPending is how many tasks may be in the hands of all workers; default
	// 10,000. Of those with a time, which workers take ahead of it, it is 16 times
	// as many, so that what is held leaves room for what is due.
	MaxAckPending int
	MaxWaiting    int // pull requests of all workers; default 1,024; fixed once made

	ResultsTTL time.Duration // how long a record is kept; default 24 h
	ResultsMax int64         // how many, the oldest go first; default two million
}

// The defaults of [Config] and [Queue].
const (
	DefaultReplicas      = 1
	DefaultDeadMaxAge    = 14 * 24 * time.Hour
	DefaultMaxPending    = 1_000_000
	DefaultAckWait       = 30 * time.Second
	DefaultMaxAckPending = 10_000
	DefaultMaxWaiting    = 1024
	DefaultResultsTTL    = 24 * time.Hour
	DefaultResultsMax    = 2_000_000
)

// unlimited is how the broker writes that there is no limit.
const unlimited = -1

// shortest is the smallest age and window that the broker takes.
const shortest = 100 * time.Millisecond

// withDefaults is a copy in which nothing is left to guess.
func (c Config) withDefaults() Config {
	orElse(&c.Namespace, wire.DefaultNamespace)
	orElse(&c.Replicas, DefaultReplicas)
	orElse(&c.DeadMaxAge, DefaultDeadMaxAge)
	queues := make([]Queue, len(c.Queues))
	for i, q := range c.Queues {
		queues[i] = q.withDefaults()
	}
	c.Queues = queues
	return c
}

func (q Queue) withDefaults() Queue {
	orElse(&q.MaxPending, DefaultMaxPending)
	orElse(&q.MaxBytes, unlimited)
	orElse(&q.AckWait, DefaultAckWait)
	orElse(&q.MaxAckPending, DefaultMaxAckPending)
	orElse(&q.MaxWaiting, DefaultMaxWaiting)
	orElse(&q.ResultsTTL, DefaultResultsTTL)
	orElse(&q.ResultsMax, DefaultResultsMax)
	return q
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (c Config) validate() error {
	if _, err := wire.ParseNamespace(string(c.Namespace)); err != nil {
		return err
	}
	switch {
	case c.Replicas < 1 || c.Replicas > 5:
		return fmt.Errorf("setup.replicas must be from 1 to 5, got %d", c.Replicas)
	case c.DeadMaxAge < shortest:
		return fmt.Errorf("dead.max_age must be at least %v, got %v", shortest, c.DeadMaxAge)
	case len(c.Queues) == 0:
		return fmt.Errorf("queues must name at least one queue, got none")
	}
	seen := make(map[string]bool, len(c.Queues))
	for _, q := range c.Queues {
		if err := q.validate(); err != nil {
			return err
		}
		if seen[q.Name] {
			return fmt.Errorf("queues must be named once each, got %s twice", q.Name)
		}
		seen[q.Name] = true
	}
	return nil
}

func (q Queue) validate() error {
	if err := wire.CheckQueue(q.Name); err != nil {
		return err
	}
	bad := func(key, rule string, got any) error {
		return fmt.Errorf("queues.%s.%s must be %s, got %v", q.Name, key, rule, got)
	}
	switch {
	case q.MaxPending < 1 && q.MaxPending != unlimited:
		return bad("max_pending", "at least 1, or -1 for no limit", q.MaxPending)
	case q.MaxBytes < 1 && q.MaxBytes != unlimited:
		return bad("max_bytes", "at least 1, or -1 for no limit", q.MaxBytes)
	case q.AckWait < shortest:
		return bad("ack_wait", "at least "+shortest.String(), q.AckWait)
	case q.MaxAckPending < 1:
		return bad("max_ack_pending", "at least 1", q.MaxAckPending)
	case q.MaxWaiting < 1:
		return bad("max_waiting", "at least 1", q.MaxWaiting)
	case q.ResultsTTL < shortest:
		return bad("results_ttl", "at least "+shortest.String(), q.ResultsTTL)
	case q.ResultsMax < 1:
		return bad("results_max", "at least 1", q.ResultsMax)
	}
	seen := make(map[wire.Priority]bool, len(q.Priorities))
	for _, p := range q.Priorities {
		if p != wire.PriorityHigh && p != wire.PriorityLow || seen[p] {
			return bad("priorities", "high and low, each at most once", fmt.Sprintf("%q", q.Priorities))
		}
		seen[p] = true
	}
	return nil
}
