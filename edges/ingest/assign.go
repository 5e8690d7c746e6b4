package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
		if p.next >= 0 {
			offsets[n] = kgo.NewOffset().At(p.next).WithEpoch(-1)
		}
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
	p := &partition{session: s, number: n, topicID: logs.topicID, next: -1, generation: 1, epoch: -1, most: s.cfg.MaxBatch}
	js, err := jetstream.New(s.cfg.NATS)
	if err != nil {
		return nil, err
	}
	p.ledger, err = ledger.New(ledger.Config{
		JetStream: js,
		Stream:    s.cfg.Namespace.TaskStream(s.lane()),
		Subject:   s.cfg.Namespace.LedgerSubject(s.lane(), s.cfg.Route.Name, ledgerToken(s.cfg.Route.Topic), fmt.Sprint(n)),
		Instance:  s.cfg.Instance,
		Logger:    s.log,
	})
	if err != nil {
		return nil, err
	}
	entry, err := s.read(ctx, p.ledger, committed >= 0 && s.cfg.FromOffset == nil)
	switch {
	case errors.Is(err, ledger.ErrUnreadable):
		err = p.unreadable(err)
	case err != nil:
	case entry.Exists():
		err = p.adopt(entry)
	case s.cfg.FromOffset != nil:
		p.next = *s.cfg.FromOffset
	case committed >= 0:
		err = &StopError{
			s.cfg.Route.Topic, n, fmt.Sprintf("the ledger is gone, although the group %s has committed offset %d", s.cfg.Route.Group, committed),
			fmt.Sprintf("find out who purged stream %s, then start once with --from-offset N", s.cfg.Namespace.TaskStream(s.lane())),
		}
	}
	if err == nil {
		err = p.checkLog(ctx, start, end)
	}
	if err == nil && !entry.Exists() && p.next >= 0 {
		// The operator's answer goes into the ledger at once: the next start is
		// without it, and there may be no record until then.
		err = p.store(ctx, taskBatch{next: p.next, epoch: p.epoch})
	}
	p.read = max(p.next, 0)
	return p, err
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
	if at.TopicID != "" && at.TopicID != p.topicID {
		return &StopError{
			p.cfg.Route.Topic, p.number, fmt.Sprintf("the topic was made anew: its id is %s, the ledger knows %s", p.topicID, at.TopicID),
			"its offsets mean other records now: give the route another name, or purge the ledger's subject and start once with --from-offset 0",
		}
	}
	if at.Next < p.next {
		return &StopError{p.cfg.Route.Topic, p.number, fmt.Sprintf("the ledger runs backwards, from %d to %d", p.next, at.Next), "find out who wrote it"}
	}
	p.fence, p.next, p.generation, p.epoch = entry.Sequence, at.Next, at.Generation, at.LeaderEpoch
	return nil
}

func (p *partition) unreadable(err error) error {
	return &StopError{p.cfg.Route.Topic, p.number, err.Error(), "find out who wrote it, remove it, then start once with --from-offset N"}
}

// checkLog holds the position against the log.
func (p *partition) checkLog(ctx context.Context, start, end int64) error {
	switch {
	case p.next > end:
		return &StopError{
			p.cfg.Route.Topic, p.number, fmt.Sprintf("it should go on at %d, but the log ends at %d", p.next, end),
			"the log has lost records: purge the ledger's subject and start once with --from-offset N",
		}
	case p.next >= 0 && p.next < start:
		p.log.ErrorContext(ctx, "Kafka has deleted records that were never ingested", "topic", p.cfg.Route.Topic,
			"partition", p.number, "from", p.next, "to", start)
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
