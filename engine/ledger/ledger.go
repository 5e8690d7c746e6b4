package ledger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// MaxTasks is how many tasks a batch holds at most: the server takes 1000
	// messages, and one is the entry.
	MaxTasks = 999
	// MaxPosition bounds a position, in bytes.
	MaxPosition = 4 << 10

	defaultTimeout = 5 * time.Second
	maxInstance    = 256
)

// Config says whose ledger it is. JetStream, Stream and Subject have no
// defaults.
type Config struct {
	// JetStream is where the stream is. Its connection should reconnect for
	// ever.
	JetStream jetstream.JetStream
	// Stream takes the tasks and the entries. It must allow atomic publishing
	// and direct get.
	Stream string
	// Subject of the entries: one of the stream that no consumer reads and
	// nobody else writes.
	Subject string
	// Instance names the writer, differently at each start of its process: by it
	// and a checksum a writer knows its own batch again. Random unless set.
	Instance string
	// Timeout is how long one try waits for its answer; 5s unless set.
	Timeout time.Duration
	// Logger is told when the broker keeps a batch or a read waiting; nothing is
	// logged where it is nil.
	Logger *slog.Logger
}

// Ledger is the ledger of one writer. Reading is safe for concurrent use.
// Writing is for one caller at a time: of two concurrent batches with one fence
// one is refused.
type Ledger struct {
	js       jetstream.JetStream
	nc       *nats.Conn
	stream   string
	subject  string
	direct   string // where the newest entry is asked for
	instance string
	timeout  time.Duration
	log      *slog.Logger
	// unfenced leaves the expected sequence off the entries. It is the control
	// of the tests, which then must find doubles.
	unfenced bool
}

// Entry is a position and who wrote it. The zero value stands for none.
type Entry struct {
	// Sequence of the entry in the stream: the fence of the next batch. It is 0
	// where there is no entry, and then the first batch expects none.
	Sequence uint64
	// Position is the writer's own JSON.
	Position json.RawMessage
	// Instance that wrote the batch, and the checksum of the batch.
	Instance string
	CRC      uint32
	// Time at which the broker stored it.
	Time time.Time
}

// Exists reports whether there is an entry.
func (e Entry) Exists() bool { return e.Sequence != 0 }

// entryBody is the body of an entry's message.
type entryBody struct {
	Position json.RawMessage `json:"position"`
	Instance string          `json:"instance"`
	CRC      uint32          `json:"crc"`
}

// New checks the configuration. It sends nothing.
func New(cfg Config) (*Ledger, error) {
	if cfg.Instance == "" {
		cfg.Instance = rand.Text()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.JetStream == nil:
		return nil, errors.New("ledger: a JetStream must be given")
	case !token(cfg.Stream) || strings.Contains(cfg.Stream, "."):
		return nil, fmt.Errorf("ledger: stream %q: must be a name of a stream", cfg.Stream)
	case !token(cfg.Subject):
		return nil, fmt.Errorf("ledger: subject %q: must be a subject without wildcards", cfg.Subject)
	case len(cfg.Instance) > maxInstance:
		return nil, fmt.Errorf("ledger: instance %q: must be at most %d bytes", cfg.Instance, maxInstance)
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("ledger: timeout must be above 0, got %s", cfg.Timeout)
	}
	return &Ledger{
		js:       cfg.JetStream,
		nc:       cfg.JetStream.Conn(),
		stream:   cfg.Stream,
		subject:  cfg.Subject,
		direct:   apiPrefix(cfg.JetStream) + "DIRECT.GET." + cfg.Stream + "." + cfg.Subject,
		instance: cfg.Instance,
		timeout:  cfg.Timeout,
		log:      cfg.Logger.With(slog.String("ledger", cfg.Subject)),
	}, nil
}

func token(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\r\n*>") && !strings.Contains("."+s+".", "..")
}

// apiPrefix is where this JetStream listens: elsewhere for a domain or another
// account.
func apiPrefix(js jetstream.JetStream) string {
	opts := js.Options()
	switch {
	case opts.Domain != "":
		return "$JS." + opts.Domain + ".API."
	case opts.APIPrefix != "":
		return strings.TrimSuffix(opts.APIPrefix, ".") + "."
	}
	return jetstream.DefaultAPIPrefix
}

// Stream that takes the tasks and the entries.
func (l *Ledger) Stream() string { return l.stream }

// Subject of the entries.
func (l *Ledger) Subject() string { return l.subject }

// Instance that this ledger writes as.
func (l *Ledger) Instance() string { return l.instance }

// Read is the newest entry, the zero one where there is none. On several
// replicas it may lag behind. It asks until the broker answers or ctx is done;
// an entry that cannot be read is [ErrUnreadable].
func (l *Ledger) Read(ctx context.Context) (Entry, error) { return l.ReadAt(ctx, 0) }

// ReadAt is Read that asks again until the entry has at least this sequence.
func (l *Ledger) ReadAt(ctx context.Context, atLeast uint64) (Entry, error) {
	var found Entry
	err := l.persist(ctx, func(ctx context.Context) (bool, error) {
		var err error
		found, err = l.get(ctx)
		switch {
		case errors.Is(err, ErrUnreadable):
			return found.Sequence >= atLeast, err
		case err == nil && found.Sequence < atLeast:
			err = fmt.Errorf("entry %d is not seen yet, only %d", atLeast, found.Sequence)
			return false, err
		}
		return err == nil, err
	})
	if err != nil {
		return Entry{Sequence: found.Sequence}, fmt.Errorf("ledger %s: %w", l.subject, err)
	}
	return found, nil
}

// get asks for the newest entry once.
func (l *Ledger) get(ctx context.Context) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	m, err := l.nc.RequestWithContext(ctx, l.direct, nil)
	if err != nil {
		return Entry{}, fmt.Errorf("direct get: %w", err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return decode(m)
	case "404":
		return Entry{}, nil
	default:
		return Entry{}, fmt.Errorf("direct get: %s %s", status, m.Header.Get("Description"))
	}
}

// decode reads a message as direct get answers it. Where the entry is
// unreadable its sequence is returned all the same.
func decode(m *nats.Msg) (Entry, error) {
	sequence, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil || sequence == 0 {
		return Entry{}, fmt.Errorf("direct get: answer without a sequence")
	}
	entry := Entry{Sequence: sequence}
	unreadable := func(why any) (Entry, error) {
		return entry, fmt.Errorf("entry %d: %w: %v", sequence, ErrUnreadable, why)
	}
	if entry.Time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return unreadable(err)
	}
	var body entryBody
	switch err := json.Unmarshal(m.Data, &body); {
	case err != nil:
		return unreadable(err)
	case len(body.Position) == 0 || len(body.Position) > MaxPosition || len(body.Instance) > maxInstance:
		return unreadable("no position, or one that is too long")
	}
	entry.Position, entry.Instance, entry.CRC = body.Position, body.Instance, body.CRC
	return entry, nil
}
