package emit

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka"
	"pelton/edges/internal/kafka/kafkatest"
	"pelton/engine/wire"
)

var errKilled = errors.New("killed")

// killed makes the emitter of cfg end at the nth time that it comes to a step,
// as by kill -9: its link is cut in the same moment, so that it says goodbye to
// nobody.
func killed(cfg Config, step string, nth int) Config {
	var d net.Dialer
	link := kafkatest.NewLink(d.DialContext)
	cfg.Kafka.Dial = link.Dial
	cfg.hooks.at = func(at string, _ int32) error {
		if at != step {
			return nil
		}
		if nth--; nth > 0 {
			return nil
		}
		link.Cut()
		return errKilled
	}
	return cfg
}

// newRand prints its seed, so that a failure can be repeated.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

var crashSteps = []string{stepFenced, stepBarrier, stepOpened, stepBegun, stepFlushed, stepEnded}

// Whatever the moment of a crash, what comes out is what went in.
func TestCrashLosesAndDoublesNothing(t *testing.T) {
	random := newRand(t)
	w := newWorld(t, "default", "mail")
	cfg := w.config()
	cfg.Queues = []string{"default", "mail"}
	cfg.SessionTimeout = 250 * time.Millisecond
	cfg.MaxBatch = 7
	w.ensureLedger(cfg)
	for round := range 5 * len(crashSteps) {
		w.succeed([]string{"default", "mail"}[random.IntN(2)], round*100, 20+random.IntN(30))
		step, nth := crashSteps[round%len(crashSteps)], 1
		if slices.Contains(crashSteps[3:], step) {
			nth += random.IntN(3)
		}
		dead := make(chan struct{})
		dying := killed(cfg, step, nth)
		inner := dying.hooks.at
		dying.hooks.at = func(at string, shard int32) error {
			err := inner(at, shard)
			if err != nil {
				close(dead)
			}
			return err
		}
		last := w.start(dying)
		select {
		case <-dead: // the next one starts while this one's remains still lie about
			last.cancel()
		case <-w.ctx.Done():
			t.Fatalf("round %d: no crash at %s; log %q", round, step, w.journal.Lines())
		}
	}
	r := w.start(cfg)
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
}

// lossy passes one EndTxn on and loses its answer, and then lets no EndTxn
// through until it is mended. All else goes on, so that the shard stays.
type lossy struct {
	net.Dialer
	armed, broken atomic.Bool
	lost          chan struct{}
	hold          chan struct{} // where set, every EndTxn waits here
}

func newLossy() *lossy { return &lossy{lost: make(chan struct{}, 1)} }

func (l *lossy) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := l.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &lossyConn{Conn: conn, l: l}, nil
}

type lossyConn struct {
	net.Conn
	l    *lossy
	lose atomic.Bool
}

func (c *lossyConn) Write(b []byte) (int, error) {
	if len(b) < 6 || int16(b[4])<<8|int16(b[5]) != int16(kmsg.EndTxn) {
		return c.Conn.Write(b)
	}
	if c.l.hold != nil {
		c.l.lost <- struct{}{}
		<-c.l.hold
	}
	if c.l.broken.Load() {
		return 0, io.ErrClosedPipe
	}
	if c.l.armed.CompareAndSwap(true, false) {
		c.l.broken.Store(true)
		c.lose.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *lossyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lose.CompareAndSwap(true, false) { // also where it is given up before it comes
		_ = c.Close()
		c.l.lost <- struct{}{}
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// The answer to a commit that was carried out is lost, and nobody can ask again
// before the emitter has given up. Only the ledger knows.
func TestLostAnswerToCommit(t *testing.T) {
	w := newWorld(t, "default")
	w.loseAnswers()
}

func (w *world) loseAnswers() {
	w.t.Helper()
	link := newLossy()
	cfg := w.config()
	cfg.Kafka.Dial = link.Dial
	cfg.TransactionTimeout = 300 * time.Millisecond
	w.ensureLedger(cfg)
	r := w.start(cfg)
	f := w.feed(resultTopic)
	for i := range 5 {
		w.put("default", "before-"+string(rune('a'+i)), wire.StateSucceeded)
		f.wait()
		failures := r.Stats().Failures
		link.armed.Store(true)
		w.succeed("default", i*10, 10)
		<-link.lost
		w.waitFor(func() bool { return r.Stats().Failures > failures })
		link.broken.Store(false)
		f.wait()
	}
	r.stop()
	w.exact()
}

// waitFor polls what has no signal of its own: counters.
func (w *world) waitFor(done func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waited in vain; log %q", w.journal.Lines())
		}
	}
}

// A broker refuses or drops each kind of request once in a while.
func TestBrokerErrors(t *testing.T) {
	w := newWorld(t, "default", "mail")
	random := newRand(t)
	cfg := w.config()
	cfg.Queues = []string{"default", "mail"}
	cfg.MaxBatch = 5
	cfg.TransactionTimeout, cfg.SessionTimeout = time.Second, time.Second
	w.ensureLedger(cfg)
	for _, fault := range []kfake.Fault{
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.RequestTimedOut},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.UnknownServerError},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.InvalidProducerEpoch},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.ProducerFenced},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.ConcurrentTransactions},
		{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.NotCoordinator},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidProducerEpoch},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTxnState},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.OutOfOrderSequenceNumber},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.UnknownTopicOrPartition},
		{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TransactionAbortable},
		{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.CoordinatorLoadInProgress},
		{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID},
	} {
		fault.When = func(kmsg.Request) bool { return random.IntN(3) == 0 }
		fault.TopLevel = fault.Keys[0] != kmsg.Produce
		w.cluster.Fault(fault)
	}
	ends := 0
	w.cluster.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		ends++
		if drop := ends > 20 && ends < 50 && ends%10 == 0; drop {
			return nil, errKilled, true
		}
		return nil, nil, false
	})
	r := w.start(cfg)
	f := w.feed(resultTopic)
	for i := range 10 {
		w.succeed("default", i*20, 20)
		w.succeed("mail", i*20, 20)
		f.wait()
	}
	r.stop()
	w.exact()
	t.Logf("%+v", r.Stats())
}

// A broker that is gone for longer than the session does not end anything.
func TestKafkaGoneAndBack(t *testing.T) {
	w := newWorld(t, "default")
	var d net.Dialer
	link := kafkatest.NewLink(d.DialContext)
	cfg := w.config()
	cfg.Kafka.Dial = link.Dial
	cfg.SessionTimeout = time.Second
	w.ensureLedger(cfg)
	r := w.start(cfg)
	f := w.feed(resultTopic)
	w.succeed("default", 0, 20)
	f.wait()

	link.Cut()
	w.succeed("default", 20, 20)
	if err := w.journal.Wait(w.ctx, "WARN kafka unreachable"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.cluster.WaitGroupInfo(w.ctx, "pelton-emit-results", func(g *kfake.GroupInfo) bool { return g == nil || len(g.Members) == 0 }); err != nil {
		t.Fatal(err)
	}
	link.Restore()
	back := time.Now()
	f.wait()
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("back after %s, want at most 5s", took)
	}
	r.stop()
	w.exact()
}

func TestNATSRestart(t *testing.T) {
	w := newWorld(t, "default", "mail")
	cfg := w.config()
	cfg.Queues = []string{"default", "mail"}
	w.ensureLedger(cfg)
	r := w.start(cfg)
	f := w.feed(resultTopic)
	var writing sync.WaitGroup
	for round := range 3 {
		writing.Go(func() {
			w.succeed("default", round*100, 60)
			w.succeed("mail", round*100, 60)
		})
		f.wait()
		if err := w.nats.Restart(); err != nil {
			t.Fatal(err)
		}
		writing.Wait()
		f.wait()
	}
	r.stop()
	w.exact()
}

// The first transaction of a client must not be aborted by the client itself,
// which shows as a barrier that never comes.
func TestOpensEveryTime(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	open := w.session(cfg)
	for i := range 150 {
		began := time.Now()
		open().close()
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("opening %d took %s", i, took)
		}
	}
}

// While it has not opened, an emitter holds nothing of the one before.
func TestZombieCannotCommit(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	old, heir := w.session(cfg), w.session(cfg)
	w.succeed("default", 0, 10)

	zombie := old()
	defer zombie.close()
	batch := zombie.next(w, 10)
	successor := heir()
	defer successor.close()
	err := zombie.commit(w.ctx, batch)
	if kafka.Classify(err) != kafka.Fenced {
		t.Errorf("zombie's commit: %v, want it fenced", err)
	}
	if err := successor.commit(w.ctx, successor.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	w.exact()
}

// A transaction that is fully produced when its emitter is replaced is aborted
// by the replacement, and its own end comes too late.
func TestZombieCannotEndWhatItProduced(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	frozen, thaw := make(chan struct{}), make(chan struct{})
	first := cfg
	first.hooks.at = func(step string, _ int32) error {
		if step == stepFlushed {
			close(frozen)
			<-thaw
		}
		return nil
	}
	old, heir := w.session(first), w.session(cfg)
	w.succeed("default", 0, 10)
	zombie := old()
	defer zombie.close()
	batch := zombie.next(w, 10)
	failed := make(chan error)
	go func() { failed <- zombie.commit(w.ctx, batch) }()
	<-frozen
	successor := heir()
	defer successor.close()
	if err := successor.commit(w.ctx, successor.next(w, 10)); err != nil {
		t.Fatal(err)
	}
	close(thaw)
	if err := <-failed; kafka.Classify(err) != kafka.Fenced {
		t.Errorf("zombie's commit: %v, want it fenced", err)
	}
	w.exact()
}

// A commit that was sent in time and arrives after the successor has opened
// commits nothing.
func TestCommitArrivesTooLate(t *testing.T) {
	w := newWorld(t, "default")
	w.commitTooLate()
}

func (w *world) commitTooLate() {
	w.t.Helper()
	cfg := w.config()
	w.ensureLedger(cfg)
	link := newLossy()
	slow := cfg
	slow.Kafka.Dial = link.Dial
	old, heir := w.session(slow), w.session(cfg)
	w.succeed("default", 0, 10)
	zombie := old()
	defer zombie.close()
	batch := zombie.next(w, 10)
	link.hold = make(chan struct{})
	failed := make(chan error)
	go func() { failed <- zombie.commit(w.ctx, batch) }()
	<-link.lost // it is on its way
	successor := heir()
	defer successor.close()
	close(link.hold)
	if err := <-failed; kafka.Classify(err) != kafka.Fenced {
		w.t.Errorf("zombie's commit: %v, want it fenced", err)
	}
	if err := successor.commit(w.ctx, successor.next(w, 10)); err != nil {
		w.t.Fatal(err)
	}
	w.exact()
}

// session returns what opens shard 0 without the group's leave.
func (w *world) session(cfg Config) func() *session {
	w.t.Helper()
	e, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return func() *session {
		w.t.Helper()
		x, err := newShard(e, w.plain, 0).open(w.ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		return x
	}
}

// next takes n final results from a session.
func (x *session) next(w *world, n int) []*result {
	w.t.Helper()
	var finals []*result
	for len(finals) < n {
		select {
		case r := <-x.results:
			if err := x.pass(r); err != nil {
				w.t.Fatal(err)
			}
			if r.record != nil {
				finals = append(finals, r)
			}
		case err := <-x.failed:
			w.t.Fatal(err)
		case <-w.ctx.Done():
			w.t.Fatalf("%d of %d results", len(finals), n)
		}
	}
	return finals
}
