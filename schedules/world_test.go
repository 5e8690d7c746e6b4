package schedules

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// world is a broker with the queues default and mail, a client and the bucket.
type world struct {
	*testing.T
	broker *enginetest.Broker
	c      *engine.Client
	store  *Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, broker: enginetest.Start(t)}
	w.broker.Setup("default", "mail")
	w.c = w.client()
	store, err := OpenStore(t.Context(), w.c)
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	return w
}

func (w *world) client() *engine.Client {
	w.Helper()
	c, err := engine.NewClient(w.broker.Conn())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	return c
}

// skewed is the real clock, set wrong.
type skewed struct {
	clockwork.Clock
	by time.Duration
}

func (s skewed) Now() time.Time { return s.Clock.Now().Add(s.by) }

// running is a beat that runs.
type running struct {
	*Beat
	heard   chan Occurrence
	log     *logged
	stop    context.CancelFunc
	stopped chan error
}

// run starts a beat with a client of its own. It ends with the test.
func (w *world) run(cfg Config, change ...func(*Beat)) *running {
	w.Helper()
	r := &running{heard: make(chan Occurrence, 100_000), log: newLogged(), stopped: make(chan error, 1)}
	cfg.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	cfg.OnOccurrence = func(o Occurrence) { r.heard <- o }
	b, err := NewBeat(w.client(), cfg)
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range change {
		f(b)
	}
	r.Beat = b
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	r.stop = cancel
	go func() { r.stopped <- b.Run(ctx) }()
	w.Cleanup(func() { r.end(w.T) })
	return r
}

// end stops a beat and waits for it.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err, open := <-r.stopped; open {
		close(r.stopped)
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

func withClock(c clockwork.Clock) func(*Beat) { return func(b *Beat) { b.clock = c } }

// next is what the beat decides next.
func (r *running) next(t *testing.T) Occurrence {
	t.Helper()
	select {
	case o := <-r.heard:
		return o
	case <-time.After(patience):
		t.Fatalf("nothing was decided in %s; log:\n%s", patience, r.log)
		return Occurrence{}
	}
}

const patience = time.Minute

// insist asks again what the broker may not have heard: it may just have been
// started anew.
func (w *world) insist(ask func(context.Context) error) {
	w.Helper()
	for deadline := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		err := ask(ctx)
		cancel()
		if err == nil {
			return
		}
		if w.Context().Err() != nil || time.Now().After(deadline) {
			w.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (w *world) put(e Entry) Stored {
	w.Helper()
	s, err := w.store.Put(w.Context(), e, false)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// sent are the tasks in the stream of a queue, counted by their ids.
func (w *world) sent(queue string) map[string]int {
	w.Helper()
	out := map[string]int{}
	ns := w.c.Namespace()
	var stream jetstream.Stream
	w.insist(func(ctx context.Context) (err error) {
		stream, err = w.c.JetStream().Stream(ctx, ns.TaskStream(wire.PlainLane(queue)))
		return err
	})
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		var m *jetstream.RawStreamMsg
		w.insist(func(ctx context.Context) (err error) {
			if m, err = stream.GetMsg(ctx, seq); errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			return err
		})
		if m == nil {
			continue
		}
		if a, err := ns.ParseTask(m.Subject); err == nil {
			out[a.ID]++
		}
	}
	return out
}

// message reads a task by its id.
func (w *world) message(queue, task, id string) *jetstream.RawStreamMsg {
	w.Helper()
	lane := wire.PlainLane(queue)
	var m *jetstream.RawStreamMsg
	w.insist(func(ctx context.Context) error {
		stream, err := w.c.JetStream().Stream(ctx, w.c.Namespace().TaskStream(lane))
		if err == nil {
			m, err = stream.GetLastMsgForSubject(ctx, w.c.Namespace().TaskSubject(wire.Address{Lane: lane, Task: task, ID: id}))
		}
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			w.Fatalf("task %s: %v", id, err)
		}
		return err
	})
	return m
}

// position is what an entry's ledger says.
func (w *world) position(queue, name string) position {
	w.Helper()
	l, err := ledgerFor(w.c, queue, name, "test", nil)
	if err != nil {
		w.Fatal(err)
	}
	at, err := l.Read(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	p, err := readPosition(at)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// seed makes the ledger of an entry as if it had been decided up to a time.
func (w *world) seed(s Stored, last time.Time) {
	w.Helper()
	d, err := newDefinition(s.Entry, SourceKV, s.Revision, "test")
	if err != nil {
		w.Fatal(err)
	}
	l, err := ledgerFor(w.c, s.Entry.queue(), s.Entry.Name, "test", nil)
	if err != nil {
		w.Fatal(err)
	}
	p := position{Last: last, Source: SourceKV, Generation: s.Revision, Definition: d.digest, Times: d.times, Zones: ZoneVersion()}
	body, err := p.encode()
	if err != nil {
		w.Fatal(err)
	}
	at, err := l.Read(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if _, err := l.Write(w.Context(), at.Sequence, nil, body); err != nil {
		w.Fatal(err)
	}
}

// whole checks that each occurrence of an entry from the first that was sent to
// the last that is decided was sent once, or is in the ledger as skipped.
func (w *world) whole(name, queue string, every time.Duration) (fired, skipped int) {
	w.Helper()
	p := w.position(queue, name)
	out := map[time.Time]bool{}
	for _, s := range p.Spans {
		if s.Outcome == Fired {
			continue
		}
		for at := s.From; !at.After(s.To); at = at.Add(every) {
			out[at.UTC()] = true
		}
	}
	var first time.Time
	times := map[time.Time]int{}
	for id, n := range w.sent(queue) {
		entry, unix := cutLast(id)
		if entry != name {
			continue
		}
		at := time.Unix(unix, 0).UTC()
		times[at] = n
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if first.IsZero() {
		w.Fatalf("entry %s: nothing was sent", name)
	}
	for at := first; !at.After(p.Last); at = at.Add(every) {
		n := times[at]
		switch {
		case out[at] && n > 0:
			w.Errorf("%s at %s: skipped and sent %d times", name, at, n)
		case out[at]:
			skipped++
		case n != 1:
			w.Errorf("%s at %s: sent %d times", name, at, n)
		default:
			fired++
		}
		delete(times, at)
	}
	if len(times) > 0 {
		w.Errorf("%s: sent beyond the ledger: %v", name, slices.Collect(maps.Keys(times)))
	}
	return fired, skipped
}

func cutLast(id string) (entry string, unix int64) {
	cut := strings.LastIndexByte(id, '-')
	if cut < 0 {
		return id, 0
	}
	for _, c := range id[cut+1:] {
		unix = unix*10 + int64(c-'0')
	}
	return id[:cut], unix
}

// logged is a log that can be waited on.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newLogged() *logged { return &logged{more: make(chan struct{}, 1)} }

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// has waits for a line that holds all the words.
func (l *logged) has(t *testing.T, words ...string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		for line := range strings.Lines(l.String()) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return
			}
		}
		select {
		case <-l.more:
		case <-deadline:
			t.Fatalf("no line with %q in:\n%s", words, l)
		}
	}
}

func printEvery(name string, d time.Duration) Entry {
	return Entry{Name: name, Every: d, Task: "print", Overlap: OverlapQueue}
}

// decided waits until an entry's ledger has come so far.
func (w *world) decided(queue, name string, ok func(position) bool) position {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		p := w.position(queue, name)
		if ok(p) {
			return p
		}
		if time.Now().After(deadline) {
			w.Fatalf("entry %s: the ledger stays at %+v", name, p)
		}
		<-time.After(20 * time.Millisecond)
	}
}
