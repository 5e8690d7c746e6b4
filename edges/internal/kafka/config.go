// Package kafka is the Kafka connection that all edges share: how a client is
// configured, whether the brokers can be reached, whether a topic is as an edge
// needs it, and what an error of Kafka means.
//
// It stands at both ends of the path, below every edge, and moves no records
// itself: [New] hands out a plain franz-go client. Everything in the package is
// safe for concurrent use.
//
// A client made here outlives its brokers. It never gives up reconnecting, waits
// at most a second between two tries, and says once that the brokers are gone
// and once that they are back.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"pelton/internal/secret"
)

const (
	defaultBroker   = "127.0.0.1:9092"
	defaultClientID = "pelton"
	maxClientID     = 256

	// A lost packet of a dial is sent again after one second and then after
	// three, so a dial begun while the network was away is given up early
	// enough for the next one to find it back.
	dialTimeout = 3 * time.Second

	backoffMin = 100 * time.Millisecond
	backoffMax = time.Second

	// Metadata is asked for again this soon after an error, and this late
	// without one. The franz-go defaults, 5 seconds and 5 minutes, would
	// alone use up the time in which an edge is to resume.
	metadataMinAge = 500 * time.Millisecond
	metadataMaxAge = 10 * time.Second

	// fetchMaxWait is how long a broker may hold a fetch that finds nothing.
	// A partition that is assigned or resumed meanwhile waits for it to return,
	// for up to 5 seconds by default.
	fetchMaxWait = 500 * time.Millisecond

	// maxDecompressed bounds what one fetched batch may grow to.
	maxDecompressed = 16 << 20
)

// Config says which Kafka to talk to, and as whom. The zero value is a broker
// on this machine, without encryption or credentials. A Config may be copied;
// nothing in it is changed.
type Config struct {
	// Brokers are the seeds, host:port each; 127.0.0.1:9092 unless set. The
	// other brokers of the cluster are learned from them.
	Brokers []string
	// ClientID is what the brokers call this client in their logs and quotas;
	// pelton unless set.
	ClientID string
	// TLS encrypts the connections; nil leaves them plain. The name to verify
	// is taken from the broker's address where ServerName is empty.
	TLS *tls.Config
	// SASL holds the credentials; the zero value sends none.
	SASL SASL
	// Dial replaces the dialer, for tunnels. Encryption and the time that a dial
	// may take are up to it then, so TLS must be nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger receives what the client has to say, warnings and above; nothing
	// is logged where it is nil.
	Logger *slog.Logger
}

// SASL holds the credentials shown to the brokers. It prints without the
// password.
type SASL struct {
	// Mechanism is plain, scram-sha-256 or scram-sha-512, in any case. Empty
	// means no credentials, and then User and Password must be empty too.
	Mechanism string
	User      string
	Password  secret.Text
}

// String names mechanism and user.
func (s SASL) String() string {
	if s.Mechanism == "" {
		return "none"
	}
	return s.Mechanism + " as " + s.User
}

// GoString keeps the password out of %#v as well.
func (s SASL) GoString() string { return "kafka.SASL(" + s.String() + ")" }

// LogValue keeps the password out of logs.
func (s SASL) LogValue() slog.Value { return slog.StringValue(s.String()) }

// New opens a client for cfg. Later options win, so opts may override what the
// package chose. It does not wait for a broker: see [Ping] and [WaitReady].
// Whoever calls it closes the client.
func New(cfg Config, opts ...kgo.Opt) (*kgo.Client, error) {
	shared, err := cfg.Options()
	if err != nil {
		return nil, err
	}
	return kgo.NewClient(append(shared, opts...)...)
}

// Options translates cfg for franz-go: what [New] uses, for a caller that makes
// its own client. Every call returns options with a state of their own, so one
// result serves one client.
//
// Consumers read committed records only, and a batch that decompresses to more
// than 16 MiB stops its partition with [kgo.ErrDecompressTooLarge].
func (c Config) Options() ([]kgo.Opt, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	watch := &watch{logger: c.Logger}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.RetryBackoffFn(backoff),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.MetadataMaxAge(metadataMaxAge),
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.MaxDecompressBatchBytes(maxDecompressed),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// A broker behind a proxy ends connections at once while it restarts.
		// That is an outage like any other; wrong settings show in Ping.
		kgo.AlwaysRetryEOF(),
		// Closing would wait a second for the last push to an absent broker.
		kgo.DisableClientMetrics(),
		kgo.WithLogger(&clientLog{logger: c.Logger, watch: watch}),
		kgo.WithHooks(watch),
	}
	if c.Dial != nil {
		opts = append(opts, kgo.Dialer(c.Dial))
	} else {
		opts = append(opts, kgo.DialTimeout(dialTimeout))
	}
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS.Clone()))
	}
	if mechanism := c.SASL.mechanism(); mechanism != nil {
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

func (c Config) withDefaults() Config {
	c.Brokers = slices.Clone(c.Brokers)
	if len(c.Brokers) == 0 {
		c.Brokers = []string{defaultBroker}
	}
	if c.ClientID == "" {
		c.ClientID = defaultClientID
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	for i, broker := range c.Brokers {
		if !isHostPort(broker) {
			return fmt.Errorf("kafka.brokers[%d]: %q: must be host:port", i, broker)
		}
	}
	if len(c.ClientID) > maxClientID {
		return fmt.Errorf("kafka.client_id: %q: must have at most %d bytes", c.ClientID, maxClientID)
	}
	if c.TLS != nil && c.Dial != nil {
		return errors.New("kafka.tls: must be empty where a dialer is given")
	}
	return c.SASL.validate()
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(host, " \t/@") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (s SASL) validate() error {
	if s.Mechanism == "" {
		if s.User != "" || !s.Password.IsZero() {
			return fmt.Errorf("kafka.sasl.mechanism: %q: must be set where a user or password is", s.Mechanism)
		}
		return nil
	}
	if s.mechanism() == nil {
		return fmt.Errorf("kafka.sasl.mechanism: %q: must be plain, scram-sha-256 or scram-sha-512", s.Mechanism)
	}
	if s.User == "" {
		return fmt.Errorf("kafka.sasl.user: %q: must not be empty with mechanism %s", s.User, s.Mechanism)
	}
	if s.Password.IsZero() {
		return fmt.Errorf("kafka.sasl.password: must not be empty with mechanism %s", s.Mechanism)
	}
	return nil
}

// mechanism returns nil where there is none, or none of that name.
func (s SASL) mechanism() sasl.Mechanism {
	switch strings.ToLower(s.Mechanism) {
	case "plain":
		return plain.Auth{User: s.User, Pass: s.Password.Reveal()}.AsMechanism()
	case "scram-sha-256":
		return scram.Auth{User: s.User, Pass: s.Password.Reveal()}.AsSha256Mechanism()
	case "scram-sha-512":
		return scram.Auth{User: s.User, Pass: s.Password.Reveal()}.AsSha512Mechanism()
	}
	return nil
}

// backoff is the pause after the given number of failures in a row: it doubles
// from 100 ms and never exceeds a second. The lower quarter is random, so
// that many clients do not return all at once.
func backoff(failures int) time.Duration {
	wait := backoffMax
	if shift := max(failures-1, 0); shift < 4 {
		wait = min(backoffMin<<shift, backoffMax)
	}
	spread := int64(wait) / 4
	return wait - time.Duration(rand.Int64N(spread))
}
