package emit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A pull asks for this many messages and bytes at most, so that large
	// results do not fill the memory.
	pullMessages = 500
	pullBytes    = 8 << 20
	// The broker ends a pull after pullExpiry and is heard every pullHeartbeat;
	// after pullSilence it, or its consumer, is gone.
	pullExpiry    = 10 * time.Second
	pullHeartbeat = time.Second
	pullSilence   = 2500 * time.Millisecond
	// pullStatuses is more than a pull can have in messages that are none.
	pullStatuses = 64

	// consumerLife is after how long the server forgets a consumer that nobody
	// pulls from. A transaction may take its whole timeout in between.
	consumerLife = 5 * time.Minute
)

// source reads the stream of one bucket in order, by a consumer of its own that
// wants no acknowledgements.
//
// It is what the client library calls an ordered consumer, without its repairs:
// that one makes itself a new consumer behind the caller's back, also on a
// stream that was made anew in the meantime. Here every irregularity is an
// error, and the next session compares the stream with the ledger.
type source struct {
	queue    *queue
	name     string // of the consumer
	consumer jetstream.Consumer
	after    uint64 // the stream's sequence that the first message exceeds

	// arrived is the consumer's count of the last result that has come here.
	arrived atomic.Uint64

	// Of the session's goroutine: the consumer's count of the last result
	// taken, the same at the last check, and since when the broker has had more
	// while nothing waited here. Zero is never.
	taken, before uint64
	starved       time.Time
}

// stalls looks at whether what the broker has delivered does not arrive: it has
// had more than was taken, and nothing waited here, for as long as it may be
// silent. While results of this source wait, this session is slow, and not the
// broker.
func (src *source) stalls(behind bool, now time.Time) bool {
	switch {
	case !behind || src.arrived.Load() != src.taken:
		src.starved = time.Time{}
	case src.starved.IsZero() || src.before != src.taken:
		src.starved = now
	case now.Sub(src.starved) >= pullSilence:
		return true
	}
	src.before = src.taken
	return false
}

// source makes the consumer that begins after what is read.
func (x *session) source(ctx context.Context, q *queue) (*source, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := "emit-" + rand.Text()
	consumer, err := x.e.js.CreateConsumer(ctx, q.stream, jetstream.ConsumerConfig{
		Name:              name,
		Description:       fmt.Sprintf("%s, shard %d, %s", x.e.cfg.group(), x.number, x.e.cfg.Instance),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       q.read.Sequence + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: consumerLife,
		Replicas:          1,
		MemoryStorage:     true,
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", q.stream, err)
	}
	return &source{queue: q, name: name, consumer: consumer, after: q.read.Sequence}, nil
}

// readAll hands on what the stream holds, in order, until ctx is done. It pulls
// once what it has pulled before has been handed on, so a message finds room or
// is not sent.
func (x *session) readAll(ctx context.Context, src *source) error {
	p := &puller{
		nc:       x.e.cfg.NATS,
		request:  "$JS.API.CONSUMER.MSG.NEXT." + src.queue.stream + "." + src.name,
		inbox:    x.e.cfg.NATS.NewInbox(),
		messages: make(chan *nats.Msg, pullMessages+pullStatuses),
	}
	sub, err := p.nc.ChanSubscribe(p.inbox+".*", p.messages)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only where the connection is closed
	delivered, sequence := uint64(0), src.after
	usual := pull{Batch: pullMessages, MaxBytes: pullBytes, Expires: pullExpiry, Heartbeat: pullHeartbeat}
	return p.run(ctx, usual, func(msg *nats.Msg) error {
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		// The consumer's own count has no gaps, the stream's has: whatever
		// got lost between the broker and here shows.
		at := meta.Sequence
		if at.Consumer != delivered+1 || at.Stream <= sequence {
			return fmt.Errorf("message %d (delivery %d) came after %d (delivery %d)", at.Stream, at.Consumer, sequence, delivered)
		}
		delivered, sequence = at.Consumer, at.Stream
		src.arrived.Store(delivered)
		return x.handOn(ctx, x.translate(src, msg, meta))
	})
}

// puller asks a consumer for messages, one request after the other.
type puller struct {
	nc       *nats.Conn
	request  string // subject
	inbox    string
	messages chan *nats.Msg
	requests int
}

// pull is the body of a request.
type pull struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// run calls take for each message until ctx is done or something is wrong.
func (p *puller) run(ctx context.Context, usual pull, take func(*nats.Msg) error) error {
	large := pull{Batch: 1, Expires: usual.Expires, Heartbeat: usual.Heartbeat}
	for next := usual; ; {
		tooLarge, err := p.pull(ctx, next, take)
		if err != nil {
			return err
		}
		next = usual
		if tooLarge { // a single message is beyond the bytes of a pull
			next = large
		}
	}
}

// pull makes one request and takes what comes until it has ended. It reports
// whether nothing came because the next message is too large for the request.
func (p *puller) pull(ctx context.Context, ask pull, take func(*nats.Msg) error) (tooLarge bool, err error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return false, err
	}
	p.requests++
	reply := p.inbox + "." + strconv.Itoa(p.requests)
	if err := p.nc.PublishRequest(p.request, reply, body); err != nil {
		return false, err
	}
	silence := time.NewTimer(pullSilence)
	defer silence.Stop()
	for got := 0; got < ask.Batch; {
		silence.Reset(pullSilence)
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-silence.C:
			if len(p.messages) == 0 { // else this process was slow, and not the broker
				return false, errSilent
			}
		case msg := <-p.messages:
			status := msg.Header.Get("Status")
			if status == "" {
				got++
				if err := take(msg); err != nil {
					return false, err
				}
				continue
			}
			// The end of an earlier request may come late.
			if msg.Subject != reply {
				continue
			}
			ended, err := pullEnded(status, msg.Header.Get("Description"))
			if ended || err != nil {
				return got == 0 && status == statusConflict, err
			}
		}
	}
	return false, nil
}

// What the broker says in answer to a pull (ADR-13).
const (
	statusHeartbeat = "100"
	statusTimeout   = "408"
	statusConflict  = "409"

	batchCompleted = "Batch Completed"
	exceedsBytes   = "Message Size Exceeds MaxBytes"
)

func pullEnded(status, description string) (bool, error) {
	switch {
	case status == statusHeartbeat:
		return false, nil
	case status == statusTimeout:
		return true, nil
	case status == statusConflict && (description == batchCompleted || description == exceedsBytes):
		return true, nil
	}
	return false, fmt.Errorf("pull: %s %s", status, description)
}

// handOn waits for room, in bytes and in number.
func (x *session) handOn(ctx context.Context, r *result) error {
	if err := x.room.Acquire(ctx, r.weight); err != nil {
		return err
	}
	select {
	case x.results <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var (
	errSilent      = errors.New("the broker is silent")
	errStalled     = errors.New("the broker has delivered what did not arrive")
	errReconnected = errors.New("the connection was lost in between")
)

// check looks at every source: whether it is read to its end, which renews the
// position's time, and whether what the broker has delivered arrives. A message
// lost with a connection shows only by the next one, which may be long in
// coming.
func (x *session) check(ctx context.Context) error {
	if x.e.cfg.NATS.Stats().Reconnects != x.reconnects {
		return errReconnected
	}
	for _, src := range x.sources {
		if err := x.checkSource(ctx, src); err != nil {
			return fmt.Errorf("stream %s: %w", src.queue.stream, err)
		}
	}
	for _, q := range x.missing {
		info, err := x.info(ctx, q)
		if err != nil {
			return err
		}
		if info != nil {
			return errBegin
		}
	}
	return nil
}

func (x *session) checkSource(ctx context.Context, src *source) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := src.consumer.Info(ctx)
	if err != nil {
		return err
	}
	q := src.queue
	behind := info.NumPending > 0 || info.Delivered.Consumer != src.taken
	lag := time.Duration(0)
	if behind {
		lag = info.TimeStamp.Sub(q.read.At)
	} else {
		q.read.At, q.first = info.TimeStamp, false
	}
	x.watchLag(ctx, q, lag)
	if src.stalls(behind, time.Now()) {
		return errStalled
	}
	return nil
}
