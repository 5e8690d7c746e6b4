package schedules

import (
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// book is which entries there are, from both places, and which queues they have
// had a ledger in. It belongs to the loop of a beat, but for marks.
type book struct {
	own    map[string]Stored // of the process
	kv     map[string]Stored // of the bucket
	place  func(name string) string
	bucket string
	marks  marks
}

func newBook(place func(string) string) *book {
	return &book{own: map[string]Stored{}, kv: map[string]Stored{}, place: place, marks: marks{queues: map[string][]string{}}}
}

// note takes a change of the bucket and tells which entry it is about.
func (b *book) note(kv jetstream.KeyValueEntry) (name string, gone bool) {
	if queue, name, ok := parseMark(kv.Key()); ok {
		b.marks.set(queue, name, kv.Operation() == jetstream.KeyValuePut)
		return name, false
	}
	if kv.Operation() != jetstream.KeyValuePut {
		_, was := b.kv[kv.Key()]
		delete(b.kv, kv.Key())
		return kv.Key(), was
	}
	b.kv[kv.Key()] = decodeStored(kv)
	return kv.Key(), false
}

// names are those of all entries, in order.
func (b *book) names() []string {
	all := maps.Clone(b.own)
	maps.Copy(all, b.kv)
	return slices.Sorted(maps.Keys(all))
}

// find is what is defined under a name: nil where nothing is.
func (b *book) find(name string) (*definition, error) {
	own, isOwn := b.own[name]
	kv, isKV := b.kv[name]
	kvPlace := "bucket " + b.bucket + ", key " + name
	switch {
	case isOwn && isKV:
		return nil, fmt.Errorf("entry %s: %w, in %s and in %s: it must be in one; neither is run", name, ErrTwice, b.place(name), kvPlace)
	case isOwn:
		return define(own, SourceConfig, b.place(name))
	case isKV:
		return define(kv, SourceKV, kvPlace)
	}
	return nil, nil //nolint:nilnil // nothing is an answer here
}

func define(s Stored, source Source, place string) (*definition, error) {
	if s.Err != nil {
		return nil, fmt.Errorf("%s: %w", place, s.Err)
	}
	d, err := newDefinition(s.Entry, source, s.Revision, place)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	return d, nil
}
