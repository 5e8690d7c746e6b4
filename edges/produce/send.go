package produce

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"pelton/edges/internal/kafka"
)

const (
	// maxInFlight bounds the bytes that were taken from the source and are not
	// yet settled; a source that is faster than the brokers waits.
	maxInFlight = 64 << 20
	// messageOverhead is added to each message's size, so that many small ones
	// are bounded in number as well.
	messageOverhead = 1 << 10
)

// Delivery is the outcome of one message.
type Delivery struct {
	// Number counts the messages in the order of sending, from 1.
	Number int
	Topic  string
	// Partition and Offset are where the message stands; each is -1 where it is
	// unknown, as after an error, and the offset also with acks of 0.
	Partition int32
	Offset    int64
	Key       string
	// Value is what was written. It must not be changed.
	Value []byte
	// Bytes is the size of key and value.
	Bytes int
	// Err is nil where the message was delivered. Otherwise it may wrap
	// [ErrNoTopic], [ErrRefused] or [ErrUnreachable].
	Err error
}

// sender carries one run. Its methods are for the goroutine of Run; settle is
// called by the client, one record at a time.
type sender struct {
	cfg    Config
	client *kgo.Client
	sent   int

	// room is taken by what is in flight. Whoever holds all of it knows that
	// every message has been settled, and sees what settle wrote.
	room *semaphore.Weighted

	// stop ends send, for a failure that the next message would share. Set
	// before the first message.
	stop context.CancelFunc

	undelivered int   // by settle
	firstErr    error // by settle
}

func newSender(cfg Config, cl *kgo.Client) *sender {
	return &sender{cfg: cfg, client: cl, room: semaphore.NewWeighted(maxInFlight)}
}

// send hands the messages to the client, at the configured pace, until there
// are no more, ctx is done or the rest would be lost as well.
func (s *sender) send(ctx context.Context) error {
	// Stopping ends the sending, not what is in flight: drain does that.
	work := context.WithoutCancel(ctx)
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()

	pace := pacer{interval: s.cfg.Interval}
	for message, err := range s.cfg.Source(ctx) {
		if err != nil && ctx.Err() == nil {
			return err
		}
		if !pace.wait(ctx) {
			return nil
		}
		value, err := encode(message, time.Now())
		if err != nil {
			return fmt.Errorf("message %d: %w", s.sent+1, err)
		}
		rec, size := s.record(value)
		if s.room.Acquire(ctx, size) != nil {
			return nil // stopped while the brokers were slow
		}
		s.produce(work, rec, size)
		if s.cfg.Count > 0 && s.sent == s.cfg.Count {
			return nil
		}
	}
	return nil
}

// record returns the record and the room that it takes.
func (s *sender) record(value []byte) (*kgo.Record, int64) {
	rec := &kgo.Record{Topic: s.cfg.Topic, Value: value}
	if s.cfg.Key != "" {
		rec.Key = []byte(s.cfg.Key)
	}
	size := messageOverhead + len(rec.Key) + len(value)
	for _, header := range s.cfg.Headers {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: header.Key, Value: []byte(header.Value)})
		size += len(header.Key) + len(header.Value)
	}
	return rec, min(int64(size), maxInFlight)
}

func (s *sender) produce(ctx context.Context, rec *kgo.Record, size int64) {
	s.sent++
	number := s.sent
	s.client.Produce(ctx, rec, func(rec *kgo.Record, err error) {
		defer s.room.Release(size)
		s.settle(number, rec, err)
	})
}

// settle reports an outcome.
func (s *sender) settle(number int, rec *kgo.Record, err error) {
	delivery := Delivery{
		Number: number, Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset,
		Key: string(rec.Key), Value: rec.Value, Bytes: len(rec.Key) + len(rec.Value),
	}
	if s.cfg.Acks == "0" {
		delivery.Offset = -1
	}
	if err != nil {
		delivery.Partition, delivery.Offset = -1, -1
		delivery.Err = s.explain(err)
		s.fail(delivery.Err)
	}
	s.cfg.OnDelivery(delivery)
}

func (s *sender) fail(err error) {
	s.undelivered++
	if s.firstErr == nil {
		s.firstErr = err
	}
	switch kafka.Classify(err) {
	case kafka.NoTopic, kafka.Auth, kafka.Fatal:
		s.stop()
	default:
	}
}

func (s *sender) explain(err error) error {
	switch kafka.Classify(err) {
	case kafka.NoTopic:
		return fmt.Errorf("kafka topic %q %w: %w", s.cfg.Topic, ErrNoTopic, err)
	case kafka.Auth:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case kafka.Unreachable:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case kafka.Stopped:
		return fmt.Errorf("given up %v after the stop: %w", s.cfg.Grace, err)
	default:
		return err
	}
}

// drain returns when every message has been settled. Once ctx is done it waits
// for the grace, and then gives up what is left.
func (s *sender) drain(ctx context.Context) {
	limited, cancel := withGrace(ctx, s.cfg.Grace)
	defer cancel()
	if s.client.Flush(limited) != nil {
		s.client.UnsafeAbortBufferedRecords() // settles what is left; nothing follows it
	}
	_ = s.room.Acquire(context.WithoutCancel(ctx), maxInFlight)
}

// withGrace returns a context that ends that long after ctx has.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	limited, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return limited, func() { unwatch(); cancel() }
}

// lost returns nil where all messages were delivered. It is for after drain.
func (s *sender) lost() error {
	if s.undelivered == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d messages %w: %w", s.undelivered, s.sent, ErrUndelivered, s.firstErr)
}
