package emit

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka"
)

// assignment runs the shards that the consumer group gives to this emitter. The
// group is one over the ledger topic, a partition for each shard, and fetches
// nothing.
//
// It only decides who may open a shard, so that two emitters do not fence each
// other for ever. What keeps results right is the fence: a member that the
// group has dropped without its knowledge cannot commit once its successor has
// opened.
type assignment struct {
	e     *Emit
	admin *kgo.Client
	base  context.Context // of every shard; not cancelled by the end of Run
	fatal chan error      // from the first shard that cannot go on

	mu      sync.Mutex
	closed  bool
	running map[int32]*running
}

type running struct {
	stop  context.CancelFunc // take no more results
	kill  context.CancelFunc // abandon the open transaction
	ended chan struct{}
}

func newAssignment(ctx context.Context, e *Emit, admin *kgo.Client) *assignment {
	return &assignment{
		e:       e,
		admin:   admin,
		base:    context.WithoutCancel(ctx),
		fatal:   make(chan error, 1),
		running: map[int32]*running{},
	}
}

// runGroup is a member of the group until ctx is done or a shard cannot go on.
func (e *Emit) runGroup(ctx context.Context, a *assignment) error {
	life, abandon := context.WithCancel(a.base)
	defer abandon()
	group, err := e.joinGroup(life, a)
	if err != nil {
		return err
	}
	e.vitals.group.Store(group)
	defer e.vitals.group.Store(nil)
	var polling sync.WaitGroup
	polling.Go(func() { drainPolls(group) })

	select {
	case <-ctx.Done():
	case err = <-a.fatal:
	}
	// The shards first: they end their transactions while they are still
	// theirs, and the next owner finds nothing open.
	a.close(e.cfg.Grace)
	leave, cancel := context.WithTimeout(a.base, leaveTimeout)
	defer cancel()
	_ = group.LeaveGroupContext(leave) // else the session timeout tells the others
	// Closing alone would wait for the answer to a join or sync in flight, which
	// the broker holds back while it waits for other members.
	abandon()
	group.Close()
	polling.Wait()
	return err
}

func (e *Emit) joinGroup(life context.Context, a *assignment) (*kgo.Client, error) {
	cfg := e.cfg.Kafka
	if cfg.Logger == nil {
		cfg.Logger = e.log
	}
	group, err := kafka.New(cfg,
		kgo.WithContext(life),
		kgo.ConsumerGroup(e.cfg.group()),
		kgo.ConsumeTopics(e.cfg.LedgerTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(e.cfg.SessionTimeout),
		kgo.HeartbeatInterval(e.cfg.HeartbeatInterval),
		kgo.RebalanceTimeout(e.cfg.Grace+e.cfg.SessionTimeout+leaveTimeout),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			a.assigned(given[e.cfg.LedgerTopic])
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, taken map[string][]int32) {
			a.revoked(taken[e.cfg.LedgerTopic], e.cfg.Grace)
		}),
		// Somebody else may own a lost shard by now and wait for nobody.
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
			a.revoked(lost[e.cfg.LedgerTopic], 0)
		}),
	)
	if err != nil {
		return nil, err
	}
	group.PauseFetchTopics(e.cfg.LedgerTopic)
	return group, nil
}

// drainPolls takes what the group's client reports through polling, its errors,
// which it logs as well. Without it they would pile up.
func drainPolls(group *kgo.Client) {
	for !group.PollFetches(context.Background()).IsClientClosed() { //nolint:forbidigo // ends with the client
		continue
	}
}

// assigned starts shards. Partitions beyond the shards belong to other edges
// that share the ledger.
func (a *assignment) assigned(partitions []int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, partition := range partitions {
		if a.closed || int(partition) >= a.e.cfg.Shards || a.running[partition] != nil {
			continue
		}
		work, kill := context.WithCancel(a.base)
		take, stop := context.WithCancel(work)
		r := &running{stop: stop, kill: kill, ended: make(chan struct{})}
		a.running[partition] = r
		s := newShard(a.e, a.admin, partition)
		go func() {
			defer close(r.ended)
			if err := s.run(take, work); err != nil {
				select {
				case a.fatal <- err:
				default: // one is enough to end Run
				}
			}
		}()
	}
}

// revoked stops shards and returns when they have ended. Open transactions may
// take as long as grace to end, and are abandoned then: the next owner's fence
// aborts them.
func (a *assignment) revoked(partitions []int32, grace time.Duration) {
	a.mu.Lock()
	var stopping []*running
	for _, partition := range partitions {
		if r := a.running[partition]; r != nil {
			stopping = append(stopping, r)
			delete(a.running, partition)
		}
	}
	a.mu.Unlock()
	end(stopping, grace)
}

// close ends all shards and starts none again.
func (a *assignment) close(grace time.Duration) {
	a.mu.Lock()
	a.closed = true
	stopping := make([]*running, 0, len(a.running))
	for partition, r := range a.running {
		stopping = append(stopping, r)
		delete(a.running, partition)
	}
	a.mu.Unlock()
	end(stopping, grace)
}

func end(shards []*running, grace time.Duration) {
	for _, r := range shards {
		r.stop()
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, r := range shards {
		select {
		case <-r.ended:
		case <-timer.C:
			for _, late := range shards {
				late.kill()
			}
			<-r.ended
		}
		r.kill()
	}
}
