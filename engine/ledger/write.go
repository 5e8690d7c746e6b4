package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// Bounds of the wait between two tries.
	firstWait = 10 * time.Millisecond
	mostWait  = time.Second
	// quietly is how long the broker may keep somebody waiting before it is
	// worth a line in the log.
	quietly = 3 * time.Second
)

// Write stores the tasks and the position behind the entry whose sequence is
// the fence, or stores nothing. The position is JSON of at most [MaxPosition]
// bytes, the tasks are at most [MaxTasks], and there may be none. It changes no
// task. The entry returned holds the next fence.
//
// It blocks until the outcome is known or ctx is done, however long the broker
// is away. The errors are those of the package, that of ctx, and those of a
// batch that no broker takes as it is.
func (l *Ledger) Write(ctx context.Context, fence uint64, tasks []*nats.Msg, position json.RawMessage) (Entry, error) {
	b, err := l.newBatch(fence, tasks, position)
	if err != nil {
		return Entry{}, err
	}
	w := write{Ledger: l, batch: b}
	err = l.persist(ctx, w.step)
	switch {
	case err == nil:
		w.entry.Position, w.entry.Instance, w.entry.CRC = position, l.instance, b.crc
		return w.entry, nil
	case errors.Is(err, ErrFenced):
		return Entry{}, err
	case w.open:
		return Entry{}, fmt.Errorf("ledger %s: %w: %w", l.subject, ErrUnknown, err)
	}
	return Entry{}, fmt.Errorf("ledger %s: %w", l.subject, err)
}

// write is a batch on its way.
type write struct {
	*Ledger
	batch  *batch
	open   bool // the outcome of an earlier try is unknown
	askAll bool
	entry  Entry
}

// step tries once. It is done when the batch is stored, or when another try
// makes no sense.
func (w *write) step(ctx context.Context) (done bool, err error) {
	if err := w.batch.checkSize(w.nc.MaxPayload()); err != nil {
		return true, err
	}
	sequence, err := w.send(ctx, w.batch, w.askAll)
	w.askAll = w.askAll || incomplete(err)
	switch classify(err) {
	case stored:
		w.entry = Entry{Sequence: sequence, Time: time.Now()}
		return true, nil
	case unknown:
		w.open = true
		return false, err
	case fenced:
		return w.judge(ctx, err)
	case full:
		return w.settleFull(ctx, err)
	case again:
		return false, err
	case rejected:
		return true, err
	}
	return true, err
}

// judge finds out whose entry refused the batch: this batch's own, from a try
// whose answer was lost, or another one.
func (w *write) judge(ctx context.Context, refusal error) (done bool, err error) {
	sequence, ok := Newest(refusal)
	if !ok {
		return true, refusal
	}
	found := Entry{Sequence: sequence}
	if sequence > w.batch.fence {
		// Not for ever: if the entry has gone meanwhile, the next refusal names
		// another.
		limited, cancel := context.WithTimeout(ctx, w.timeout)
		defer cancel()
		if found, err = w.ReadAt(limited, sequence); err != nil && !errors.Is(err, ErrUnreadable) {
			return false, fmt.Errorf("%w; %w", refusal, err)
		}
	}
	if w.owns(found) {
		w.entry = found
		return true, nil
	}
	return true, &FencedError{Subject: w.subject, Fence: w.batch.fence, Found: found}
}

// settleFull ends a batch that found no room. The server looks for room before
// it looks at the fence, so what an earlier try came to must be seen from the
// ledger.
func (w *write) settleFull(ctx context.Context, refusal error) (done bool, err error) {
	err = fmt.Errorf("%w: %w", ErrFull, refusal)
	if !w.open {
		return true, err
	}
	found, readErr := w.get(ctx)
	if readErr == nil && w.owns(found) {
		w.entry = found
		return true, nil
	}
	return true, err
}

// owns reports whether an entry is that of this batch.
func (w *write) owns(e Entry) bool {
	return e.Sequence > w.batch.fence && e.Instance == w.instance && e.CRC == w.batch.crc
}

// persist steps until one is done, with a growing pause between two, and only
// while there is a connection: what is published without one waits in a buffer
// and is sent whenever. The error is that of the last step, or of ctx with it.
func (l *Ledger) persist(ctx context.Context, step func(context.Context) (done bool, err error)) error {
	var waited error
	started, told := time.Now(), false
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		if err := connected(ctx, l.nc); err != nil {
			return after(err, waited)
		}
		done, err := step(ctx)
		if done {
			if told && err == nil {
				l.log.InfoContext(ctx, "ledger answers again")
			}
			return err
		}
		if !told && time.Since(started) > quietly {
			told = true
			l.log.WarnContext(ctx, "ledger waits for the broker", slog.Any("err", err))
		}
		if cause := pause(ctx, jitter(wait)); cause != nil {
			return after(cause, err)
		}
		waited = err
	}
}

// after is why the waiting ended, and what was waited for.
func after(cause, last error) error {
	if last == nil {
		return cause
	}
	return fmt.Errorf("%w while the last answer was: %w", cause, last)
}

// connected waits for the connection.
func connected(ctx context.Context, nc *nats.Conn) error {
	if nc.IsConnected() {
		return context.Cause(ctx)
	}
	changes := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(changes)
	for !nc.IsConnected() {
		if nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return fmt.Errorf("not connected: %w", context.Cause(ctx))
		}
	}
	return nil
}

// pause waits for d, or returns the cause of ctx where that ends first.
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

// jitter is between half of d and d, so that writers that were refused together
// do not come back together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
