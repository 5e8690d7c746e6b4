package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What is cut: the answer on its way back, and the commit on its way out.
const (
	theAnswer = `"batch":"`
	theCommit = headerBatchCommit
)

func TestLostAnswerIsResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := &line{}
	l := w.ledger(over)
	fence := w.write(l, 0, 0, 2).Sequence
	for round := range 5 {
		cut := over.cutAt(false, theAnswer, false)
		fence = w.write(l, fence, 2+10*round, 10).Sequence
		select {
		case <-cut:
		default:
			t.Fatal("the answer was not lost")
		}
	}
	w.exact(52)
}

func TestLostCommitIsRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := &line{}
	l := w.ledger(over)
	fence := w.write(l, 0, 0, 2).Sequence
	for round := range 5 {
		cut := over.cutAt(true, theCommit, false)
		fence = w.write(l, fence, 2+10*round, 10).Sequence
		select {
		case <-cut:
		default:
			t.Fatal("the commit was not lost")
		}
	}
	w.exact(52)
}

// Without the expected sequence every lost answer doubles its batch: the proof
// that the tests above would see it.
func TestControlWithoutTheFenceDoubles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := &line{}
	l := w.ledger(over)
	l.unfenced = true
	cut := over.cutAt(false, theAnswer, false)
	w.write(l, 0, 0, 10)
	<-cut
	// A busy machine may answer too late once more.
	if got := len(w.numbers()); got < 20 || got%10 != 0 {
		t.Errorf("%d tasks are stored, want each of 10 twice", got)
	}
}

func TestLostAnswerAndARivalAfterIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over, rival := &line{}, w.ledger(nil)
	l := w.ledger(over)
	first := w.write(l, 0, 0, 2)

	cut := over.cutAt(false, theAnswer, true)
	written := make(chan error, 1)
	go func() {
		_, err := l.Write(w.ctx, first.Sequence, tasks(2, 5), position(7))
		written <- err
	}()
	<-cut
	stored, err := rival.ReadAt(w.ctx, first.Sequence+1)
	if err != nil {
		t.Fatal(err)
	}
	second := w.write(rival, stored.Sequence, nextOf(t, stored), 3)
	over.restore()

	fenced, ok := errors.AsType[*FencedError](<-written)
	if !ok || fenced.Found.Sequence != second.Sequence {
		t.Errorf("%+v, want the rival's entry %d", fenced, second.Sequence)
	}
	w.exact(10)
}

func TestUnknownWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := &line{}
	l := w.ledger(over)
	first := w.write(l, 0, 0, 2)

	cut := over.cutAt(false, theAnswer, true)
	ctx, cancel := context.WithCancel(w.ctx)
	go func() {
		<-cut
		cancel()
	}()
	_, err := l.Write(ctx, first.Sequence, tasks(2, 5), position(7))
	if !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want ErrUnknown and the cause", err)
	}

	over.restore()
	e, err := l.Read(w.ctx)
	if err != nil || nextOf(t, e) != 7 {
		t.Fatalf("%+v, %v, want the batch to be there", e, err)
	}
	w.write(l, e.Sequence, 7, 1)
	w.exact(8)
}

func TestNothingSentIsNotUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	over := &line{}
	l := w.ledger(over)
	first := w.write(l, 0, 0, 2)
	w.broker.Stop()
	lost := l.nc.StatusChanged()
	defer l.nc.RemoveStatusListener(lost)
	for l.nc.IsConnected() {
		<-lost
	}
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := l.Write(ctx, first.Sequence, tasks(2, 5), position(7)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknown) {
		t.Errorf("write without a connection: %v, want the deadline and nothing unknown", err)
	}
	if _, err := l.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read without a connection: %v", err)
	}
	if err := w.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	w.write(l, first.Sequence, 2, 1)
	w.exact(3)
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(&line{})
	l.nc.Close()
	if _, err := l.Write(w.ctx, 0, nil, position(0)); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("write on a closed connection: %v", err)
	}
	if _, err := l.Read(w.ctx); err == nil {
		t.Error("read on a closed connection: no error")
	}
}

// The batch fills the queue to its last place and its answer is lost: the next
// try finds no room, and yet all is stored.
func TestFullByTheBatchItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = 9 })
	over := &line{}
	l := w.ledger(over)
	first := w.write(l, 0, 0, 2)
	cut := over.cutAt(false, theAnswer, false)
	second := w.write(l, first.Sequence, 2, 5)
	<-cut
	if second.Sequence != 9 {
		t.Errorf("entry %d, want 9", second.Sequence)
	}
	w.exact(7)
}

func TestStreamThatComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	cfg := w.info().Config
	if err := w.js.DeleteStream(w.ctx, testStream); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := l.Write(ctx, 0, tasks(0, 1), position(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the deadline", err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := l.Write(w.ctx, 0, tasks(0, 1), position(1))
		written <- err
	}()
	var err error
	if w.stream, err = w.js.CreateStream(w.ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	w.exact(1)
}

// run is a writer that takes up wherever the ledger stands, until the end.
func (w *world) run(l *Ledger, end int) error {
	random := rand.New(rand.NewPCG(1, uint64(end)))
	e, err := l.Read(w.ctx)
	for err == nil {
		next := nextOf(w.t, e)
		if next >= end {
			return nil
		}
		n := min(1+random.IntN(5), end-next)
		var written Entry
		written, err = l.Write(w.ctx, e.Sequence, tasks(next, n), position(next+n))
		fenced, refused := errors.AsType[*FencedError](err)
		switch {
		case err == nil:
			e = written
		case refused && fenced.Backwards():
			return err
		case refused:
			e, err = fenced.Found, nil
		}
	}
	return err
}

func TestRivalsLeaveNoGapAndNoDouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const end = 400
	var rivals sync.WaitGroup
	for range 4 {
		l := w.ledger(&line{})
		rivals.Go(func() {
			if err := w.run(l, end); err != nil {
				t.Error(err)
			}
		})
	}
	rivals.Wait()
	w.exact(end)
}

func TestRivalsThroughFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const end, restarts = 600, 4
	lines := []*line{{}, {}, {}}
	var rivals sync.WaitGroup
	for _, over := range lines {
		l := w.ledger(over)
		rivals.Go(func() {
			if err := w.run(l, end); err != nil {
				t.Error(err)
			}
		})
	}
	// Each fault waits for the position to have moved, so that faults and work
	// take turns.
	watch, moved := w.ledger(nil), 0
	for fault := range 30 {
		if fault%7 == 3 {
			if err := w.broker.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		lines[fault%len(lines)].cutAt(fault%2 == 0, []string{theCommit, theAnswer}[fault%2], false)
		for {
			e, err := watch.Read(w.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if next := nextOf(t, e); next > moved || next >= end {
				moved = next
				break
			}
		}
	}
	rivals.Wait()
	w.exact(end)
}

// More writers than the server keeps batches open.
func TestManyLedgersOfOneStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const writers, rounds = 120, 3
	var all sync.WaitGroup
	for n := range writers {
		l, err := New(Config{JetStream: w.js, Stream: testStream, Subject: fmt.Sprintf("pelton.ledger.default.many.%d", n)})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			fence := uint64(0)
			for round := range rounds {
				e, err := l.Write(w.ctx, fence, tasks(n*rounds+round, 1), position(round))
				if err != nil {
					t.Error(err)
					return
				}
				fence = e.Sequence
			}
		})
	}
	all.Wait()
	times := map[int]int{}
	for _, n := range w.numbers() {
		times[n]++
	}
	for n := range writers * rounds {
		if times[n] != 1 {
			t.Errorf("task %d is stored %d times", n, times[n])
		}
	}
}
