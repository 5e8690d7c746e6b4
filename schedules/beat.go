package schedules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/ledger"
	"pelton/engine/pulse"
)

const (
	// ahead is how far the clock of a beat may be before that of the broker; what
	// is due later by the broker's clock waits, whatever the own one says.
	ahead = 2 * time.Second
	// turnMost is how long one look at an entry may take, and turnsAtOnce how many
	// are under way together.
	turnMost    = 20 * time.Second
	turnsAtOnce = 256
	// stallAfter is how long the loop may make no turn: it wakes every second.
	stallAfter = 15 * time.Second
	// retryTurn is how long an entry rests whose batch did not get through, and
	// retryStopped one that is stopped: what stopped it may have been mended.
	retryTurn    = time.Second
	retryStopped = 30 * time.Second
	// yield is how long a beat that was too late the last time leaves an entry to
	// whoever was faster: batches that are refused cost the broker as much. So it
	// is how late an occurrence is, once, when that one has died. By yieldApart
	// times its pace, which is another one at each wake, it comes later, so that
	// two that were too late do not come back together.
	yield      = 400 * time.Millisecond
	yieldApart = 300 * time.Millisecond
	// yieldLeast is how long it waits within a turn that was refused. That doubles
	// with each refusal, up to mostRefused times.
	yieldLeast  = 40 * time.Millisecond
	mostRefused = 4
)

// Config says what a beat does. The zero value works: it runs the entries of the
// bucket.
type Config struct {
	// Entries of this process, beside those of the bucket. All beats should have
	// the same ones: where they differ, the one that was started last wins.
	// One that carries an error is not run, and told of; the others are.
	Entries []Stored
	// Place says where an entry of Entries was defined, for errors; "the program"
	// unless set.
	Place func(name string) string
	// Instance names this beat in ledgers and logs; the host, the process and its
	// start unless set. It must be another one for each start.
	Instance string
	// Grace is how long what is under way may take at the end; 5s unless set.
	Grace time.Duration
	// OnOccurrence is told what this beat has decided, after it is stored. It
	// must not block; after a crash, or where an answer was lost, it may not be
	// told. It may be called from several goroutines at once.
	OnOccurrence func(Occurrence)
	// Logger gets what no caller can be told; nothing is logged where it is nil.
	Logger *slog.Logger
}

// vitals is what a beat notes of itself for Health.
type vitals struct {
	loops          pulse.Set
	loop           *pulse.Loop
	beating, ended atomic.Bool
}

// Beat sends the tasks of entries when they are due. Any number of beats may
// run over the same entries, with whatever clocks: each occurrence is sent once.
type Beat struct {
	c     *engine.Client
	cfg   Config
	log   *slog.Logger
	store *Store
	book  *book
	clock clockwork.Clock

	commit  func(ctx context.Context, p ledger.Part, alone bool) (ledger.Entry, error)
	slots   map[string]*slot
	results chan result
	turns   sync.WaitGroup
	tokens  chan struct{}

	paceBits  atomic.Uint64
	yielding  bool // after a wake, for as long as entries are left to who was faster
	broker    atomic.Pointer[brokerTime]
	toldWrong bool // that the own clock is wrong; of the goroutine that reads it
	vitals    vitals
}

// slot is an entry as the loop keeps it.
type slot struct {
	name   string
	keeper *keeper
	due    time.Time // when to look next; the zero time is at once
	never  bool      // not until its definition changes
	busy   bool
	stale  bool // its definition has changed while it was busy
	lost   bool // somebody else was faster the last time
	told   string
}

type result struct {
	slot *slot
	turn turn
	err  error
}

// NewBeat checks the configuration. It sends nothing. An entry that is wrong is
// no error here: it is logged, and the others go on.
func NewBeat(c *engine.Client, cfg Config) (*Beat, error) {
	if c == nil {
		return nil, errors.New("beat: a client must be given")
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Grace < 0 {
		return nil, fmt.Errorf("beat: grace must be above 0, got %s", cfg.Grace)
	}
	if cfg.Place == nil {
		cfg.Place = func(string) string { return "the program" }
	}
	if cfg.Instance == "" {
		host, _ := os.Hostname()
		cfg.Instance = host + "-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Beat{
		c: c, cfg: cfg, log: cfg.Logger, book: newBook(cfg.Place), clock: clockwork.NewRealClock(),
		slots: map[string]*slot{}, results: make(chan result, turnsAtOnce), tokens: make(chan struct{}, turnsAtOnce),
	}
	b.commit = new(committer).write
	b.newPace()
	for _, s := range cfg.Entries {
		name := s.Entry.Name
		if _, twice := b.book.own[name]; twice {
			return nil, fmt.Errorf("entry %s: %w, in %s", name, ErrTwice, cfg.Place(name))
		}
		b.book.own[name] = Stored{Entry: s.Entry, Err: s.Err}
	}
	return b, nil
}

// Run beats until ctx is done; what is under way then is ended first. A broker
// that is absent is waited for. The error is [engine.ErrNotFound] where the
// bucket of entries does not exist.
func (b *Beat) Run(ctx context.Context) error {
	b.vitals.loop = b.vitals.loops.Loop("beat", stallAfter)
	defer b.vitals.loop.End()
	defer b.vitals.ended.Store(true)
	if err := b.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end before there was anything to do
		}
		return err
	}
	wake, err := newWaker(b.clock)
	if err != nil {
		return err
	}
	defer wake.stop()
	watch := &watch{store: b.store, nc: b.c.Conn(), log: b.log, changes: make(chan change, 64)}
	watching, unwatch := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer unwatch()
	beside.Go(func() { watch.run(watching) })
	beside.Go(func() { b.watchClock(watching) })
	// Turns outlive ctx by the grace, so that a batch under way is known to be
	// stored or not.
	working, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	b.loop(ctx, working, wake, watch.changes)
	timer := time.AfterFunc(b.cfg.Grace, end)
	defer timer.Stop()
	b.drain()
	b.log.InfoContext(ctx, "beat ended")
	return nil
}

// drain waits for the turns that are under way.
func (b *Beat) drain() {
	done := make(chan struct{})
	go func() {
		b.turns.Wait()
		close(done)
	}()
	for {
		select {
		case <-b.results:
		case <-done:
			return
		}
	}
}

// open waits for the broker and binds the bucket.
func (b *Beat) open(ctx context.Context) error {
	for told := false; ; told = true {
		store, err := OpenStore(ctx, b.c)
		if err == nil {
			b.store = store
			b.book.bucket = store.kv.Bucket()
			err = b.readClock(ctx)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, engine.ErrUnreachable) && !errors.Is(err, nats.ErrDisconnected) || ctx.Err() != nil {
			return err
		}
		if !told {
			b.log.WarnContext(ctx, "beat waits for the broker", "err", err)
		}
		if err := pause(ctx, retryTurn); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loop is the one goroutine that knows the slots.
func (b *Beat) loop(ctx, working context.Context, wake *waker, changes <-chan change) {
	ready := false
	yielded := time.NewTimer(0)
	defer yielded.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-changes:
			b.change(working, c)
			if c.all && !ready {
				ready = true
				b.vitals.beating.Store(true)
				b.log.InfoContext(ctx, "beat started", "entries", len(b.slots), "instance", b.cfg.Instance)
			}
		case <-wake.C:
			wake.woken()
			if !b.yielding {
				b.yielding = true
				b.newPace()
				yielded.Reset(yield + time.Duration(b.pace()*float64(yieldApart)))
			}
		case <-yielded.C:
			b.yielding = false
		case <-wake.overslept.C:
			if err := wake.begin(); err != nil {
				b.log.ErrorContext(ctx, "cannot wake, trying on", "err", err)
			}
		case r := <-b.results:
			b.finish(ctx, r)
		}
		b.vitals.loop.Turn()
		if ready {
			b.start(working)
		}
	}
}

// change takes what the bucket says.
func (b *Beat) change(ctx context.Context, c change) {
	if c.all {
		b.replaceAll(ctx, c.entries)
		return
	}
	name, gone := b.book.note(c.entry)
	if _, _, isMark := parseMark(c.entry.Key()); isMark {
		if c.entry.Operation() != jetstream.KeyValuePut {
			b.forget(name)
			b.define(ctx, name)
		}
		return
	}
	if gone {
		b.remove(ctx, name, c.entry.Revision())
	}
	b.define(ctx, name)
}

// replaceAll takes the bucket as it is: what is not in it any more was removed
// while nobody could tell.
func (b *Beat) replaceAll(ctx context.Context, entries []jetstream.KeyValueEntry) {
	before := b.book.kv
	b.book.kv = map[string]Stored{}
	for _, entry := range entries {
		b.book.note(entry)
	}
	for name, was := range before {
		if _, still := b.book.kv[name]; !still {
			b.remove(ctx, name, was.Revision+1)
			b.define(ctx, name)
		}
	}
	for _, name := range b.book.names() {
		b.define(ctx, name)
	}
}

// define makes the slot of an entry what the book says.
func (b *Beat) define(ctx context.Context, name string) {
	d, err := b.book.find(name)
	s := b.slots[name]
	switch {
	case err != nil:
		b.drop(s)
		b.slots[name] = &slot{name: name, never: true, told: err.Error()}
		b.log.ErrorContext(ctx, "entry is not run", "entry", name, "err", err)
	case d == nil:
		b.drop(s)
		delete(b.slots, name)
	case s != nil && s.keeper != nil && s.keeper.def.digest == d.digest && s.keeper.def.revision == d.revision && s.keeper.def.source == d.source:
	default:
		b.drop(s)
		b.slots[name] = b.newSlot(d)
	}
}

// forget makes the next definition of an entry a new one: its ledger may begin
// anew.
func (b *Beat) forget(name string) {
	b.drop(b.slots[name])
	delete(b.slots, name)
}

// drop forgets a slot. A turn that is under way ends by itself: it is refused,
// or was in time.
func (b *Beat) drop(s *slot) {
	if s != nil {
		s.stale = true
	}
}

func (b *Beat) newSlot(d *definition) *slot {
	s := &slot{name: d.entry.Name}
	queue := d.entry.queue()
	l, err := ledgerFor(b.c, queue, s.name, b.cfg.Instance, b.log)
	if err != nil {
		s.never, s.told = true, err.Error()
		b.log.Error("entry is not run", "entry", s.name, "err", err)
		return s
	}
	s.keeper = &keeper{
		c: b.c, def: d, ledger: l, now: b.now, log: b.log, instance: b.cfg.Instance, commit: b.commit, pace: b.pace,
		others: func() []string { return without(b.book.marks.of(s.name), queue) },
		marked: func() bool { return b.book.marks.has(queue, s.name) },
		mark: func(ctx context.Context) error {
			if err := b.store.setMark(ctx, queue, s.name); err != nil {
				return err
			}
			b.book.marks.set(queue, s.name, true)
			return nil
		},
	}
	return s
}

// remove closes the ledger of an entry that was taken out of the bucket, so that
// a beat that has not heard of it yet sends nothing more.
func (b *Beat) remove(ctx context.Context, name string, revision uint64) {
	b.log.InfoContext(ctx, "entry is removed", "entry", name)
	queues := b.book.marks.of(name)
	k := &keeper{c: b.c, def: &definition{entry: Entry{Name: name}, source: SourceKV}, instance: b.cfg.Instance, log: b.log}
	b.turns.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, turnMost)
		defer cancel()
		for _, queue := range queues {
			if _, err := closeLedger(ctx, k, queue, closedRemoved, revision); err != nil && !errors.Is(err, ErrOlder) {
				b.log.WarnContext(ctx, "cannot close the ledger of a removed entry", "entry", name, "queue", queue, "err", err)
			}
		}
	})
}

// start looks at what is due.
func (b *Beat) start(ctx context.Context) {
	now := b.now()
	for _, s := range b.slots {
		if s.busy || s.never || s.due.After(now) || s.lost && b.yielding {
			continue
		}
		select {
		case b.tokens <- struct{}{}:
		default:
			return // the end of a turn starts the next
		}
		s.busy = true
		lost := s.lost
		b.turns.Go(func() {
			r := b.look(ctx, s, lost)
			<-b.tokens
			select {
			case b.results <- r:
			case <-ctx.Done():
			}
		})
	}
}

// look is one turn of one entry.
func (b *Beat) look(ctx context.Context, s *slot, lost bool) result {
	ctx, cancel := context.WithTimeout(ctx, turnMost)
	defer cancel()
	if s.keeper.inForce == 0 {
		if err := checkQueue(ctx, b.c, s.keeper.def.entry); err != nil {
			return result{slot: s, err: fmt.Errorf("%s: %w", s.keeper.def.place, err)}
		}
	}
	t, err := s.keeper.look(ctx, b.now(), lost)
	b.tell(ctx, t.done)
	return result{slot: s, turn: t, err: err}
}

// yieldFor is how long to leave an entry to others in a turn that was refused so
// often. The pace, from 0 to 1, is one for all entries of a beat, so that they come
// back together.
func yieldFor(refused int, pace float64) time.Duration {
	d := yieldLeast << (min(refused, mostRefused) - 1)
	return d + time.Duration(pace*float64(d))
}

func (b *Beat) pace() float64 { return math.Float64frombits(b.paceBits.Load()) }

func (b *Beat) newPace() { b.paceBits.Store(math.Float64bits(rand.Float64())) }

// tell tells of what was decided; of occurrences that were skipped for one reason
// in a row the log has one line.
func (b *Beat) tell(ctx context.Context, done []Occurrence) {
	for i, first := 0, 0; i < len(done); i++ {
		o := done[i]
		if b.cfg.OnOccurrence != nil {
			b.cfg.OnOccurrence(o)
		}
		if o.Outcome == Fired {
			b.log.DebugContext(ctx, "sent", "entry", o.Entry, "queue", o.Queue, "task", o.Task, "task_id", o.ID, "late", o.Late)
		}
		if i+1 < len(done) && done[i+1].Outcome == o.Outcome {
			continue
		}
		if o.Outcome != Fired {
			b.log.InfoContext(ctx, "skipped", "entry", o.Entry, "reason", o.Outcome, "occurrences", i+1-first, "from", done[first].Nominal, "to", o.Nominal)
		}
		first = i + 1
	}
}

// finish takes what a turn has come to.
func (b *Beat) finish(ctx context.Context, r result) {
	s := r.slot
	s.busy = false
	if s.stale {
		return
	}
	if r.err == nil {
		if s.told != "" {
			b.log.InfoContext(ctx, "entry runs again", "entry", s.name)
		}
		s.told, s.due, s.never = "", r.turn.next, !r.turn.ever
		s.lost = len(r.turn.done) == 0 && (r.turn.lost || s.lost)
		return
	}
	wait := retryTurn
	if stops(r.err) {
		wait = retryStopped
	}
	s.due, s.lost = b.now().Add(wait), true // the newest is read first
	if text := r.err.Error(); s.told != text && ctx.Err() == nil {
		s.told = text
		b.log.ErrorContext(ctx, "entry is not run", "entry", s.name, "err", r.err, "again_in", wait)
	}
}

// stops reports whether an error stops an entry until somebody has done
// something.
func stops(err error) bool {
	return errors.Is(err, ErrLedgerGone) || errors.Is(err, ErrOlder) || errors.Is(err, ledger.ErrUnreadable) || errors.Is(err, engine.ErrNoQueue)
}

// Health tells whether the loop makes progress, which asks no broker, and
// whether entries are run: connected, and the bucket read. One entry that is
// stopped does not count; pelton schedule ls tells of it. It may be called at
// any time.
func (b *Beat) Health() pulse.Health {
	h := pulse.Health{Stalled: b.vitals.loops.Stalled()}
	if b.c.Conn().Status() != nats.CONNECTED {
		h.Unready = append(h.Unready, "nats: not connected")
	}
	switch {
	case b.vitals.ended.Load():
		h.Unready = append(h.Unready, "beat: ended")
	case !b.vitals.beating.Load():
		h.Unready = append(h.Unready, "beat: waits for the bucket of entries")
	}
	return h
}
