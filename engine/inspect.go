package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// QueueState says whether a queue moves, and if not, why.
type QueueState string

// The states of a queue. Where several hold, the first in this order is told.
const (
	// QueueNoConsumer: a consumer of the queue is missing, so nobody can fetch.
	QueueNoConsumer QueueState = "NO CONSUMER"
	// QueuePaused: a lane was paused and brings no tasks until that ends.
	QueuePaused QueueState = "PAUSED"
	// QueueNoWorker: tasks wait, none runs, and nobody asks for one.
	QueueNoWorker QueueState = "NO WORKER"
	// QueueFull: the task stream is at its limit and refuses more.
	QueueFull QueueState = "FULL"
	// QueueOK: none of the above.
	QueueOK QueueState = "ok"
)

// QueueStatus is how a queue stands. The numbers are asked for one after the
// other, so those of a busy queue need not add up.
type QueueStatus struct {
	Queue       string     `json:"queue"`
	State       QueueState `json:"state"`
	Pending     uint64     `json:"pending"`               // ready to run and in nobody's hands
	Running     uint64     `json:"running"`               // in the hands of workers
	Later       uint64     `json:"later"`                 // waiting for their time
	Dead        uint64     `json:"dead"`                  // dead letters
	Waiting     int        `json:"waiting"`               // requests of workers that wait for a task
	Oldest      time.Time  `json:"oldest,omitzero"`       // since when the oldest pending or running task is ready
	PausedUntil time.Time  `json:"paused_until,omitzero"` // of a paused queue
}

// secondLook is how long after the first look a queue is looked at again before
// it is said that nobody works it: longer than a worker takes between settling
// a task and asking for the next.
const secondLook = 300 * time.Millisecond

// QueueStatus tells how a queue stands. The error is [ErrNoQueue] where there is
// no such queue. It takes half a dozen requests, and a third of a second more
// where nobody seems to work the queue.
func (c *Client) QueueStatus(ctx context.Context, queue string) (QueueStatus, error) {
	if err := wire.CheckQueue(queue); err != nil {
		return QueueStatus{}, err
	}
	s, err := c.lookAtQueue(ctx, queue)
	if err != nil || s.State != QueueNoWorker {
		return s, err
	}
	select {
	case <-ctx.Done():
		return s, requestError("queue "+queue, ctx.Err())
	case <-time.After(secondLook):
	}
	return c.lookAtQueue(ctx, queue)
}

func (c *Client) lookAtQueue(ctx context.Context, queue string) (QueueStatus, error) {
	s := QueueStatus{Queue: queue}
	for _, priority := range []wire.Priority{wire.PriorityNone, wire.PriorityHigh, wire.PriorityLow} {
		err := c.lookAtLane(ctx, wire.Lane{Queue: queue, Priority: priority}, &s)
		if err != nil && (priority == wire.PriorityNone || !errors.Is(err, ErrNoQueue)) {
			return s, err
		}
	}
	if s.State == QueueNoWorker && s.Running+uint64(s.Waiting) > 0 {
		s.State = QueueOK // a worker works the lanes above
	}
	var err error
	_, s.Dead, err = c.firstOfSubject(ctx, c.ns.DeadStream(), c.ns.DeadFilter(queue))
	return s, err
}

// lookAtLane adds a lane to the status of its queue.
func (c *Client) lookAtLane(ctx context.Context, lane wire.Lane, s *QueueStatus) error {
	tasks, err := c.streamInfo(ctx, c.ns.TaskStream(lane))
	if err != nil {
		return err
	}
	later, err := c.streamInfo(ctx, c.ns.LaterStream(lane))
	if err != nil {
		return err
	}
	ready, err := c.consumerInfo(ctx, tasks.Config.Name, wire.WorkersDurable)
	if err != nil {
		return err
	}
	due, err := c.consumerInfo(ctx, later.Config.Name, wire.DueDurable)
	if err != nil {
		return err
	}
	of := QueueStatus{Queue: s.Queue}
	of.count(tasks, later, ready, due)
	s.add(of)
	for stream, filter := range map[string]string{
		tasks.Config.Name: c.ns.TaskFilter(lane),
		later.Config.Name: c.ns.DueFilter(lane),
	} {
		first, _, err := c.firstOfSubject(ctx, stream, filter)
		if err != nil {
			return err
		}
		if first != nil && (s.Oldest.IsZero() || first.time.Before(s.Oldest)) {
			s.Oldest = first.time
		}
	}
	return nil
}

// states are those of a queue, the one that is told first before the others.
var states = []QueueState{QueueNoConsumer, QueuePaused, QueueNoWorker, QueueFull, QueueOK}

// add counts one more lane.
func (s *QueueStatus) add(of QueueStatus) {
	s.Pending += of.Pending
	s.Running += of.Running
	s.Later += of.Later
	s.Waiting += of.Waiting
	s.PausedUntil = latest(s.PausedUntil, of.PausedUntil)
	if s.State == "" || slices.Index(states, of.State) < slices.Index(states, s.State) {
		s.State = of.State
	}
}

// count fills in what the consumers say; nil is one that is missing.
//
// The task stream's own count is of no use: the positions of exactly-once
// writers stand there for good. The later stream holds nothing but tasks, those
// that are due included.
func (s *QueueStatus) count(tasks, later *jetstream.StreamInfo, ready, due *jetstream.ConsumerInfo) {
	var ofDue uint64
	for _, consumer := range []*jetstream.ConsumerInfo{ready, due} {
		if consumer == nil {
			continue
		}
		held := uint64(max(consumer.NumAckPending, 0))
		s.Pending += consumer.NumPending
		s.Running += held
		s.Waiting += consumer.NumWaiting
		if consumer == due {
			ofDue = consumer.NumPending + held
		}
		if consumer.Paused && consumer.Config.PauseUntil != nil {
			s.PausedUntil = latest(s.PausedUntil, consumer.Config.PauseUntil.UTC())
		}
	}
	if due != nil && later.State.Msgs > ofDue {
		s.Later = later.State.Msgs - ofDue
	}
	switch {
	case ready == nil || due == nil:
		s.State = QueueNoConsumer
	case ready.Paused || due.Paused:
		s.State = QueuePaused
	case s.Pending > 0 && s.Running == 0 && s.Waiting == 0:
		s.State = QueueNoWorker
	case full(tasks):
		s.State = QueueFull
	default:
		s.State = QueueOK
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func full(s *jetstream.StreamInfo) bool {
	over := func(have uint64, limit int64) bool { return limit > 0 && have >= uint64(limit) }
	return over(s.State.Msgs, s.Config.MaxMsgs) || over(s.State.Bytes, s.Config.MaxBytes)
}

// Queues are the names of the queues there are, in order.
func (c *Client) Queues(ctx context.Context) ([]string, error) {
	prefix := c.ns.TaskStream(wire.Lane{})
	var queues []string
	err := c.permitted(ctx, apiPrefix+"STREAM.NAMES", func(ctx context.Context) error {
		names := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(string(c.ns)+".task.>"))
		for name := range names.Name() {
			token, ok := strings.CutPrefix(name, prefix)
			lane, err := wire.ParseLane(token)
			if ok && err == nil {
				queues = append(queues, lane.Queue)
			}
		}
		return names.Err()
	})
	if err != nil {
		return nil, inspectError("streams", err)
	}
	slices.Sort(queues)
	return slices.Compact(queues), nil
}

// DeadLetter is what is told of a task that died, without its body.
type DeadLetter struct {
	ID        string      `json:"id"`
	Task      string      `json:"task"`
	Queue     string      `json:"queue"`
	ErrorType string      `json:"error_type"`
	Error     string      `json:"error"`
	Attempt   int         `json:"attempt"` // the last one
	DiedAt    time.Time   `json:"died_at"`
	Origin    string      `json:"origin,omitempty"`
	Bytes     int         `json:"bytes"`    // size of the body
	Sequence  uint64      `json:"sequence"` // in the stream of dead letters
	Header    wire.Header `json:"-"`        // all of them, without the broker's own
}

// deadWindow is the least number of sequences that are searched at once for
// dead letters.
const deadWindow = 256

// DeadLetters lists dead letters, the newest first, those of all queues where
// queue is empty. It reads from the end and about as many as it returns, however
// many there are; with a limit of 0 it returns all.
func (c *Client) DeadLetters(ctx context.Context, queue string, limit int) ([]DeadLetter, error) {
	if queue != "" {
		if err := wire.CheckQueue(queue); err != nil {
			return nil, err
		}
	}
	info, err := c.streamInfo(ctx, c.ns.DeadStream())
	if err != nil {
		return nil, err
	}
	first, end := info.State.FirstSeq, info.State.LastSeq+1
	if limit <= 0 || info.State.Msgs <= uint64(limit) {
		limit = int(info.State.Msgs)
	}
	var letters []DeadLetter
	for window := uint64(max(limit, deadWindow)); end > first && len(letters) < limit; window *= 4 {
		start := first
		if end-first > window {
			start = end - window
		}
		found, err := c.deadBetween(ctx, queue, start, end)
		if err != nil {
			return nil, err
		}
		slices.Reverse(found)
		letters = append(letters, found...)
		end = start
	}
	return letters[:min(limit, len(letters))], nil
}

// deadBetween reads the headers of the dead letters from start up to end, in
// their order.
func (c *Client) deadBetween(ctx context.Context, queue string, start, end uint64) ([]DeadLetter, error) {
	stream := c.ns.DeadStream()
	var consumer jetstream.Consumer
	err := c.permitted(ctx, apiPrefix+"CONSUMER.CREATE."+stream, func(ctx context.Context) (err error) {
		consumer, err = c.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
			DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:       start,
			FilterSubject:     c.ns.DeadFilter(queue),
			AckPolicy:         jetstream.AckNonePolicy,
			HeadersOnly:       true,
			MemoryStorage:     true,
			Replicas:          1,
			InactiveThreshold: requestTimeout,
		})
		return err
	})
	if err != nil {
		return nil, inspectError("stream "+stream, err)
	}
	defer func() { _ = c.js.DeleteConsumer(context.WithoutCancel(ctx), stream, consumer.CachedInfo().Name) }()
	var letters []DeadLetter
	for left := consumer.CachedInfo().NumPending; left > 0; {
		batch, err := consumer.FetchNoWait(int(min(left, deadBatch)))
		if err != nil {
			return nil, inspectError("stream "+stream, err)
		}
		got := false
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, inspectError("stream "+stream, err)
			}
			if meta.Sequence.Stream >= end {
				left = 1 // what follows was read before, or has come since
			} else if letter, ok := c.deadLetter(m, meta); ok {
				letters = append(letters, letter)
			}
			got, left = true, left-min(left, 1)
		}
		if err := batch.Error(); err != nil {
			return nil, inspectError("stream "+stream, err)
		}
		if !got {
			break // what was pending has been removed since
		}
	}
	return letters, nil
}

// deadBatch is how many dead letters are asked for at once.
const deadBatch = 500

// deadLetter reads one message. What is no dead letter's subject is left out:
// somebody else put it there.
func (c *Client) deadLetter(m jetstream.Msg, meta *jetstream.MsgMetadata) (DeadLetter, bool) {
	address, err := c.ns.ParseDead(m.Subject())
	if err != nil {
		return DeadLetter{}, false
	}
	h := wire.Header(m.Headers())
	letter := DeadLetter{
		ID: address.ID, Task: address.Task, Queue: address.Lane.Queue,
		ErrorType: h.Value(wire.HeaderErrorType), Error: h.Value(wire.HeaderError),
		Origin: h.Value(wire.HeaderOrigin), DiedAt: meta.Timestamp.UTC(), Sequence: meta.Sequence.Stream, Header: h.Own(),
	}
	letter.Attempt, _ = strconv.Atoi(h.Value(wire.HeaderAttempt))
	letter.Bytes, _ = strconv.Atoi(h.Value(nats.MsgSize))
	if t, err := time.Parse(time.RFC3339Nano, h.Value(wire.HeaderDiedAt)); err == nil {
		letter.DiedAt = t.UTC()
	}
	return letter, true
}

// nextRequest asks for the first message that matches a filter, in the form in
// which the answer also tells how many follow (ADR-31, batch).
type nextRequest struct {
	NextFor string `json:"next_by_subj"`
	Batch   int    `json:"batch"`
}

// firstOfSubject reads the oldest message of a stream that matches a filter,
// and how many match. It returns nil and 0 where none does.
func (c *Client) firstOfSubject(ctx context.Context, stream, filter string) (*stored, uint64, error) {
	body, err := json.Marshal(nextRequest{filter, 1})
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var m *nats.Msg
	err = c.permitted(ctx, apiPrefix+"DIRECT.GET."+stream, func(ctx context.Context) (err error) {
		m, err = c.nc.RequestWithContext(ctx, apiPrefix+"DIRECT.GET."+stream, body)
		return err
	})
	if err != nil {
		return nil, 0, inspectError("stream "+stream, err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, 0, nil
	default:
		return nil, 0, fmt.Errorf("stream %s: %s %s", stream, status, m.Header.Get("Description"))
	}
	first, err := directMessage(m)
	if err != nil {
		return nil, 0, err
	}
	following, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("stream %s: the broker does not count what matches, it needs version 2.11: %w", stream, err)
	}
	return first, following + 1, nil
}

func (c *Client) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := c.permitted(ctx, apiPrefix+"STREAM.INFO."+name, func(ctx context.Context) (err error) {
		stream, err = c.js.Stream(ctx, name)
		return err
	})
	if err != nil {
		return nil, inspectError("stream "+name, err)
	}
	return stream.CachedInfo(), nil
}

// consumerInfo returns nil for a consumer that is missing.
func (c *Client) consumerInfo(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	var consumer jetstream.Consumer
	err := c.permitted(ctx, apiPrefix+"CONSUMER.INFO."+stream, func(ctx context.Context) (err error) {
		consumer, err = c.js.Consumer(ctx, stream, name)
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDoesNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, inspectError("consumer "+stream+"/"+name, err)
	}
	return consumer.CachedInfo(), nil
}

// inspectError says what was asked for and which of this package's errors the
// broker's answer is.
func inspectError(what string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%s: %w (pelton setup apply makes it)", what, ErrNoQueue)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("%s: jetstream: %w: %w", what, ErrUnreachable, err)
	}
	return requestError(what, err)
}
