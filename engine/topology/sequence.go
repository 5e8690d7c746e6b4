package topology

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// listTimeout bounds how long the names of all records may take to arrive.
const listTimeout = 2 * time.Minute

// mostSequence bounds what is believed to be a sequence: no stream numbers as
// many messages, and a record with a made-up id must not wear the numbers out.
const mostSequence = 1 << 53

// knownIDs finds the highest free ids by which tasks of a queue are still
// known: in records, in dead letters, and among those that wait for their time.
type knownIDs struct {
	js     jetstream.JetStream
	ns     wire.Namespace
	queues map[string]map[wire.Lane]uint64
}

// highest is the highest sequence in a free id of the lane, 0 if there is none.
func (k *knownIDs) highest(ctx context.Context, lane wire.Lane) (uint64, error) {
	if byLane, ok := k.queues[lane.Queue]; ok {
		return byLane[lane], nil
	}
	byLane, err := k.scan(ctx, lane.Queue)
	if err != nil {
		return 0, err
	}
	if k.queues == nil {
		k.queues = make(map[string]map[wire.Lane]uint64)
	}
	k.queues[lane.Queue] = byLane
	return byLane[lane], nil
}

func (k *knownIDs) scan(ctx context.Context, queue string) (map[wire.Lane]uint64, error) {
	places := []struct{ stream, filter string }{
		{k.ns.ResultsStream(queue), k.ns.RecordSubject(queue, ">")},
		{k.ns.DeadStream(), k.ns.DeadFilter(queue)},
	}
	for _, p := range []wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow} {
		places = append(places, struct{ stream, filter string }{k.ns.LaterStream(wire.Lane{Queue: queue, Priority: p}), ">"})
	}
	byLane := make(map[wire.Lane]uint64)
	for _, p := range places {
		subjects, err := k.subjects(ctx, p.stream, p.filter)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", p.stream, err)
		}
		for subject := range subjects {
			lane, sequence, ok := wire.ParseFreeID(subject[strings.LastIndexByte(subject, '.')+1:])
			if ok && lane.Queue == queue && sequence < mostSequence {
				byLane[lane] = max(byLane[lane], sequence)
			}
		}
	}
	return byLane, nil
}

// subjects lists what a stream holds without loading any of it. The id is the
// last token of each. Beyond 100,000 the list comes in parts; a record that
// expires between two of them can hide the one at their border.
func (k *knownIDs) subjects(ctx context.Context, stream, filter string) (map[string]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	s, err := lookStream(ctx, k.js, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil //nolint:nilnil // a stream that is not there holds nothing
	}
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}
