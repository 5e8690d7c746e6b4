package schedules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/wire"
)

// Store is the entries in the bucket PELTON_SCHEDULES: JSON under the name of
// each. Beats hear of a change within a second. It is safe for concurrent use.
//
// Beside the entries stand marks, under keys with dots: one for each ledger that
// an entry has had, so that a ledger that has gone is told from one that never
// was.
type Store struct {
	c  *engine.Client
	kv jetstream.KeyValue
}

// OpenStore binds the bucket. The error is [engine.ErrNotFound] where there is
// none.
func OpenStore(ctx context.Context, c *engine.Client) (*Store, error) {
	var kv jetstream.KeyValue
	bucket := c.Namespace().SchedulesBucket()
	err := c.AskAPI(ctx, func(ctx context.Context) (err error) {
		kv, err = c.JetStream().KeyValue(ctx, bucket)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound):
		return nil, fmt.Errorf("bucket %s: %w (pelton setup apply makes it)", bucket, engine.ErrNotFound)
	case err != nil:
		return nil, storeError(bucket, err)
	}
	return &Store{c: c, kv: kv}, nil
}

func storeError(what string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", what, engine.ErrUnreachable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Stored is an entry of the bucket.
type Stored struct {
	Entry Entry
	// Revision of its key; it grows with every change.
	Revision uint64
	// Err is why the value is no entry. Entry then has its name alone.
	Err error
}

// Place is where the entry stands, for errors.
func (s *Store) Place(name string) string { return "bucket " + s.kv.Bucket() + ", key " + name }

func decodeStored(kv jetstream.KeyValueEntry) Stored {
	e, err := ParseEntry(kv.Key(), kv.Value())
	return Stored{Entry: e, Revision: kv.Revision(), Err: err}
}

// Entry reads one. The error is [engine.ErrNotFound] where there is none; one
// that cannot be read has its Err set.
func (s *Store) Entry(ctx context.Context, name string) (Stored, error) {
	if err := wire.CheckRoute(name); err != nil {
		return Stored{}, entryNameError(name)
	}
	kv, err := s.kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Stored{}, fmt.Errorf("entry %s: %w", name, engine.ErrNotFound)
	}
	if err != nil {
		return Stored{}, storeError(s.Place(name), err)
	}
	return decodeStored(kv), nil
}

func entryNameError(name string) error {
	return &wire.NameError{Field: "entry", Value: name, Rule: wire.RuleRoute}
}

// Entries reads all of them, by name, those among them that are no entries.
func (s *Store) Entries(ctx context.Context) ([]Stored, error) {
	watcher, err := s.kv.WatchFiltered(ctx, []string{"*"}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, storeError("bucket "+s.kv.Bucket(), err)
	}
	defer func() { _ = watcher.Stop() }()
	var out []Stored
	for {
		select {
		case kv, more := <-watcher.Updates():
			if !more || kv == nil {
				slices.SortFunc(out, func(a, b Stored) int { return strings.Compare(a.Entry.Name, b.Entry.Name) })
				return out, nil
			}
			out = append(out, decodeStored(kv))
		case <-ctx.Done():
			return nil, storeError("bucket "+s.kv.Bucket(), context.Cause(ctx))
		}
	}
}

// Put checks an entry and stores it. With create an entry that is there already
// is [engine.ErrExists]. The queue must exist. A ledger is made for the entry, or
// told of the change, where this client may write it; otherwise the next beat
// does that.
func (s *Store) Put(ctx context.Context, e Entry, create bool) (Stored, error) {
	if err := e.Validate(); err != nil {
		return Stored{}, err
	}
	if err := checkQueue(ctx, s.c, e); err != nil {
		return Stored{}, err
	}
	value, err := json.Marshal(e)
	if err != nil {
		return Stored{}, err
	}
	var revision uint64
	err = s.c.AskAPI(ctx, func(ctx context.Context) (err error) {
		if create {
			revision, err = s.kv.Create(ctx, e.Name, value)
		} else {
			revision, err = s.kv.Put(ctx, e.Name, value)
		}
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrKeyExists):
		return Stored{}, fmt.Errorf("entry %s: stands in %s already: %w", e.Name, s.Place(e.Name), engine.ErrExists)
	case err != nil:
		return Stored{}, storeError(s.Place(e.Name), err)
	}
	return Stored{Entry: e, Revision: revision}, nil
}

// checkQueue refuses an entry whose queue does not exist: its occurrences could
// be stored nowhere.
func checkQueue(ctx context.Context, c *engine.Client, e Entry) error {
	stream := c.Namespace().TaskStream(wire.PlainLane(e.queue()))
	err := c.AskAPI(ctx, func(ctx context.Context) error {
		_, err := c.JetStream().Stream(ctx, stream)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("entry %s: queue %q: %w (pelton setup apply --queues %s makes it)", e.Name, e.queue(), engine.ErrNoQueue, e.queue())
	case err != nil:
		return storeError("stream "+stream, err)
	}
	return nil
}

// Remove takes an entry away. The error is [engine.ErrNotFound] where there is
// none. What it has sent stays. Beats hear of it and close its ledger.
func (s *Store) Remove(ctx context.Context, name string) error {
	if _, err := s.Entry(ctx, name); err != nil {
		return err
	}
	if err := s.kv.Delete(ctx, name); err != nil {
		return storeError(s.Place(name), err)
	}
	return nil
}

// End closes the ledgers of an entry that was removed, as beats do when they
// hear of it: where none runs, the entry would otherwise make up for the time in
// which it was not there, if it came back. revision is that of the entry before.
func (s *Store) End(ctx context.Context, name string, revision uint64) error {
	queues, err := s.Queues(ctx, name)
	if err != nil {
		return err
	}
	k := &keeper{c: s.c, def: &definition{entry: Entry{Name: name}, source: SourceKV}, log: slog.New(slog.DiscardHandler)}
	for _, queue := range queues {
		_, err := closeLedger(ctx, k, queue, closedRemoved, revision+1)
		if err != nil && !errors.Is(err, ErrOlder) {
			return fmt.Errorf("entry %s: %w", name, err)
		}
	}
	return nil
}

// Pause stops an entry, or lets it go on. What is due meanwhile is skipped.
func (s *Store) Pause(ctx context.Context, name string, paused bool) (Stored, error) {
	for {
		found, err := s.Entry(ctx, name)
		if err == nil {
			err = found.Err
		}
		if err != nil || found.Entry.Paused == paused {
			return found, err
		}
		found.Entry.Paused = paused
		value, err := json.Marshal(found.Entry)
		if err != nil {
			return Stored{}, err
		}
		found.Revision, err = s.kv.Update(ctx, name, value, found.Revision)
		if errors.Is(err, jetstream.ErrKeyExists) || wrongRevision(err) {
			continue // somebody has changed it meanwhile
		}
		if err != nil {
			return Stored{}, storeError(s.Place(name), err)
		}
		return found, nil
	}
}

func wrongRevision(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// mark is the key that says that an entry has had a ledger in a queue.
func mark(queue, name string) string { return "ledger." + queue + "." + name }

// parseMark reads such a key.
func parseMark(key string) (queue, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, "ledger.")
	queue, name, found := strings.Cut(rest, ".")
	return queue, name, ok && found
}

// setMark notes that an entry has a ledger in a queue.
func (s *Store) setMark(ctx context.Context, queue, name string) error {
	_, err := s.kv.Put(ctx, mark(queue, name), []byte(time.Now().UTC().Format(`"`+time.RFC3339+`"`)))
	if err != nil {
		return storeError("bucket "+s.kv.Bucket()+", key "+mark(queue, name), err)
	}
	return nil
}

// Forget removes the mark of an entry's ledger that has gone, so that the entry
// begins anew with the next beat: an operator's answer to an entry that is
// stopped for it. Occurrences of before that are not made up for.
func (s *Store) Forget(ctx context.Context, queue, name string) error {
	if err := s.kv.Delete(ctx, mark(queue, name)); err != nil {
		return storeError("bucket "+s.kv.Bucket()+", key "+mark(queue, name), err)
	}
	return nil
}
