package schedules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"pelton/engine"
	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// Why an entry stops while the others go on.
var (
	// ErrLedgerGone: an entry that has had a ledger has none any more, or an older
	// one. What it has sent since is not known, so going on would be a guess.
	ErrLedgerGone = errors.New("the ledger has gone or gone backwards")
	// ErrOlder: somebody has put a newer definition in force, or newer zone data.
	ErrOlder = errors.New("another beat knows a newer definition")
	// ErrTwice: two places define an entry of one name.
	ErrTwice = errors.New("is defined twice")
)

// definition is an entry as somebody has defined it, ready to be asked.
type definition struct {
	entry    Entry
	schedule *Schedule
	source   Source
	revision uint64 // of its key in the bucket
	place    string
	digest   string
	times    string
}

func newDefinition(e Entry, source Source, revision uint64, place string) (*definition, error) {
	schedule, err := e.Compile()
	if err != nil {
		return nil, err
	}
	return &definition{
		entry: e, schedule: schedule, source: source, revision: revision, place: place,
		digest: digest(e), times: timesOf(e),
	}, nil
}

// timesOf is what the times of an entry follow from, and its queue does not.
func timesOf(e Entry) string {
	return digest([]any{e.Every, e.Cron, e.At, e.Zone, e.Start, e.End})
}

// keeper keeps the ledger of one entry in one queue. It is for one caller at a
// time.
type keeper struct {
	c      *engine.Client
	def    *definition
	ledger *ledger.Ledger
	now    func() time.Time
	log    *slog.Logger
	// others are the queues in which the entry has had a ledger, as the marks say.
	others func() []string
	pace   func() float64 // of the beat, for yieldFor
	marked func() bool    // whether this queue is one of them
	mark   func(ctx context.Context) error
	// instance names this process in the ledgers.
	instance string
	commit   func(ctx context.Context, p ledger.Part, alone bool) (ledger.Entry, error)

	at      ledger.Entry // the newest that is known
	pos     position     // what it says
	inForce uint64       // the generation that this definition was put in force with
}

// ledgerFor makes the ledger of an entry in a queue.
func ledgerFor(c *engine.Client, queue, name, instance string, log *slog.Logger) (*ledger.Ledger, error) {
	lane := wire.PlainLane(queue)
	return ledger.New(ledger.Config{
		JetStream: c.JetStream(),
		Stream:    c.Namespace().TaskStream(lane),
		Subject:   c.Namespace().LedgerSubject(lane, "beat", name),
		Instance:  instance,
		Logger:    log,
	})
}

// take keeps an entry of the ledger as the newest.
func (k *keeper) take(at ledger.Entry) error {
	pos, err := readPosition(at)
	if err != nil {
		return fmt.Errorf("entry %s: ledger %s: %w", k.def.entry.Name, k.ledger.Subject(), err)
	}
	k.at, k.pos = at, pos
	return nil
}

// read reads the ledger. One that this keeper, or anybody who left a mark, has
// seen must be there.
func (k *keeper) read(ctx context.Context) error {
	at, err := k.ledger.Read(ctx)
	if err != nil {
		return fmt.Errorf("entry %s: %w", k.def.entry.Name, err)
	}
	if at.Sequence < k.at.Sequence {
		// A replica may lag; what has been seen comes back, or has gone.
		waiting, cancel := context.WithTimeout(ctx, lagMost)
		defer cancel()
		seen, err := k.ledger.ReadAt(waiting, k.at.Sequence)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			return k.gone(at)
		}
		at = seen
	}
	if !at.Exists() && k.marked() {
		return k.gone(at)
	}
	return k.take(at)
}

// lagMost is how long a replica may lag behind what has been seen.
const lagMost = 5 * time.Second

func (k *keeper) gone(found ledger.Entry) error {
	return fmt.Errorf("entry %s: %w: ledger %s: sequence %d after %d; pelton schedule resume %s --anew lets it begin anew",
		k.def.entry.Name, ErrLedgerGone, k.ledger.Subject(), found.Sequence, k.at.Sequence, k.def.entry.Name)
}

// adopt puts the definition in force: the ledger says so before anything is sent
// by it. Where the entry has lived in another queue, the ledger there is closed
// first. Without an error the ledger is open and of this definition.
func (k *keeper) adopt(ctx context.Context) error {
	if err := k.read(ctx); err != nil {
		return err
	}
	for {
		done, err := k.checkForce()
		if done || err != nil {
			if err == nil {
				err = k.ensureMark(ctx)
			}
			return err
		}
		last, err := k.closeOthers(ctx)
		if err != nil {
			return err
		}
		if !k.at.Exists() {
			// The mark comes right after: a ledger without one has sent nothing yet,
			// so that nothing is lost with it.
			last = later(last, k.seedAt(last))
		}
		next := k.adopted(last)
		if err := k.write(ctx, next); err != nil && !errors.Is(err, ledger.ErrFenced) {
			return err
		}
	}
}

// seedAt is from when on a new entry fires: now, or, where it comes from another
// queue, from where it was there.
func (k *keeper) seedAt(moved time.Time) time.Time {
	if !moved.IsZero() {
		return moved
	}
	return k.now().UTC()
}

func (k *keeper) ensureMark(ctx context.Context) error {
	if k.marked() {
		return nil
	}
	return k.mark(ctx)
}

// checkForce reports whether the definition is in force already, or may not be
// put in force.
func (k *keeper) checkForce() (done bool, err error) {
	p, d := k.pos, k.def
	if !k.at.Exists() {
		return false, nil
	}
	if newerZones(p.Zones, ZoneVersion()) {
		return false, fmt.Errorf("entry %s: %w: it goes by the time zone data %s, this program has %s", d.entry.Name, ErrOlder, p.Zones, ZoneVersion())
	}
	same := p.Source == d.source && p.Definition == d.digest && p.Closed == "" && p.Zones == ZoneVersion()
	if d.source == SourceKV {
		switch {
		case p.Source == SourceKV && p.Generation > d.revision:
			return false, fmt.Errorf("entry %s: %w: revision %d, this is %d", d.entry.Name, ErrOlder, p.Generation, d.revision)
		case same && p.Generation == d.revision:
			k.inForce = p.Generation
			return true, nil
		}
		return false, nil
	}
	switch {
	case same:
		k.inForce = p.Generation
		return true, nil
	case k.inForce != 0 && p.Source == SourceConfig && p.Generation > k.inForce:
		return false, fmt.Errorf("entry %s: %w: generation %d, this is %d; start this process again with it", d.entry.Name, ErrOlder, p.Generation, k.inForce)
	case k.inForce != 0 && p.Source == SourceKV && p.Closed == "":
		return false, fmt.Errorf("entry %s: %w: it is an entry of the bucket now", d.entry.Name, ErrOlder)
	}
	return false, nil
}

// newerZones compares versions of zone data, 2025b; an unknown one is never
// newer.
func newerZones(there, here string) bool { return there != "" && here != "" && there > here }

// adopted is the position that puts the definition in force.
func (k *keeper) adopted(last time.Time) position {
	p, d := k.pos.clone(), k.def
	p.Last = later(p.Last, last)
	switch {
	case p.Closed == closedRemoved:
		p.Last = later(p.Last, k.now().UTC()) // it was not there meanwhile
	case p.Closed == closedMoved && last.Before(k.pos.Last):
		// It went to another queue, and from there it was removed: up to when it was
		// sent there, nobody tells.
		p.changeTimes(k.now().UTC())
	case p.Times != "" && p.Times != d.times:
		p.changeTimes(k.now().UTC())
	case p.Paused && !d.entry.Paused:
		p.skipPaused(d.schedule, k.now())
	}
	if d.source == SourceKV {
		p.Generation = d.revision
	} else {
		if p.Source != SourceConfig {
			p.Generation = 0
		}
		p.Generation++
	}
	p.Source, p.Definition, p.Times, p.Closed, p.Zones = d.source, d.digest, d.times, "", ZoneVersion()
	p.Paused = d.entry.Paused
	return p
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// write writes a position without tasks and keeps it. Where somebody was
// faster, theirs is kept and the error is ledger.ErrFenced.
func (k *keeper) write(ctx context.Context, p position) error {
	body, err := p.encode()
	if err != nil {
		return err
	}
	at, err := k.commit(ctx, ledger.Part{Ledger: k.ledger, Fence: k.at.Sequence, Position: body}, false)
	return k.settle(ctx, at, err)
}

// settle takes what a write has come to.
func (k *keeper) settle(ctx context.Context, at ledger.Entry, err error) error {
	fenced, ok := errors.AsType[*ledger.FencedError](err)
	switch {
	case err == nil:
		return k.take(at)
	case ok && fenced.Backwards():
		return k.gone(fenced.Found)
	case errors.Is(err, errTogether):
		if readErr := k.read(ctx); readErr != nil {
			return readErr
		}
		return err
	case ok:
		seen, readErr := k.ledger.ReadAt(ctx, fenced.Found.Sequence)
		if readErr == nil {
			readErr = k.take(seen)
		}
		if readErr != nil {
			return readErr
		}
		return fmt.Errorf("entry %s: %w", k.def.entry.Name, err)
	}
	return fmt.Errorf("entry %s: %w", k.def.entry.Name, err)
}

// closeOthers closes the ledgers that the entry has in other queues, and tells
// up to where the newest of them has come; the zero time where there is none, or
// where the entry was removed from there: then it comes from nowhere.
func (k *keeper) closeOthers(ctx context.Context) (time.Time, error) {
	var newest position
	for _, queue := range k.others() {
		p, err := closeLedger(ctx, k, queue, closedMoved, k.def.revision)
		if err != nil {
			return time.Time{}, err
		}
		if p.Last.After(newest.Last) || p.Last.Equal(newest.Last) && p.Closed == closedRemoved {
			newest = p
		}
	}
	if newest.Closed != closedMoved {
		return time.Time{}, nil
	}
	return newest.Last, nil
}

// closeLedger closes the entry's ledger in a queue, so that nobody who still
// goes by an older definition writes there. A queue that is not there any more
// has no ledger.
func closeLedger(ctx context.Context, k *keeper, queue, why string, revision uint64) (position, error) {
	log, err := ledgerFor(k.c, queue, k.def.entry.Name, k.instance, k.log)
	if err != nil {
		return position{}, err
	}
	if err := checkQueue(ctx, k.c, Entry{Name: k.def.entry.Name, Queue: queue}); err != nil {
		if errors.Is(err, engine.ErrNoQueue) {
			return position{}, nil
		}
		return position{}, err
	}
	for {
		at, err := log.Read(ctx)
		if err != nil {
			return position{}, err
		}
		p, err := readPosition(at)
		if err != nil || !at.Exists() || p.Closed != "" {
			return p, err
		}
		if p.Source == SourceKV && k.def.source == SourceKV && p.Generation > revision {
			return p, fmt.Errorf("entry %s: %w: revision %d in queue %s, this is %d", k.def.entry.Name, ErrOlder, p.Generation, queue, revision)
		}
		p.Closed = why
		p.Generation++ // who goes by the one before is told by it
		if k.def.source == SourceKV {
			p.Source, p.Generation = SourceKV, revision
		}
		body, err := p.encode()
		if err != nil {
			return p, err
		}
		if _, err = log.Write(ctx, at.Sequence, nil, body); !errors.Is(err, ledger.ErrFenced) {
			return p, err
		}
	}
}

// without is a list without one of its names.
func without(list []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == name })
}
