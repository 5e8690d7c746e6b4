package ingest

import (
	"errors"
	"fmt"
	"time"

	"pelton/engine/ledger"
)

// ErrStopped is what every [StopError] is, for errors.Is.
var ErrStopped = errors.New("stopped for safety")

// StopError ends an edge that could only go on by a guess. A supervisor should
// not start it again before somebody has looked.
type StopError struct {
	Topic     string
	Partition int32
	What      string // what was found
	Remedy    string // what an operator can do
}

// Error names the place, what was found and the way out.
func (e *StopError) Error() string {
	return fmt.Sprintf("%v: topic %s, partition %d: %s; %s", ErrStopped, e.Topic, e.Partition, e.What, e.Remedy)
}

// Is makes it an ErrStopped.
func (e *StopError) Is(target error) bool { return target == ErrStopped }

// errLedgerChanged ends a session whose ledger was changed by hand: taken away,
// or set back under a new generation.
var errLedgerChanged = errors.New("the ledger was changed by hand")

// errTopicGone ends a session whose topic was deleted, and perhaps made anew.
var errTopicGone = errors.New("the topic is gone")

// mostStrikes is how many refusals stop the edge. Two may be a coincidence.
const mostStrikes = 3

// strikes counts refusals, by other writers, of a partition that the group has
// confirmed to be this edge's.
type strikes struct {
	count int
	last  time.Time
}

// strike counts a refusal and stops the edge at the last one. For one session
// timeout after a partition has come, its owner before may still write, not
// knowing that it has lost it. Afterwards a writer that goes before the owner
// again and again does not belong to the group, and what it does to the ledger
// nobody knows.
func (p *partition) strike(fenced *ledger.FencedError) error {
	now := time.Now()
	if now.Sub(p.since) < p.cfg.SessionTimeout {
		return nil
	}
	if now.Sub(p.strikes.last) > 10*p.cfg.SessionTimeout {
		p.strikes.count = 0
	}
	p.strikes.last = now
	if p.strikes.count++; p.strikes.count < mostStrikes {
		return nil
	}
	return p.stopError(fmt.Sprintf("a writer outside of the group %s keeps writing the ledger: %v", p.cfg.Route.Group, fenced),
		"find and end it, then start again")
}

// stopError ends the edge because of this partition.
func (p *partition) stopError(what, remedy string) error {
	return &StopError{Topic: p.cfg.Route.Topic, Partition: p.number, What: what, Remedy: remedy}
}
