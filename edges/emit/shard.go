package emit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second

	// requestTimeout bounds one question to a broker of either kind.
	requestTimeout = 5 * time.Second

	// openMargin is what opening may take beyond a transaction's timeout: a
	// transaction that another edge left open in the same partition hides the
	// barrier until the broker has aborted it.
	openMargin = 15 * time.Second
)

// errBegin ends a session that should begin again at once.
var errBegin = errors.New("begin again")

// shard is a set of queues that one emitter at a time handles. It goes on
// through any number of sessions, each of which has a Kafka client of its own.
type shard struct {
	e      *Emit
	admin  *kgo.Client
	number int32
	queues []*queue
	log    *slog.Logger
	limits map[string]int // bytes of a message, by topic

	lastClass kafka.Class
}

// queue is what a shard knows of a queue, from one session to the next.
type queue struct {
	name     string
	stream   string
	lifetime time.Duration // of its results; 0 is for ever
	read     position      // how far it is read
	written  position      // what the ledger says; zero if unknown or nothing
	first    bool          // begun without a position, and not read to the end since
	reported uint64        // highest sequence that was logged as no record
	lagging  bool          // and that was logged
}

func newShard(e *Emit, admin *kgo.Client, number int32) *shard {
	s := &shard{
		e:      e,
		admin:  admin,
		number: number,
		log:    e.log.With("shard", number),
		limits: map[string]int{},
	}
	for _, topic := range append(e.cfg.topics(), e.cfg.LedgerTopic) {
		s.limits[topic] = e.cfg.MaxRecordBytes
	}
	for _, name := range e.cfg.queuesOf(number) {
		s.queues = append(s.queues, &queue{name: name, stream: e.cfg.Namespace.ResultsStream(name)})
	}
	return s
}

// run emits until take is done. The open transaction then ends, unless work is
// done as well. Every error begins a new session, which starts from the ledger;
// only a [*StopError] is returned.
func (s *shard) run(take, work context.Context) error {
	if len(s.queues) == 0 {
		<-take.Done()
		return nil
	}
	for failures := 0; ; {
		progress, err := s.attempt(take, work)
		switch {
		case take.Err() != nil:
			return nil //nolint:nilerr // what comes of being stopped is no failure
		case errors.Is(err, ErrStopped):
			return err
		case errors.Is(err, errBegin):
			continue
		}
		if progress {
			failures = 0
		}
		failures++
		s.e.stats.failures.Add(1)
		s.report(take, err, failures)
		if !pause(take, s.wait(err, failures)) {
			return nil
		}
	}
}

// attempt is one session. It reports whether anything was committed.
func (s *shard) attempt(take, work context.Context) (bool, error) {
	x, err := s.open(take)
	if err != nil {
		return false, err
	}
	defer x.close()
	err = x.run(take, work)
	if errors.Is(err, kerr.MessageTooLarge) {
		err = s.learnLimit(take, err)
	}
	return x.commits > 0, err
}

// report logs the first failure in a row and every one of another kind: an
// outage of hours is one line.
func (s *shard) report(ctx context.Context, err error, failures int) {
	class := kafka.Classify(err)
	if class == kafka.Retry {
		class = kafka.Unreachable // one outage shows as either
	}
	level := slog.LevelDebug
	if failures == 1 || class != s.lastClass {
		level, s.lastClass = slog.LevelWarn, class
	}
	s.log.Log(ctx, level, "results are not emitted, trying again", "err", err)
}

// wait is the pause before the next session. Who is fenced twice in a row may
// have lost the shard without knowing: one heartbeat later it knows.
func (s *shard) wait(err error, failures int) time.Duration {
	wait := backoff(failures)
	if failures > 1 && kafka.Classify(err) == kafka.Fenced {
		wait += s.e.cfg.HeartbeatInterval
	}
	return wait
}

// backoff doubles from 100 ms to 2 s. The lower half is random.
func backoff(failures int) time.Duration {
	wait := backoffMin << min(failures-1, 10)
	wait = min(wait, backoffMax)
	return wait - time.Duration(rand.Int64N(int64(wait)/2))
}

// info asks for the state of a queue's bucket. It is nil where there is none.
func (s *shard) info(ctx context.Context, q *queue) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := s.e.js.Stream(ctx, q.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", q.stream, err)
	}
	return stream.CachedInfo(), nil
}

// watchLag warns once when a queue has results that were stored more than half
// a lifetime ago and are not emitted, and again after it has caught up.
func (s *shard) watchLag(ctx context.Context, q *queue, lag time.Duration) {
	late := q.lifetime > 0 && lag > q.lifetime/2
	switch {
	case late && !q.lagging:
		s.log.WarnContext(ctx, "results wait to be emitted and are soon forgotten",
			"queue", q.name, "lag", lag.Round(time.Second), "kept", q.lifetime)
	case !late && q.lagging:
		s.log.InfoContext(ctx, "results are emitted in time again", "queue", q.name)
	}
	q.lagging = late
}

// learnLimit lowers the limit of the topic that refused a message: to what its
// configuration says, or by half where that may not be read. It returns the
// error of the session with what was learned.
func (s *shard) learnLimit(ctx context.Context, err error) error {
	refused, ok := errors.AsType[*produceError](err)
	if !ok {
		return err
	}
	have := s.limits[refused.topic]
	if have <= leastRecord {
		return fmt.Errorf("topic %q must take messages of at least %d bytes (max.message.bytes): %w", refused.topic, leastRecord, err)
	}
	limit := s.describeLimit(ctx, refused.topic)
	if limit <= 0 || limit >= have {
		limit = have / 2
	}
	s.limits[refused.topic] = max(limit, leastRecord)
	return fmt.Errorf("topic %q takes messages of at most %d bytes: %w", refused.topic, limit, err)
}

// describeLimit is what a topic's configuration allows; 0 where it cannot be
// read.
func (s *shard) describeLimit(ctx context.Context, topic string) int {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	described, err := kadm.NewClient(s.admin).DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return 0
	}
	resource, err := described.On(topic, nil)
	if err != nil {
		return 0
	}
	for _, config := range resource.Configs {
		if config.Key == "max.message.bytes" {
			limit, _ := strconv.Atoi(config.MaybeValue())
			return limit
		}
	}
	return 0
}
