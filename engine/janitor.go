package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/ledger"
	"pelton/engine/pulse"
	"pelton/engine/wire"
)

// JanitorConfig says what a janitor keeps in order.
type JanitorConfig struct {
	// Lanes whose streams it looks after; the plain lane of the default queue
	// unless set.
	Lanes []wire.Lane
	// Every is the time between two rounds; 30 s unless set.
	Every time.Duration
	// Logger; nothing is logged unless set.
	Logger *slog.Logger
}

func (cfg JanitorConfig) withDefaults() JanitorConfig {
	if len(cfg.Lanes) == 0 {
		cfg.Lanes = []wire.Lane{wire.PlainLane(DefaultQueue)}
	}
	orDuration(&cfg.Every, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func (cfg JanitorConfig) validate() error {
	for _, l := range cfg.Lanes {
		if err := wire.CheckQueue(l.Queue); err != nil {
			return fmt.Errorf("janitor.queues: %w", err)
		}
	}
	if cfg.Every < 0 || cfg.Every > wire.MaxDuration {
		return fmt.Errorf("janitor.every must be from 0 to a year, got %s", cfg.Every)
	}
	return nil
}

// Janitor does what takes rights that nobody else has, because with them a
// queue can be emptied: it trims the ledgers of the writers that keep their
// position in a queue, and puts right the tasks that a broker has forgotten, see
// [Janitor.Run]. Nothing waits for it, so one is enough; several do no harm.
type Janitor struct {
	c   *Client
	cfg JanitorConfig
	err error // of the configuration
	log *slog.Logger

	loops   pulse.Set
	loop    *pulse.Loop
	working atomic.Bool
	trouble atomic.Pointer[string] // why the last round failed
	lanes   map[forgotten]*mended
	most    int // messages put right in one go
}

// NewJanitor makes a janitor. A configuration that breaks a rule is reported by
// Run.
func NewJanitor(c *Client, cfg JanitorConfig) *Janitor {
	cfg = cfg.withDefaults()
	j := &Janitor{c: c, cfg: cfg, err: cfg.validate(), log: cfg.Logger, lanes: map[forgotten]*mended{}, most: mendMost}
	j.loop = j.loops.Loop("rounds of the janitor", stallSettle)
	return j
}

// Health tells whether the janitor makes its rounds, and whether the last one
// came to its end. It may be called at any time, from any goroutine.
func (j *Janitor) Health() Health {
	h := Health{Stalled: j.loops.Stalled()}
	if status := j.c.nc.Status(); status != nats.CONNECTED {
		h.Unready = append(h.Unready, "nats: "+connection(status))
	}
	if !j.working.Load() {
		h.Unready = append(h.Unready, "janitor: does not run")
	}
	if why := j.trouble.Load(); why != nil {
		h.Unready = append(h.Unready, *why)
	}
	return h
}

// Run removes the messages of tasks that are canceled while they wait, redrives
// dead letters when it is asked to, and makes a round after the other until ctx is done, and returns nil then. A
// broker that does not answer, or a stream that is not there, is said and tried
// again with the next round; a right that is missing ends it with
// [ErrForbidden].
//
// A task that stands below the floor of its consumer, where no worker will be
// given it, for twice the consumer's AckWait is put right: one whose record says
// that it is done with, or under way by another message, is removed; any other
// is made due at once under its id, with its origin, attempt and run, and then
// removed. The record is set back by compare-and-set first, so that a task that
// has just ended is not run again. A server that keeps one copy of a stream can
// leave such tasks when it is killed between two writes to its disk.
func (j *Janitor) Run(ctx context.Context) error {
	return j.run(ctx, func() bool { return false })
}

// Once makes one round, and as many more as it takes to be sure of the tasks
// that it has found.
func (j *Janitor) Once(ctx context.Context) error {
	return j.run(ctx, func() bool {
		for _, state := range j.lanes {
			if !state.sure {
				return false
			}
		}
		return true
	})
}

func (j *Janitor) run(ctx context.Context, enough func() bool) error {
	if j.err != nil {
		return j.err
	}
	defer j.loop.End()
	asked, unhear, err := j.hear()
	if err != nil {
		return err
	}
	defer unhear()
	if err := waitConnected(ctx, j.c.nc, j.log); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	// Its broker knows whom to ask before anybody reads that it has started; the
	// other nodes of a cluster a moment later.
	flushing, cancel := context.WithTimeout(ctx, flushWithin)
	_ = j.c.nc.FlushWithContext(flushing)
	cancel()
	j.working.Store(true)
	defer j.working.Store(false)
	j.log.InfoContext(ctx, "janitor started", "lanes", len(j.cfg.Lanes), "every", j.cfg.Every)
	for {
		next, err := j.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrForbidden):
			return err
		case err != nil && j.c.nc.IsClosed():
			return fmt.Errorf("nats connection: %w", ErrClosed)
		case err == nil && enough():
			return nil
		}
		j.tell(ctx, err)
		if j.wait(ctx, next, asked); ctx.Err() != nil {
			return nil
		}
	}
}

// wait waits for the next round, and does meanwhile what is asked for.
func (j *Janitor) wait(ctx context.Context, next time.Duration, asked <-chan *nats.Msg) {
	for over := time.After(next); ; {
		j.loop.Rest()
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case m := <-asked:
			j.loop.Turn()
			do := j.removeCanceled
			if strings.HasPrefix(m.Subject, j.c.ns.RedriveSubject("")) {
				do = j.redriveAsked
			}
			if err := do(ctx, m); err != nil {
				j.log.WarnContext(ctx, "what was asked is not done", "subject", m.Subject, "err", err)
			}
		}
	}
}

// tell says once in a row that rounds do not come to their end.
func (j *Janitor) tell(ctx context.Context, err error) {
	before := j.trouble.Load()
	switch {
	case err == nil:
		j.trouble.Store(nil)
		if before != nil {
			j.log.InfoContext(ctx, "rounds come to their end again")
		}
	case before == nil || *before != err.Error():
		j.trouble.Store(new(err.Error()))
		j.log.WarnContext(ctx, "the round is not complete, trying on", "err", err)
	}
}

// askedMost is how much may wait to be done. What is lost beyond that is asked
// for again, or done by a worker.
const askedMost = 4096

// hear listens to what is asked of the janitor of its queues, until the function
// returned is called.
func (j *Janitor) hear() (<-chan *nats.Msg, func(), error) {
	asked := make(chan *nats.Msg, askedMost)
	var subs []*nats.Subscription
	unhear := func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe() // fails where the connection is closed
		}
	}
	for _, queue := range j.queues() {
		for _, subject := range []string{j.c.ns.CanceledSubject(queue), j.c.ns.RedriveSubject(queue)} {
			sub, err := j.c.nc.ChanQueueSubscribe(subject, "janitor", asked)
			if err != nil {
				unhear()
				return nil, nil, fmt.Errorf("subscribe to %s: %w", subject, err)
			}
			subs = append(subs, sub)
		}
	}
	return asked, unhear, nil
}

func (j *Janitor) queues() []string {
	var names []string
	for _, lane := range j.cfg.Lanes {
		if !slices.Contains(names, lane.Queue) {
			names = append(names, lane.Queue)
		}
	}
	return names
}

// removeCanceled removes the message of a task that waits and that its record
// says is revoked: whoever may say that may have it removed.
func (j *Janitor) removeCanceled(ctx context.Context, m *nats.Msg) error {
	id := string(m.Data)
	queue := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	if err := wire.CheckID(id); err != nil {
		return err
	}
	r, _, err := j.c.leaderRecord(ctx, queue, id)
	if err != nil || r == nil || r.State != wire.StateRevoked {
		return err
	}
	lane := laneOf(r)
	if !slices.Contains(j.cfg.Lanes, lane) {
		return nil
	}
	var waits *stored
	stream := j.c.ns.TaskStream(lane)
	if at, sequence, free := wire.ParseFreeID(id); free && at == lane {
		waits, err = j.c.leaderSequence(ctx, stream, sequence)
	} else {
		waits, err = j.c.leaderLast(ctx, stream, j.c.ns.TaskSubject(wire.Address{Lane: lane, Task: r.Task, ID: id}))
	}
	if err != nil || waits == nil {
		return err
	}
	if d, err := j.c.forgotten(forgotten{lane: lane}, waits); err != nil || d.id != id || d.meta.Run > r.Run {
		return err // it is another task's
	}
	return j.remove(ctx, forgotten{lane: lane}, waits.sequence)
}

// round looks after every lane. It returns when the next one is due: earlier
// where something is suspected.
func (j *Janitor) round(ctx context.Context) (next time.Duration, err error) {
	next = j.cfg.Every
	for _, lane := range j.cfg.Lanes {
		j.loop.Turn()
		err = errors.Join(err, j.trim(ctx, lane))
		for _, due := range []bool{false, true} {
			j.loop.Turn()
			wait, failure := j.mend(ctx, forgotten{lane: lane, due: due})
			next = min(next, max(wait, minRound))
			err = errors.Join(err, failure)
		}
		if errors.Is(err, ErrForbidden) || ctx.Err() != nil {
			return next, err
		}
	}
	return next, err
}

// minRound is the least time between two rounds.
const minRound = 250 * time.Millisecond

// ledgerEntries is how many entries of a ledger may stand before all but the
// newest are removed: each counts against the queue's limit.
const ledgerEntries = 16

// trim shortens the ledgers of a lane, each by its exact subject: a wildcard
// would keep one entry in all and destroy the others.
func (j *Janitor) trim(ctx context.Context, lane wire.Lane) error {
	name := j.c.ns.TaskStream(lane)
	return j.ask(ctx, "stream "+name, func(ctx context.Context) error {
		stream, err := j.c.js.Stream(ctx, name)
		if err != nil {
			return err
		}
		info, err := stream.Info(ctx, jetstream.WithSubjectFilter(j.c.ns.LedgerFilter(lane)))
		if err != nil {
			return err
		}
		for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
			entries := info.State.Subjects[subject]
			if entries <= ledgerEntries {
				continue
			}
			l, err := ledger.New(ledger.Config{JetStream: j.c.js, Stream: name, Subject: subject})
			if err != nil {
				return err
			}
			if err := l.Trim(ctx); err != nil {
				return err
			}
			j.log.DebugContext(ctx, "ledger trimmed", "ledger", subject, "entries", entries-1)
		}
		return nil
	})
}

// janitorTimeout bounds what is asked of one stream at a time.
const janitorTimeout = 15 * time.Second

// ask asks the API of JetStream and says what was asked.
func (j *Janitor) ask(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, janitorTimeout)
	defer cancel()
	if err := j.c.AskAPI(ctx, do); err != nil {
		return inspectError(what, err)
	}
	return nil
}
