package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// ClientConfig says how a client speaks to the broker. The zero value works.
type ClientConfig struct {
	// Namespace is the first token of all subjects; wire.DefaultNamespace
	// unless set.
	Namespace wire.Namespace
	// Logger gets what no caller can be told. Nothing is logged unless set.
	Logger *slog.Logger
	// NATS are further options of the connection that [Connect] makes.
	NATS []nats.Option
	// Durability says how [Task.SendMany] writes: [DurabilityDefault] unless set.
	Durability Durability
}

// Durability says what a client may assume of how the broker writes.
type Durability int

const (
	// DurabilityDefault suits a broker that forces what it writes to disk now
	// and then.
	DurabilityDefault Durability = iota
	// PowerSafe suits a broker that forces every write to disk (sync_interval:
	// always), which a client cannot see: many tasks go by atomic batches of at
	// most a thousand, each forced once. Any other way would pay for each task.
	PowerSafe
)

// Client publishes tasks and reads their records. It is safe for concurrent
// use.
type Client struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	ns     wire.Namespace
	log    *slog.Logger
	owned  bool
	limits wire.Limits
	// recordsOnly is set once the broker has forbidden a look into a queue:
	// waiting does not ask again.
	recordsOnly atomic.Bool
	safety      Durability
	dedupFor    time.Duration // dedupWindow, shorter in tests
	listenFirst time.Duration // listenFirst, shorter in tests

	windowMu sync.Mutex
	window   *window // made with the first publish
	closed   bool
	turns    sync.Map // of lanes, who writes a batch
	unasked  sync.Map // streams that this user may not ask for
	unpurged sync.Map // streams of which this user may remove nothing

	// blind writes records that expect no revision: a control, as those of
	// protections. Nothing else sets it.
	blind bool

	// afterReplaced is called between the record of a replacement and its
	// schedule: tests look there. Nothing else sets it.
	afterReplaced func()
}

// Connect makes a connection to the broker and a client on it. An empty url is
// nats.DefaultURL. It fails with [ErrUnreachable] where nobody answers; once
// made, the connection comes back by itself for as long as the client lives. At
// most one config is taken.
func Connect(ctx context.Context, url string, config ...ClientConfig) (*Client, error) {
	cfg := firstConfig(config)
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url, append(ConnectOptions(cfg.Logger), append(cfg.NATS, timeoutOf(ctx))...)...)
	if err != nil {
		return nil, connectError(url, err)
	}
	c, err := NewClient(nc, cfg)
	if err != nil {
		nc.Close()
		return nil, err
	}
	c.owned = true
	return c, nil
}

// NewClient makes a client on a connection that the caller keeps; Close does
// not close it. At most one config is taken.
func NewClient(nc *nats.Conn, config ...ClientConfig) (*Client, error) {
	cfg := firstConfig(config)
	if cfg.Namespace == "" {
		cfg.Namespace = wire.DefaultNamespace
	}
	if _, err := wire.ParseNamespace(string(cfg.Namespace)); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return &Client{nc: nc, js: js, ns: cfg.Namespace, log: cfg.Logger, limits: wire.DefaultLimits, safety: cfg.Durability, dedupFor: dedupWindow, listenFirst: listenFirst}, nil
}

// Close ends a client, and its connection if [Connect] made it. It does not
// wait: sends under way, futures among them, fail with [ErrClosed], and with
// [ErrUnconfirmed] too, since their tasks may be stored. [Client.Flush] first
// waits for them.
func (c *Client) Close() {
	c.windowMu.Lock()
	c.closed = true
	w := c.window
	c.windowMu.Unlock()
	if w != nil {
		w.close()
	}
	c.js.CleanupPublisher()
	if c.owned {
		c.nc.Close()
	}
}

// Conn is the client's connection.
func (c *Client) Conn() *nats.Conn { return c.nc }

// JetStream is the client's JetStream context.
func (c *Client) JetStream() jetstream.JetStream { return c.js }

// Namespace is the client's namespace.
func (c *Client) Namespace() wire.Namespace { return c.ns }

// ConnectOptions are the options with which Pelton connects: it reconnects for
// ever, notices a dead peer within 15 s, and says once that the connection is
// gone and once that it is back. The logger may be nil.
func ConnectOptions(logger *slog.Logger) []nats.Option {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return []nats.Option{
		nats.Name("pelton"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if !nc.IsClosed() && err != nil {
				logger.Warn("nats connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("nats connection is back", "address", nc.ConnectedAddr())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			logger.Warn("nats", "subject", subject, "err", err)
		}),
	}
}

func firstConfig(config []ClientConfig) ClientConfig {
	if len(config) == 0 {
		return ClientConfig{}
	}
	return config[0]
}

// timeoutOf bounds the first connection by the context.
func timeoutOf(ctx context.Context) nats.Option {
	deadline, ok := ctx.Deadline()
	if !ok {
		return func(*nats.Options) error { return ctx.Err() }
	}
	return func(o *nats.Options) error {
		if left := time.Until(deadline); left < o.Timeout {
			o.Timeout = max(left, time.Millisecond)
		}
		return ctx.Err()
	}
}

// connectError names the servers and keeps what is secret in their URLs, a
// password or a token, out of the error.
func connectError(urls string, err error) error {
	hosts := make([]string, 0, 1)
	for raw := range strings.SplitSeq(urls, ",") {
		u, parseErr := neturl.Parse(strings.TrimSpace(raw))
		if parseErr != nil {
			// The error of the parser, and so that of nats.go, repeats the URL.
			return fmt.Errorf("nats: %w: a URL cannot be read, it must be like nats://host:4222", ErrUnreachable)
		}
		u.User = nil
		hosts = append(hosts, u.String())
	}
	return fmt.Errorf("nats %s: %w: %w", strings.Join(hosts, ","), ErrUnreachable, err)
}

// stored is a message read back from a stream.
type stored struct {
	subject  string
	sequence uint64
	time     time.Time
	header   wire.Header
	data     []byte
}

// directLast reads the last message of a subject by direct get: from any
// replica, which on more than one may lag behind. It returns nil where there is
// none.
func (c *Client) directLast(ctx context.Context, stream, subject string) (*stored, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var m *nats.Msg
	err := c.permitted(ctx, apiPrefix+"DIRECT.GET."+stream, func(ctx context.Context) (err error) {
		m, err = c.nc.RequestWithContext(ctx, apiPrefix+"DIRECT.GET."+stream+"."+subject, nil)
		return err
	})
	if err != nil {
		return nil, requestError("read "+subject, err)
	}
	switch m.Header.Get("Status") {
	case "":
	case "404":
		return nil, nil
	default:
		return nil, fmt.Errorf("read %s: %s %s", subject, m.Header.Get("Status"), m.Header.Get("Description"))
	}
	return directMessage(m)
}

// leaderLast reads the last message that matches a subject, wildcards included,
// by way of the stream's leader, which never lags. It returns nil where there
// is none.
func (c *Client) leaderLast(ctx context.Context, stream, subject string) (*stored, error) {
	return c.leaderRead(ctx, stream, leaderRequest{LastFor: subject})
}

// leaderSequence reads one message by its sequence, as leaderLast does.
func (c *Client) leaderSequence(ctx context.Context, stream string, sequence uint64) (*stored, error) {
	return c.leaderRead(ctx, stream, leaderRequest{Sequence: sequence})
}

// leaderRequest asks the leader of a stream for one message.
type leaderRequest struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"` // at the sequence or after it
}

// leaderRead does not go by the library's stream, which asks any replica where
// the stream allows direct gets.
func (c *Client) leaderRead(ctx context.Context, stream string, request leaderRequest) (*stored, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	subject := apiPrefix + "STREAM.MSG.GET." + stream
	var m *nats.Msg
	err = c.permittedAt(ctx, subject, func(ctx context.Context) (err error) {
		m, err = c.nc.RequestWithContext(ctx, subject, body)
		return err
	})
	if err != nil {
		return nil, inspectError("stream "+stream, err)
	}
	s, err := leaderMessage(m.Data)
	if err != nil {
		return nil, inspectError("stream "+stream, err)
	}
	return s, nil
}

// leaderMessage reads the answer of a stream's leader, nil where it has no such
// message.
func leaderMessage(data []byte) (*stored, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	err := json.Unmarshal(data, &answer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("answer to a read: %w", err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil //nolint:nilnil // absence is an answer here
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, errors.New("answer to a read: it says nothing")
	}
	found := answer.Message
	s := &stored{subject: found.Subject, sequence: found.Sequence, time: found.Time, data: found.Data}
	if len(found.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(found.Header)
		if err != nil {
			return s, nil //nolint:nilerr // a worker buries it and says why; until then it waits
		}
		s.header = wire.Header(h)
	}
	return s, nil
}
