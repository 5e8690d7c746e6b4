package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// stepped is a worker's clock that can be set, forward and back.
type stepped struct {
	offset atomic.Int64
	latest atomic.Int64 // what it has shown at most
}

func (s *stepped) now() time.Time {
	t := time.Now().Add(time.Duration(s.offset.Load()))
	for {
		latest := s.latest.Load()
		if t.UnixNano() <= latest || s.latest.CompareAndSwap(latest, t.UnixNano()) {
			return t
		}
	}
}

// lifeBody is what a task of TestRandomLives carries.
type lifeBody struct {
	N       int           `json:"n"`       // which of the bodies that were given to the id
	Fails   int           `json:"fails"`   // attempts that fail
	Snoozes int           `json:"snoozes"` // of the first attempt, before it fails or succeeds
	Wait    time.Duration `json:"wait"`    // before the next attempt or after a snooze
}

// lifeRun is one run of a handler.
type lifeRun struct {
	attempt int
	body    lifeBody
	clock   int64 // the latest that the worker's clock had shown
	due     int64 // before which the next run may not begin
}

// life is what the model knows of an id.
type life struct {
	id      string
	bodies  map[int]time.Time // that may run, with the time before which they may not
	strict  bool              // only the last body may run
	last    int
	fails   int
	snoozes int
	revoked bool // before a worker had it: it never runs
	stopped bool // revoked when a worker had it: it may have begun
	expires bool
	sent    bool
}

// TestRandomLives plays random sends with ids, delays and expiries,
// replacements and cancels, while the clock of the worker is set forward and
// back, and compares what becomes of each id with a simple model: the same
// terminal state, nothing early, nothing twice, nothing lost. The seed is
// printed; PELTON_TEST_SEED plays it again.
func TestRandomLives(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("PELTON_TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("seed %d", seed)
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p := &lives{t: t, c: c, runs: map[string][]lifeRun{}}
	p.work()
	stopSteps := background(func(ctx context.Context) { p.step(ctx, rand.New(rand.NewPCG(seed, 1))) })
	var group sync.WaitGroup
	free := make(chan struct{}, 40)
	for i := range sequences {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			p.play(i, rand.New(rand.NewPCG(seed, uint64(i)+2)))
		})
	}
	group.Wait()
	stopSteps()
	if p.changed.Load() < sequences/2 {
		t.Errorf("only %d cancels and replacements met a task in time", p.changed.Load())
	}
	if left := awaitEmpty(t, c); left != 0 {
		t.Errorf("%d messages are left", left)
	}
}

// lives is the system under the random operations.
type lives struct {
	t       *testing.T
	c       *Client
	clock   stepped
	changed atomic.Int64

	mu   sync.Mutex
	runs map[string][]lifeRun
}

func (p *lives) work() {
	w := NewWorker(p.c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 16}}})
	w.now = p.clock.now
	HandleRaw(w, "live", func(_ context.Context, m *Message) ([]byte, error) {
		run := lifeRun{attempt: m.Info.Attempt, clock: p.clock.latest.Load()}
		if err := json.Unmarshal(m.Body, &run.body); err != nil {
			return nil, err
		}
		run.due = time.Now().Add(run.body.Wait).UnixNano()
		p.mu.Lock()
		p.runs[m.Info.ID] = append(p.runs[m.Info.ID], run)
		before := len(p.runs[m.Info.ID]) - 1
		p.mu.Unlock()
		switch {
		case run.attempt == 1 && before < run.body.Snoozes:
			return nil, Snooze(run.body.Wait)
		case run.attempt <= run.body.Fails:
			return nil, RetryIn(run.body.Wait, errors.New("again"))
		}
		return m.Body, nil
	})
	stop := background(func(ctx context.Context) {
		if err := w.Run(ctx); err != nil {
			p.t.Errorf("worker: %v", err)
		}
	})
	p.t.Cleanup(stop)
}

// step sets the worker's clock until ctx is done, and right at last.
func (p *lives) step(ctx context.Context, random *rand.Rand) {
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			p.clock.offset.Store(0)
			return
		case <-tick.C:
			p.clock.offset.Store(int64(time.Duration(random.IntN(500)-250) * time.Millisecond))
		}
	}
}

// play is one sequence: a few ids, each with operations of its own in order.
func (p *lives) play(sequence int, random *rand.Rand) {
	var group sync.WaitGroup
	for i := range 4 {
		own := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		group.Go(func() {
			l := &life{id: fmt.Sprintf("s%d-x%d", sequence, i), bodies: map[int]time.Time{}, strict: own.IntN(3) > 0}
			for range 1 + own.IntN(6) {
				if err := p.operate(l, own); err != nil {
					p.t.Errorf("%s: %v", l.id, err)
					return
				}
				<-time.After(time.Duration(own.IntN(250)) * time.Millisecond) // other things go on
			}
			p.compare(l)
		})
	}
	group.Wait()
}

// operate does one random thing to an id and tells the model.
func (p *lives) operate(l *life, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	delay := time.Duration(random.IntN(1200)) * time.Millisecond
	switch choice := random.IntN(10); {
	case !l.sent, choice < 3:
		return p.send(ctx, l, random, delay)
	case choice < 5:
		return p.cancel(ctx, l)
	case l.fails+l.snoozes > 0:
		return nil // the attempts of one that was replaced have two bodies
	default:
		return p.replace(ctx, l, delay)
	}
}

func (p *lives) send(ctx context.Context, l *life, random *rand.Rand, delay time.Duration) error {
	body := lifeBody{N: l.last + 1}
	eta := time.Now().Add(delay)
	opts := []SendOption{WithID(l.id), WithETA(eta)}
	first := !l.sent
	body.Fails, body.Snoozes = l.fails, l.snoozes
	body.Wait = time.Duration(random.IntN(1000)) * time.Millisecond // kept, or parked
	if first && random.IntN(4) == 0 {
		body.Fails = 1 + random.IntN(2)
	}
	if first && random.IntN(8) == 0 {
		body.Snoozes = 1 + random.IntN(2)
	}
	if first && random.IntN(4) == 0 {
		opts = append(opts, WithExpires(eta.Add(time.Duration(1+random.IntN(300))*time.Millisecond)))
	}
	expires := len(opts) == 3
	if random.IntN(3) == 0 {
		opts = append(opts, WithTracked())
	}
	if !first && delay < sooner+300*time.Millisecond && l.strict {
		return nil // it would go to the queue, where a copy may go first
	}
	_, err := p.c.SendRaw(ctx, DefaultQueue, "live", must(json.Marshal(body)), opts...)
	switch {
	case errors.Is(err, ErrExists) && !first:
		return nil
	case err != nil:
		return fmt.Errorf("send: %w", err)
	case first:
		l.sent, l.last, l.fails, l.snoozes, l.expires = true, body.N, body.Fails, body.Snoozes, expires
		l.bodies[body.N] = eta
	case !l.strict:
		l.last = body.N
		l.bodies[body.N] = eta // a copy that slipped past: the first to be taken runs
	}
	return nil
}

func (p *lives) cancel(ctx context.Context, l *life) error {
	r, err := p.c.Cancel(ctx, DefaultQueue, l.id)
	switch {
	case errors.Is(err, ErrTooLate):
		if r == nil || !r.State.Terminal() {
			return fmt.Errorf("too late for %+v", r)
		}
		return nil
	case err != nil:
		return fmt.Errorf("cancel: %w", err)
	case l.revoked || l.stopped:
		return nil
	}
	p.changed.Add(1)
	l.revoked, l.stopped = r.StartedAt.IsZero(), !r.StartedAt.IsZero()
	return nil
}

func (p *lives) replace(ctx context.Context, l *life, delay time.Duration) error {
	body := lifeBody{N: l.last + 1}
	eta := time.Now().Add(delay)
	_, err := p.c.Replace(ctx, DefaultQueue, l.id, must(json.Marshal(body)), eta)
	switch {
	case errors.Is(err, ErrTooLate), errors.Is(err, ErrInvalidName) && l.expires:
		return nil
	case err != nil:
		return fmt.Errorf("replace: %w", err)
	case l.revoked || l.stopped:
		return errors.New("replaced although it was revoked")
	}
	p.changed.Add(1)
	if l.strict {
		clear(l.bodies)
	}
	l.last = body.N
	l.bodies[body.N] = eta
	return nil
}

// compare waits for the end of an id and holds it against the model.
func (p *lives) compare(l *life) {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	r, err := p.c.Wait(ctx, DefaultQueue, l.id)
	if err != nil {
		p.t.Errorf("%s is lost: %v", l.id, err)
		return
	}
	p.mu.Lock()
	runs := p.runs[l.id]
	p.mu.Unlock()
	wrong := func(what string) { p.t.Errorf("%s: %s\nmodel %+v\nrecord %+v\nruns %+v", l.id, what, l, r, runs) }
	again := l.fails + l.snoozes
	switch {
	case (l.revoked || l.stopped) != (r.State == wire.StateRevoked):
		wrong("revoked by one, not by the other")
	case l.revoked && len(runs) > 0:
		wrong("ran although nobody had it when it was revoked")
	case r.State == wire.StateExpired && (!l.expires || len(runs) > again):
		wrong("expired")
	case r.State == wire.StateSucceeded && len(runs) != again+1, len(runs) > again+1:
		wrong("ran another number of times")
	case r.State != wire.StateSucceeded && r.State != wire.StateRevoked && r.State != wire.StateExpired:
		wrong("ended otherwise")
	}
	seen := map[int]int{1: -l.snoozes}
	for i, run := range runs {
		if i > 0 && run.clock < runs[i-1].due {
			wrong("ran again early by " + time.Duration(runs[i-1].due-run.clock).String())
		}
		eta, known := l.bodies[run.body.N]
		if !known && !l.stopped {
			wrong("ran with a body that had been replaced")
		}
		if known && run.clock < eta.UnixNano() {
			wrong("ran early by " + time.Duration(eta.UnixNano()-run.clock).String())
		}
		if seen[run.attempt]++; seen[run.attempt] > 1 {
			wrong("an attempt ran twice")
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// awaitEmpty waits until the queue's lanes are empty, and tells what is left.
func awaitEmpty(t *testing.T, c *Client) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lane := wire.PlainLane(DefaultQueue)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		var left uint64
		for _, name := range []string{c.ns.TaskStream(lane), c.ns.LaterStream(lane)} {
			info, err := c.streamInfo(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			left += info.State.Msgs
		}
		if left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}
