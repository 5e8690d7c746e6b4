package schedules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/jonboulle/clockwork"

	"pelton/engine"
	"pelton/engine/ledger"
)

// Status is an entry with what its ledger says.
type Status struct {
	Name   string      `json:"name"`
	Entry  Entry       `json:"entry"`
	Source Source      `json:"source"`
	Prose  string      `json:"when"`
	State  State       `json:"state"`
	Error  string      `json:"error,omitempty"` // why it is not run
	Paused bool        `json:"paused,omitempty"`
	Next   []time.Time `json:"next,omitempty"`

	Last    time.Time      `json:"last,omitzero"` // nominal time of the newest that was sent
	LastID  string         `json:"last_id,omitempty"`
	Outcome string         `json:"outcome,omitempty"` // state of its task; empty where nobody knows it any more
	Decided time.Time      `json:"decided,omitzero"`  // nothing up to here is due any more
	Counts  map[string]int `json:"counts,omitempty"`  // fired, and skipped by reason
	History []Span         `json:"history,omitempty"`
}

// State is whether an entry runs.
type State string

// The states of an entry.
const (
	StateOK      State = "ok"
	StatePaused  State = "paused"
	StateEnded   State = "ended"   // it is never due again
	StateNew     State = "new"     // no beat has seen it yet
	StateInvalid State = "invalid" // it is not run; its Error says why
	StateLate    State = "late"    // it was due a while ago: no beat runs, or the queue is full
)

// lateAfter is how long an entry may be due before it is called late.
const lateAfter = 15 * time.Second

// Look reads the ledger of an entry, and the record of its newest task. next is
// how many of its next times are told.
func Look(ctx context.Context, c *engine.Client, s Stored, source Source, now time.Time, next int) (Status, error) {
	out := Status{Name: s.Entry.Name, Entry: s.Entry, Source: source, State: StateOK, Paused: s.Entry.Paused}
	schedule, err := compile(s)
	if err == nil {
		err = checkQueue(ctx, c, s.Entry)
		if err != nil && !errors.Is(err, engine.ErrNoQueue) {
			return out, err
		}
	}
	if err != nil {
		return out.invalid(err), nil
	}
	out.Prose = s.Entry.Prose()
	l, err := ledgerFor(c, s.Entry.queue(), s.Entry.Name, "reader", slog.New(slog.DiscardHandler))
	if err != nil {
		return out, err
	}
	var at ledger.Entry
	if err := c.AskAPI(ctx, func(ctx context.Context) (err error) {
		at, err = l.Read(ctx)
		return err
	}); err != nil {
		return out, fmt.Errorf("entry %s: %w", s.Entry.Name, err)
	}
	p, err := readPosition(at)
	if err != nil {
		return out.invalid(err), nil
	}
	out.Decided, out.Last, out.Counts, out.History = p.Last, p.Fired, maps.Clone(p.Counts), p.Spans
	from := later(p.Last, now)
	for range next {
		at, ok := schedule.Next(from)
		if !ok {
			break
		}
		out.Next = append(out.Next, at)
		from = at
	}
	out.State = stateOf(s.Entry, schedule, at.Exists() && p.Closed == "", p, now)
	if !p.Fired.IsZero() {
		out.LastID = OccurrenceID(s.Entry.Name, p.Fired)
		r, err := c.Lookup(ctx, s.Entry.queue(), out.LastID)
		switch {
		case err == nil:
			out.Outcome = string(r.State)
		case !errors.Is(err, engine.ErrNotFound):
			return out, fmt.Errorf("entry %s: %w", s.Entry.Name, err)
		}
	}
	return out, nil
}

// invalid is the status of an entry that is not run.
func (s Status) invalid(why error) Status {
	s.State, s.Error = StateInvalid, why.Error()
	return s
}

func compile(s Stored) (*Schedule, error) {
	if s.Err != nil {
		return nil, s.Err
	}
	return s.Entry.Compile()
}

func stateOf(e Entry, schedule *Schedule, seen bool, p position, now time.Time) State {
	if e.Paused {
		return StatePaused
	}
	from := p.Last
	if !seen {
		from = now
	}
	due, ever := schedule.Next(from)
	switch {
	case !ever:
		return StateEnded
	case !seen:
		return StateNew
	case now.Sub(due) > lateAfter:
		return StateLate
	}
	return StateOK
}

// Begin makes the ledger of an entry that was just stored, from which moment on
// it is due, or tells it of the change; what was due while it was paused is
// noted as skipped. The moment is the broker's, however wrong the own clock is.
// The next beat does the same; a client that may not write the ledger leaves it
// to that.
func (s *Store) Begin(ctx context.Context, stored Stored) error {
	return s.begin(ctx, stored, clockwork.NewRealClock())
}

func (s *Store) begin(ctx context.Context, stored Stored, clock clockwork.Clock) error {
	b, err := NewBeat(s.c, Config{})
	if err != nil {
		return err
	}
	b.store, b.book.bucket, b.clock = s, s.kv.Bucket(), clock
	if err := b.readClock(ctx); err != nil {
		return err
	}
	if err := s.readMarks(ctx, stored.Entry.Name, &b.book.marks); err != nil {
		return err
	}
	d, err := newDefinition(stored.Entry, SourceKV, stored.Revision, s.Place(stored.Entry.Name))
	if err != nil {
		return err
	}
	slot := b.newSlot(d)
	if slot.keeper == nil {
		return errors.New(slot.told)
	}
	if broker := b.broker.Load(); broker != nil {
		slot.keeper.now = broker.now
	}
	return slot.keeper.adopt(ctx)
}

// readMarks reads the marks of one entry.
func (s *Store) readMarks(ctx context.Context, name string, into *marks) error {
	keys, err := s.kv.ListKeysFiltered(ctx, mark("*", name))
	if err != nil {
		return storeError("bucket "+s.kv.Bucket(), err)
	}
	for key := range keys.Keys() {
		if queue, _, ok := parseMark(key); ok {
			into.set(queue, name, true)
		}
	}
	return nil
}

// Queues are those in which an entry has had a ledger.
func (s *Store) Queues(ctx context.Context, name string) ([]string, error) {
	m := marks{queues: map[string][]string{}}
	err := s.readMarks(ctx, name, &m)
	return m.of(name), err
}

// Anew lets an entry begin anew whose ledger has gone: every beat forgets what
// it has known of it, and the first one makes a new ledger. An entry whose
// ledger is there goes on as it was.
func (s *Store) Anew(ctx context.Context, e Entry) error {
	return s.Forget(ctx, e.queue(), e.Name)
}

// Send sends the task of an entry once, now, and returns its id. The times of
// the entry stay as they are.
func Send(ctx context.Context, c *engine.Client, e Entry) (string, error) {
	if err := e.Validate(); err != nil {
		return "", err
	}
	var opts []engine.SendOption
	for name, value := range e.Header {
		opts = append(opts, engine.WithHeader(name, value))
	}
	if e.Expires > 0 {
		opts = append(opts, engine.WithExpiresIn(e.Expires))
	}
	r, err := c.SendRaw(ctx, e.queue(), e.Task, body(e), opts...)
	if err != nil {
		return "", fmt.Errorf("entry %s: %w", e.Name, err)
	}
	return r.ID(), nil
}
