package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := Config{JetStream: w.js, Stream: testStream, Subject: testSubject}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no JetStream":   {func(c *Config) { c.JetStream = nil }, "JetStream"},
		"no stream":      {func(c *Config) { c.Stream = "" }, `stream ""`},
		"stream":         {func(c *Config) { c.Stream = "a.b" }, `stream "a.b"`},
		"no subject":     {func(c *Config) { c.Subject = "" }, `subject ""`},
		"wildcard":       {func(c *Config) { c.Subject = "pelton.ledger.>" }, `subject "pelton.ledger.>"`},
		"empty token":    {func(c *Config) { c.Subject = "pelton..ledger" }, `subject "pelton..ledger"`},
		"timeout":        {func(c *Config) { c.Timeout = -time.Second }, "timeout must be above 0, got -1s"},
		"long instance":  {func(c *Config) { c.Instance = strings.Repeat("x", 257) }, "at most 256 bytes"},
		"subject spaces": {func(c *Config) { c.Subject = "pelton ledger" }, `subject "pelton ledger"`},
	} {
		cfg := good
		tc.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	l, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if l.Instance() == "" || l.Subject() != testSubject {
		t.Errorf("instance %q of subject %q", l.Instance(), l.Subject())
	}
}

func TestReadNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e, err := w.ledger(nil).Read(w.ctx)
	if err != nil || e.Exists() {
		t.Errorf("%+v, %v, want no entry", e, err)
	}
}

func TestReadUnreadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	for name, body := range map[string]string{
		"empty":         "",
		"not JSON":      "12:30",
		"no position":   `{"instance":"a"}`,
		"long position": `{"position":"` + strings.Repeat("x", MaxPosition) + `"}`,
		"long instance": `{"position":1,"instance":"` + strings.Repeat("x", maxInstance+1) + `"}`,
	} {
		ack, err := w.js.Publish(w.ctx, testSubject, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		e, err := l.Read(w.ctx)
		if !errors.Is(err, ErrUnreadable) || e.Sequence != ack.Sequence {
			t.Errorf("%s: %+v, %v, want ErrUnreadable of %d", name, e, err, ack.Sequence)
		}
	}
	// What cannot be read is in the way of a batch like any other entry.
	if _, err := l.Write(w.ctx, 0, nil, position(1)); !errors.Is(err, ErrFenced) {
		t.Errorf("write: %v, want ErrFenced", err)
	}
}

func TestReadAtWaitsForTheSequence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	first := w.write(l, 0, 0, 1)

	short, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := l.ReadAt(short, first.Sequence+1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadAt past the end: %v, want the deadline", err)
	}

	read := make(chan Entry)
	go func() {
		defer close(read)
		e, err := l.ReadAt(w.ctx, first.Sequence+2)
		if err != nil {
			t.Error(err)
		}
		read <- e
	}()
	second := w.write(l, first.Sequence, 1, 1)
	if e := <-read; e.Sequence != second.Sequence || nextOf(t, e) != 2 {
		t.Errorf("read %+v, want the second entry %+v", e, second)
	}
}

// A JetStream behind a prefix is asked there.
func TestReadAsksUnderThePrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tc := range map[string]struct {
		make func(*nats.Conn) (jetstream.JetStream, error)
		want string
	}{
		"plain":  {func(nc *nats.Conn) (jetstream.JetStream, error) { return jetstream.New(nc) }, "$JS.API.DIRECT.GET.S.x"},
		"domain": {func(nc *nats.Conn) (jetstream.JetStream, error) { return jetstream.NewWithDomain(nc, "leaf") }, "$JS.leaf.API.DIRECT.GET.S.x"},
		"prefix": {func(nc *nats.Conn) (jetstream.JetStream, error) { return jetstream.NewWithAPIPrefix(nc, "other.API") }, "other.API.DIRECT.GET.S.x"},
	} {
		js, err := tc.make(w.js.Conn())
		if err != nil {
			t.Fatal(err)
		}
		l, err := New(Config{JetStream: js, Stream: "S", Subject: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if l.direct != tc.want {
			t.Errorf("%s: asks %q, want %q", name, l.direct, tc.want)
		}
	}
}

func TestWriteStoresTasksAndEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)

	first := w.write(l, 0, 0, 3)
	if first.Sequence != 4 {
		t.Errorf("first entry has sequence %d, want 4", first.Sequence)
	}
	alone := w.write(l, first.Sequence, 3, 0)
	last := w.write(l, alone.Sequence, 3, MaxTasks)
	w.exact(3 + MaxTasks)

	read, err := l.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if read.Sequence != last.Sequence || nextOf(t, read) != 3+MaxTasks || read.Instance != l.Instance() || read.CRC != last.CRC || read.Time.IsZero() {
		t.Errorf("read %+v, want what was written: %+v", read, last)
	}
	m, err := w.stream.GetMsg(w.ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Pelton-Origin") != "test:1" || m.Header.Get(nats.MsgIdHdr) != "" {
		t.Errorf("headers of a task: %v", m.Header)
	}
}

func TestWriteLeavesTheTasksAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	batch := tasks(0, 2)
	batch[1].Header = nil
	if _, err := w.ledger(nil).Write(w.ctx, 0, batch, position(2)); err != nil {
		t.Fatal(err)
	}
	if len(batch[0].Header) != 1 || batch[1].Header != nil || batch[0].Reply != "" {
		t.Errorf("tasks after the write: %+v %+v", batch[0], batch[1])
	}
}

func TestWriteRefusesBeforeSending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	big := tasks(0, 3)
	big[1].Data = make([]byte, 1<<20)
	wide := tasks(0, 1)
	wide[0].Header.Set("Pelton-Flow", strings.Repeat("x", 1<<16))
	for name, tc := range map[string]struct {
		tasks    []*nats.Msg
		position json.RawMessage
		is       error
		want     string
	}{
		"too many":        {tasks(0, MaxTasks+1), position(1), ErrTooLarge, "1000 tasks, at most 999"},
		"long position":   {nil, json.RawMessage(`"` + strings.Repeat("x", MaxPosition) + `"`), ErrTooLarge, "position too large"},
		"position":        {nil, json.RawMessage(`{`), nil, "position must be JSON"},
		"no position":     {nil, nil, nil, "position must be JSON"},
		"large task":      {big, position(1), ErrTooLarge, "message 1 of the batch, " + testTask},
		"large headers":   {wide, position(1), ErrTooLarge, "headers of 65"},
		"broker's header": {[]*nats.Msg{{Subject: testTask, Header: nats.Header{"nats-rollup": {"all"}}}}, position(1), nil, `"nats-rollup"`},
		"second entry":    {[]*nats.Msg{{Subject: testSubject}}, position(1), nil, "must not be the ledger's own"},
		"bad subject":     {[]*nats.Msg{{Subject: "pelton task"}}, position(1), nats.ErrBadSubject, "invalid subject"},
	} {
		_, err := l.Write(w.ctx, 0, tc.tasks, tc.position)
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) || errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if state := w.info().State; state.Msgs != 0 {
		t.Errorf("%d messages are stored", state.Msgs)
	}
}

func TestStaleFenceIsRefusedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	zombie, owner := w.ledger(nil), w.ledger(nil)
	first := w.write(zombie, 0, 0, 2)
	second := w.write(owner, first.Sequence, 2, 2)

	_, err := zombie.Write(w.ctx, first.Sequence, tasks(2, 100), position(102))
	fenced, ok := errors.AsType[*FencedError](err)
	if !ok || !errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknown) {
		t.Fatalf("write with a stale fence: %v, want a FencedError", err)
	}
	if fenced.Fence != first.Sequence || fenced.Found.Sequence != second.Sequence || fenced.Found.Instance != owner.Instance() ||
		nextOf(t, fenced.Found) != 4 || fenced.Backwards() {
		t.Errorf("%+v, want the owner's entry %+v", fenced, second)
	}
	w.exact(4)
}

func TestLostLedgerIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	first := w.write(l, 0, 0, 2)
	if err := w.stream.Purge(w.ctx, jetstream.WithPurgeSubject(testSubject)); err != nil {
		t.Fatal(err)
	}
	_, err := l.Write(w.ctx, first.Sequence, tasks(2, 2), position(4))
	fenced, ok := errors.AsType[*FencedError](err)
	if !ok || !fenced.Backwards() || fenced.Found.Exists() {
		t.Errorf("write behind a removed entry: %v, want a FencedError that has found none", err)
	}
	w.exact(2)
}

// The same content under the same fence by another instance is not one's own.
func TestEqualContentOfAnotherIsForeign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(w.ledger(nil), 0, 0, 2)
	if _, err := w.ledger(nil).Write(w.ctx, 0, tasks(0, 2), position(2)); !errors.Is(err, ErrFenced) {
		t.Errorf("%v, want ErrFenced", err)
	}
	w.exact(2)
}

// Whoever has got ErrUnknown may also write the same again.
func TestEqualContentOfOneInstanceIsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.ledger(nil)
	first := w.write(l, 0, 0, 2)
	if again := w.write(l, 0, 0, 2); again.Sequence != first.Sequence {
		t.Errorf("written again: %+v, want %+v", again, first)
	}
	w.exact(2)
}

func TestFullQueueTakesNothing(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*jetstream.StreamConfig){
		"messages": func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
		"bytes":    func(c *jetstream.StreamConfig) { c.MaxBytes = 2000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, limit)
			l := w.ledger(nil)
			first := w.write(l, 0, 0, 5)
			before := w.info().State.Msgs
			_, err := l.Write(w.ctx, first.Sequence, tasks(5, 50), position(55))
			if !errors.Is(err, ErrFull) || errors.Is(err, ErrUnknown) {
				t.Errorf("%v, want ErrFull", err)
			}
			if after := w.info().State.Msgs; after != before {
				t.Errorf("%d messages, %d before", after, before)
			}
			w.write(l, first.Sequence, 5, 1) // a smaller one fits
			w.exact(6)
		})
	}
}

// A message in the middle that the stream does not take makes a batch
// incomplete; the reason must come out all the same.
func TestReasonOfARefusalInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	batch := tasks(0, 5)
	batch[2].Data = make([]byte, 2000)
	_, err := w.ledger(nil).Write(w.ctx, 0, batch, position(5))
	if err == nil || !strings.Contains(err.Error(), "message size exceeds maximum allowed") || errors.Is(err, ErrUnknown) {
		t.Errorf("%v, want the reason", err)
	}
	w.exact(0)
}

func TestStreamWithoutBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
	_, err := w.ledger(nil).Write(w.ctx, 0, tasks(0, 2), position(2))
	if err == nil || !strings.Contains(err.Error(), "atomic publish is disabled") {
		t.Errorf("%v, want the reason", err)
	}
}
