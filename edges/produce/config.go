package produce

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
)

const (
	defaultConnectTimeout  = 10 * time.Second
	defaultDeliveryTimeout = 2 * time.Minute
	defaultGrace           = 10 * time.Second

	// Kafka's own default of message.max.bytes, and what fits into a request.
	defaultMaxMessageBytes = 1048588
	minMessageBytes        = 512
	maxMessageBytes        = 100 << 20

	// A broker that has just taken over a partition may not know it for a
	// moment, so the first such answer does not end a run.
	unknownTopicRetries = 3
)

// Kafka says which Kafka to write to, and as whom; the zero value is a broker on
// this machine.
type Kafka = kafka.Config

// SASL holds the credentials of [Kafka].
type SASL = kafka.SASL

// Errors that [Producer.Run] wraps.
var (
	// ErrUnreachable means that no broker answered.
	ErrUnreachable = kafka.ErrUnreachable
	// ErrRefused means that credentials or rights were refused.
	ErrRefused = kafka.ErrRefused
	// ErrNoTopic means that the topic does not exist. It is never created here.
	ErrNoTopic = kafka.ErrNoTopic
	// ErrUndelivered means that messages were reported as not delivered.
	ErrUndelivered = errors.New("not delivered")
)

// Header is one header of a Kafka record. The same key may stand several times.
type Header struct {
	Key, Value string
}

// Config says what a [Producer] sends, where, and how safely. Only Topic is
// required.
type Config struct {
	Kafka Kafka
	// Topic to write to. It must exist.
	Topic string
	// Key of every record. Records with the same key go to the same partition,
	// chosen as Kafka's own clients do. Empty means no key: they spread.
	Key string
	// Headers of every record, in this order.
	Headers []Header
	// Source of the messages; Default("") unless set.
	Source Source
	// Count ends Run after so many messages; 0 sends until the source ends or
	// Run is stopped.
	Count int
	// Interval between two messages, see [ParseRate]; 0 sends as fast as the
	// brokers take them.
	Interval time.Duration

	// Acks is "all", which waits for every replica in sync and is what it is
	// unless set, "1" for the leader alone, or "0" for nobody: then the offset
	// is unknown and a loss goes unnoticed.
	Acks string
	// DisableIdempotence gives up the protection against repeats by the
	// client's own retries. Acks of 1 or 0 require it.
	DisableIdempotence bool
	// Retries is how often a message is tried again before it counts as lost;
	// a broker that cannot be reached counts as one try per back-off of up to a
	// second. 0 leaves it to DeliveryTimeout.
	Retries int
	// DeliveryTimeout is how long a message may take before it counts as lost;
	// 2 minutes unless set, at least a second. The outcome of such a message is
	// unknown: it may have been written.
	DeliveryTimeout time.Duration
	// ConnectTimeout bounds the look for brokers and topic with which Run
	// begins; 10 seconds unless set. Where a broker refuses the connection, Run
	// does not wait for it at all.
	ConnectTimeout time.Duration
	// Grace is how long Run goes on delivering what it has taken after it was
	// stopped; 10 seconds unless set.
	Grace time.Duration
	// Linger is how long a message may wait for others to share its request, at
	// most a minute; 0 sends at once.
	Linger time.Duration
	// Compression is none, gzip, snappy, lz4 or zstd; snappy unless set.
	Compression string
	// MaxMessageBytes bounds a request's records per partition, and so each
	// message with its key, headers and framing; 1048588 unless set, which is
	// Kafka's default. A topic with a larger max.message.bytes takes more.
	MaxMessageBytes int

	// OnDelivery hears of each message once, in the order in which their
	// outcomes became known, from one goroutine at a time and before Run
	// returns. It should be quick, as it holds up the next one.
	OnDelivery func(Delivery)
	// Logger receives warnings; nothing is logged where it is nil. It serves
	// Kafka too, unless that has its own.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Headers = slices.Clone(c.Headers)
	if c.Source == nil {
		c.Source = Default("")
	}
	if c.Acks == "" {
		c.Acks = "all"
	}
	if c.DeliveryTimeout == 0 {
		c.DeliveryTimeout = defaultDeliveryTimeout
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = defaultConnectTimeout
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.Compression == "" {
		c.Compression = "snappy"
	}
	if c.MaxMessageBytes == 0 {
		c.MaxMessageBytes = defaultMaxMessageBytes
	}
	if c.OnDelivery == nil {
		c.OnDelivery = func(Delivery) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Kafka.Logger == nil {
		c.Kafka.Logger = c.Logger
	}
	return c
}

func (c Config) validate() error {
	if err := kafka.CheckTopic(c.Topic); err != nil {
		return fmt.Errorf("produce.topic: %w", err)
	}
	for i, header := range c.Headers {
		if header.Key == "" {
			return fmt.Errorf("produce.headers[%d]: %q: must have a key", i, header.Value)
		}
	}
	if c.Count < 0 {
		return fmt.Errorf("produce.count: must be at least 0, got %d", c.Count)
	}
	if c.Retries < 0 {
		return fmt.Errorf("produce.retries: must be at least 0, got %d", c.Retries)
	}
	if c.MaxMessageBytes < minMessageBytes || c.MaxMessageBytes > maxMessageBytes {
		return fmt.Errorf("produce.max_message_bytes: must be %d to %d, got %d", minMessageBytes, maxMessageBytes, c.MaxMessageBytes)
	}
	if codecs[c.Compression] == nil {
		return fmt.Errorf("produce.compression: %q: must be none, gzip, snappy, lz4 or zstd", c.Compression)
	}
	if err := c.validateDurations(); err != nil {
		return err
	}
	return c.validateAcks()
}

func (c Config) validateDurations() error {
	for _, d := range []struct {
		key           string
		got, min, max time.Duration
	}{
		{"interval", c.Interval, 0, 0},
		{"linger", c.Linger, 0, time.Minute},
		{"delivery_timeout", c.DeliveryTimeout, time.Second, 0},
		{"connect_timeout", c.ConnectTimeout, 0, 0},
		{"grace", c.Grace, 0, 0},
	} {
		if d.got < d.min {
			return fmt.Errorf("produce.%s: must be at least %v, got %v", d.key, d.min, d.got)
		}
		if d.max > 0 && d.got > d.max {
			return fmt.Errorf("produce.%s: must be at most %v, got %v", d.key, d.max, d.got)
		}
	}
	return nil
}

func (c Config) validateAcks() error {
	if _, ok := ackLevels[c.Acks]; !ok {
		return fmt.Errorf("produce.acks: %q: must be all, 1 or 0", c.Acks)
	}
	if c.Acks != "all" && !c.DisableIdempotence {
		return fmt.Errorf("produce.acks: %q: must be all while produce.disable_idempotence is false", c.Acks)
	}
	return nil
}

var ackLevels = map[string]kgo.Acks{
	"all": kgo.AllISRAcks(),
	"1":   kgo.LeaderAck(),
	"0":   kgo.NoAck(),
}

// codecs end with none, for a broker that does not know the one before.
var codecs = map[string][]kgo.CompressionCodec{
	"none":   {kgo.NoCompression()},
	"gzip":   {kgo.GzipCompression(), kgo.NoCompression()},
	"snappy": {kgo.SnappyCompression(), kgo.NoCompression()},
	"lz4":    {kgo.Lz4Compression(), kgo.NoCompression()},
	"zstd":   {kgo.ZstdCompression(), kgo.NoCompression()},
}

// options translates the configuration for franz-go. Each client needs its own.
func (c Config) options() ([]kgo.Opt, error) {
	opts, err := c.Kafka.Options()
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		kgo.RequiredAcks(ackLevels[c.Acks]),
		kgo.RecordDeliveryTimeout(c.DeliveryTimeout),
		kgo.UnknownTopicRetries(unknownTopicRetries),
		kgo.ProducerLinger(c.Linger),
		kgo.ProducerBatchCompression(codecs[c.Compression]...),
		kgo.ProducerBatchMaxBytes(int32(c.MaxMessageBytes)),
		kgo.MaxBufferedRecords(2*maxInFlight/messageOverhead), // never the limit: see sender
	)
	if c.Retries > 0 {
		opts = append(opts, kgo.RecordRetries(c.Retries))
	}
	if c.DisableIdempotence {
		opts = append(opts, kgo.DisableIdempotentWrite())
	} else {
		// Without it, a message in flight when the broker dies for good would
		// never be reported, and the limits above would not hold.
		opts = append(opts, kgo.AllowIdempotentProduceCancellation())
	}
	return opts, kgo.ValidateOpts(opts...)
}
