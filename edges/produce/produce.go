// Package produce is the edge by hand: messages from flags, arguments or
// standard input → Kafka topic. It stands at the very beginning of the path,
// before the topic that the ingest edge reads, and is what feeds a new
// installation, a test or a script.
//
// # What is written
//
// A message that is a JSON object or array is written as it is, byte for byte.
// Any other text, a bare JSON string or number included, becomes the content of
// a record of its own:
//
//	{"uuid":"6f1c…","content":"hi","timestamp":"2026-01-02T15:04:05.123456Z"}
//
// The uuid is random (version 4), the timestamp the moment of sending in UTC.
// Such a text must be valid UTF-8. This holds for every [Source].
//
// # What is promised
//
// With the defaults, a message that is reported without an error stands in the
// topic once, on every replica in sync. One that is reported with an error was
// either refused, or its outcome is unknown: sending it again may write it
// twice. Every message that was taken from the source is reported, whatever
// happens; only a process that is killed takes its messages along in silence.
package produce

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
)

// Producer sends the messages of one source to one topic.
type Producer struct {
	cfg    Config
	client atomic.Pointer[kgo.Client] // while messages are sent
}

// New checks cfg and copies it. It connects to nothing.
func New(cfg Config) (*Producer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if _, err := cfg.options(); err != nil {
		return nil, err
	}
	return &Producer{cfg: cfg}, nil
}

// Run sends until the source ends, Config.Count is reached or ctx is done. Then
// it waits for the outcomes of what it has taken: as long as they may take
// where it ended by itself, and for Config.Grace from the moment ctx is done.
// What is undelivered after that is reported so.
//
// It returns nil where all was delivered, also when ctx is done. It gives up
// early where no broker answers at the start ([ErrUnreachable]), where the
// topic is missing, then or later ([ErrNoTopic]), and where the brokers refuse
// the client ([ErrRefused]). A broker that goes away in between is waited for,
// within Config.DeliveryTimeout. Messages that were lost are an error that wraps
// [ErrUndelivered], tells how many and names the first reason.
//
// Run may be called again after it has returned, not at the same time.
func (p *Producer) Run(ctx context.Context) error {
	opts, err := p.cfg.options()
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := p.findTopic(ctx, cl); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before the first message
		}
		return err
	}

	p.client.Store(cl)
	defer p.client.Store(nil)
	s := newSender(p.cfg, cl)
	sendErr := s.send(ctx)
	s.drain(ctx)
	lostErr := s.lost()
	p.cfg.Logger.Debug("produced", slog.String("topic", p.cfg.Topic), slog.Int("messages", s.sent))
	return errors.Join(sendErr, lostErr)
}

// findTopic fails within the connect timeout, so that a mistake in an address
// or a name is told before the first message.
func (p *Producer) findTopic(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	if err := kafka.Ping(ctx, cl); err != nil {
		return err
	}
	_, err := kafka.TopicPartitions(ctx, cl, p.cfg.Topic)
	return err
}

// FindTopic returns nil where the topic exists. It writes nothing; the errors
// are those of Run: [ErrNoTopic], [ErrUnreachable], [ErrRefused].
func FindTopic(ctx context.Context, kafka Kafka, topic string) error {
	p, err := New(Config{Kafka: kafka, Topic: topic, Source: Literal()})
	if err != nil {
		return err
	}
	if err := p.Run(ctx); err != nil {
		return err
	}
	return ctx.Err()
}
