package ingest

import (
	"errors"
	"fmt"
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

// errFencedHere ends a session whose batch was refused by another writer.
var errFencedHere = errors.New("another edge writes this partition")

// errTopicGone ends a session whose topic was deleted, and perhaps made anew.
var errTopicGone = errors.New("the topic is gone")

// mostStrikes is how many sessions in a row may be refused without one batch
// stored. A rebalance explains one or two; more is a writer that does not
// belong to the group.
const mostStrikes = 5

func (i *Ingest) strike(err error) error {
	if i.strikes.Add(1) < mostStrikes {
		return nil
	}
	return &StopError{
		Topic: i.cfg.Route.Topic, Partition: -1, What: fmt.Sprintf("a writer outside of the group %s keeps writing the ledger: %v", i.cfg.Route.Group, err),
		Remedy: "find and end it, then start again",
	}
}
