package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// vanishedFor is how long a ledger that the group's offset calls for is looked
// for before it counts as gone: a replica may lag.
const vanishedFor = 2 * time.Second

// Where a partition begins that has never been read.
const (
	startEarliest = "earliest"
	startLatest   = "latest"
)

// position is what a partition's ledger holds: where to go on, and what proves
// that it is still the same log.
type position struct {
	Next        int64  `json:"next_offset"`
	LeaderEpoch int32  `json:"leader_epoch"`
	TopicID     string `json:"topic_id"`
	Generation  int    `json:"generation"`
}

func (s *session) groupOptions() []kgo.Opt {
	topic := s.cfg.Route.Topic
	dropped := func(_ context.Context, cl *kgo.Client, gone map[string][]int32) {
		s.drop(gone[topic])
		// What rested here must not rest when it comes back.
		cl.ResumeFetchPartitions(map[string][]int32{topic: gone[topic]})
	}
	return []kgo.Opt{
		kgo.ConsumerGroup(s.cfg.Route.Group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(s.cfg.SessionTimeout),
		kgo.HeartbeatInterval(s.cfg.HeartbeatInterval),
		kgo.RebalanceTimeout(s.cfg.RebalanceTimeout),
		kgo.OnOffsetsFetched(s.readNotes),
		kgo.AdjustFetchOffsetsFn(s.adjust),
		// Revoked and lost both drop the fence: what is not written yet is the
		// next owner's.
		kgo.OnPartitionsRevoked(dropped),
		kgo.OnPartitionsLost(dropped),
	}
}

// drop forgets partitions, with their fences and what is in hand.
func (s *session) drop(gone []int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range gone {
		delete(s.owned, n)
	}
}

// adjust says where to go on in partitions that were assigned: where their
// ledgers say, whatever the group has committed.
func (s *session) adjust(ctx context.Context, given map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	offsets := given[s.cfg.Route.Topic]
	if len(offsets) == 0 {
		return given, nil
	}
	logs, err := s.describe(ctx)
	if err != nil {
		return nil, err
	}
	for n, offset := range offsets {
		p, err := s.open(ctx, n, logs, offset.EpochOffset().Offset)
		if err != nil {
			s.stop(err)
			return nil, err
		}
		offsets[n] = kgo.NewOffset().At(p.next).WithEpoch(-1)
		s.mu.Lock()
		s.owned[n] = p
		s.mu.Unlock()
	}
	return given, nil
}

// stop ends the session where going on would be a guess.
func (s *session) stop(err error) {
	if !errors.Is(err, ErrStopped) {
		return
	}
	select {
	case s.stopped <- err:
	default:
	}
}

// open finds out where a partition goes on. Committed is the group's offset,
// negative where it has none.
func (s *session) open(ctx context.Context, n int32, logs logs, committed int64) (*partition, error) {
	start, end, err := logs.bounds(s.cfg.Route.Topic, n)
	if err != nil {
		return nil, err
	}
	p, err := s.newPartition(n, logs.topicID)
	if err != nil {
		return nil, err
	}
	from, answered := s.cfg.from(n)
	entry, err := s.read(ctx, p.ledger, committed >= 0 && !answered)
	switch {
	case errors.Is(err, ledger.ErrUnreadable):
		err = p.unreadable(err)
	case err != nil:
	case entry.Exists():
		if err = p.adopt(entry); err == nil {
			err = p.check(ctx, start, end, committed)
		}
	case committed >= 0:
		err = p.gone(committed)
	case !answered:
		err = p.begin(ctx, start, end)
	}
	if answered && (errors.Is(err, ErrStopped) || err == nil && !entry.Exists()) {
		err = p.obey(ctx, from, entry.Sequence, committed, end)
	}
	p.read = p.next
	return p, err
}

func (s *session) newPartition(n int32, topicID string) (*partition, error) {
	js, err := jetstream.New(s.cfg.NATS)
	if err != nil {
		return nil, err
	}
	l, err := ledger.New(ledger.Config{
		JetStream: js,
		Stream:    s.cfg.Namespace.TaskStream(s.lane()),
		Subject:   s.cfg.Namespace.LedgerSubject(s.lane(), s.cfg.Route.Name, ledgerToken(s.cfg.Route.Topic), strconv.Itoa(int(n))),
		Instance:  s.cfg.Instance,
		Logger:    s.log,
	})
	return &partition{
		session: s, number: n, ledger: l, topicID: topicID,
		next: -1, epoch: -1, generation: max(1, s.noted[n]), most: s.cfg.MaxBatch, since: time.Now(),
	}, err
}

// begin is the first time that anybody reads the partition.
func (p *partition) begin(ctx context.Context, start, end int64) error {
	p.next = start
	if p.cfg.StartOffset == startLatest {
		p.next = end
		// Into the ledger at once: there may be no record until the next start,
		// when the end will be elsewhere.
		if err := p.seed(ctx); err != nil {
			return err
		}
	}
	p.committed = p.next // not before there is a ledger
	return nil
}

// obey goes on where the operator says. Sequence is that of the entry that
// stopped the edge, 0 where there is none.
func (p *partition) obey(ctx context.Context, from int64, sequence uint64, committed, end int64) error {
	if from > end {
		return p.beyond(from, end)
	}
	// Records that may have been read before need other ids, or their tasks
	// would be taken for those that are done.
	if sequence != 0 || from < committed {
		p.generation++
	}
	p.fence, p.next = sequence, from
	p.log.WarnContext(ctx, "going on where the operator says", "topic", p.cfg.Route.Topic, "partition", p.number,
		"from", from, "generation", p.generation)
	return p.seed(ctx)
}

// seed writes where the partition goes on, without a task.
func (p *partition) seed(ctx context.Context) error {
	return p.store(ctx, taskBatch{next: p.next, epoch: p.epoch})
}

// from is what the operator says about a partition.
func (c Config) from(n int32) (offset int64, answered bool) {
	if offset, answered = c.FromOffsets[n]; answered || c.FromOffset == nil {
		return offset, answered
	}
	return *c.FromOffset, true
}

// read reads a ledger as soon as the broker answers. One that is expected is
// looked for a little longer.
func (s *session) read(ctx context.Context, l *ledger.Ledger, expected bool) (ledger.Entry, error) {
	started := time.Now()
	for {
		entry, err := l.Read(ctx)
		if err != nil || entry.Exists() || !expected || time.Since(started) > vanishedFor {
			return entry, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return ledger.Entry{}, err
		}
	}
}

func (s *session) lane() wire.Lane { return wire.PlainLane(s.cfg.Route.Queue) }

// adopt goes on from an entry.
func (p *partition) adopt(entry ledger.Entry) error {
	var at position
	if err := json.Unmarshal(entry.Position, &at); err != nil || at.Next < 0 || at.Generation < 1 {
		return p.unreadable(fmt.Errorf("ledger %s: entry %d: %w: position %q", p.ledger.Subject(), entry.Sequence, ledger.ErrUnreadable, entry.Position))
	}
	back := p.next > at.Next
	switch {
	case at.TopicID != "" && at.TopicID != p.topicID:
		p.generation = max(p.generation, at.Generation)
		return p.stopError(fmt.Sprintf("the topic was made anew: its id is %s, the ledger knows %s", p.topicID, at.TopicID),
			"its offsets mean other records now: give the route another name, or start once with --from-offset 0")
	case back && at.Generation > p.generation:
		return fmt.Errorf("%w: partition %d, offset %d, generation %d", errLedgerChanged, p.number, at.Next, at.Generation)
	case back:
		return p.stopError(fmt.Sprintf("the ledger runs backwards, from %d to %d", p.next, at.Next), "find out who wrote it")
	}
	p.fence, p.next, p.generation, p.epoch = entry.Sequence, at.Next, at.Generation, at.LeaderEpoch
	return nil
}

func (p *partition) unreadable(err error) error {
	return p.stopError(err.Error(), "find out who wrote it, then start once with --from-offset N")
}

func (p *partition) gone(committed int64) error {
	return p.stopError(fmt.Sprintf("the ledger is gone, although the group %s has committed offset %d", p.cfg.Route.Group, committed),
		fmt.Sprintf("find out who purged stream %s, then start once with --from-offset N", p.cfg.Namespace.TaskStream(p.lane())))
}

func (p *partition) beyond(next, end int64) error {
	return p.stopError(fmt.Sprintf("it should go on at %d, but the log ends at %d", next, end),
		"if the log has lost records, start once with --from-offset N")
}

// check holds the ledger against the log and against what the group has
// committed. Records that are lost are not worth stopping for, they would stay
// lost; nor is a queue that has lost its end, with the ledger, in a power cut:
// going on from the ledger puts it right.
func (p *partition) check(ctx context.Context, start, end, committed int64) error {
	attrs := []any{"topic", p.cfg.Route.Topic, "partition", p.number, "from", p.next}
	switch {
	case p.next > end:
		return p.beyond(p.next, end)
	case p.next < start:
		p.log.ErrorContext(ctx, "Kafka has deleted records that were never ingested", append(attrs, "to", start)...)
	case p.next < committed:
		p.log.ErrorContext(ctx, "the queue has lost tasks, they are written again", append(attrs, "to", committed)...)
	}
	return nil
}

// logs is what the ledgers are held against: the topic's id, and where its
// partitions begin and end.
type logs struct {
	topicID      string
	starts, ends kadm.ListedOffsets
}

func (s *session) describe(ctx context.Context) (logs, error) {
	admin, topic := kadm.NewClient(s.cl), s.cfg.Route.Topic
	topics, err := admin.ListTopics(ctx, topic)
	if err == nil {
		err = topics.Error()
	}
	if err != nil {
		return logs{}, err
	}
	found := logs{topicID: topics[topic].ID.String()}
	if found.starts, err = admin.ListStartOffsets(ctx, topic); err == nil {
		found.ends, err = admin.ListEndOffsets(ctx, topic)
	}
	return found, err
}

// bounds is where the log of a partition begins and ends. That a broker does
// not know it at the moment is an error, and not the end of the log.
func (l logs) bounds(topic string, n int32) (start, end int64, err error) {
	first, known := l.starts.Lookup(topic, n)
	last, knownToo := l.ends.Lookup(topic, n)
	switch {
	case !known || !knownToo:
		return 0, 0, kerr.LeaderNotAvailable
	case first.Err != nil:
		return 0, 0, first.Err
	}
	return first.Offset, last.Offset, last.Err
}

// ledgerToken makes a subject token of a topic's name, as in ids.
func ledgerToken(topic string) string {
	b := []byte(topic)
	for i, c := range b {
		if c == '.' {
			b[i] = '='
		}
	}
	return string(b)
}
