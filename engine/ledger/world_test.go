package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
)

const (
	testStream  = "PELTON_TASKS_default"
	testSubject = "pelton.ledger.default.kin.commands.3"
	testTask    = "pelton.task.default.print"
)

// world is a broker with a queue.
type world struct {
	t      *testing.T
	ctx    context.Context
	broker *enginetest.Broker
	js     jetstream.JetStream
	stream jetstream.Stream
}

func newWorld(t *testing.T, change ...func(*jetstream.StreamConfig)) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, broker: enginetest.Start(t)}
	w.js = w.connect()
	cfg := jetstream.StreamConfig{
		Name:               testStream,
		Subjects:           []string{"pelton.task.default.>", "pelton.ledger.default.>"},
		Retention:          jetstream.WorkQueuePolicy,
		Discard:            jetstream.DiscardNew,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Duplicates:         30 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.stream, err = w.js.CreateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) connect(opts ...nats.Option) jetstream.JetStream {
	w.t.Helper()
	return w.broker.JetStream(append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default prints
	}, opts...)...)
}

// ledger has a connection of its own, over the line if there is one.
func (w *world) ledger(over *line) *Ledger {
	w.t.Helper()
	cfg := Config{JetStream: w.js, Stream: testStream, Subject: testSubject, Timeout: 2 * time.Second}
	if over != nil {
		cfg.JetStream = w.connect(nats.SetCustomDialer(over))
	}
	l, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// tasks are numbered by their place in the writer's source.
func tasks(from, n int) []*nats.Msg {
	msgs := make([]*nats.Msg, n)
	for i := range msgs {
		msgs[i] = &nats.Msg{
			Subject: testTask,
			Header:  nats.Header{"Pelton-Origin": {"test:" + strconv.Itoa(from+i)}},
			Data:    strconv.AppendInt(nil, int64(from+i), 10),
		}
	}
	return msgs
}

func position(next int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"next":%d}`, next))
}

func nextOf(t *testing.T, e Entry) int {
	t.Helper()
	var p struct{ Next int }
	if e.Exists() {
		if err := json.Unmarshal(e.Position, &p); err != nil {
			t.Fatal(err)
		}
	}
	return p.Next
}

func (w *world) write(l *Ledger, fence uint64, from, n int) Entry {
	w.t.Helper()
	e, err := l.Write(w.ctx, fence, tasks(from, n), position(from+n))
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) info() *jetstream.StreamInfo {
	w.t.Helper()
	for {
		info, err := w.stream.Info(w.ctx, jetstream.WithSubjectFilter(">"))
		if err == nil {
			return info
		}
		if w.ctx.Err() != nil {
			w.t.Fatal(err)
		}
	}
}

// numbers are those of the tasks that are stored, in the stream's order.
func (w *world) numbers() []int {
	w.t.Helper()
	info := w.info()
	var found []int
	if info.State.Msgs == 0 {
		return nil
	}
	for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq; sequence++ {
		m, err := w.stream.GetMsg(w.ctx, sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if m.Subject != testTask {
			continue
		}
		n, err := strconv.Atoi(string(m.Data))
		if err != nil {
			w.t.Fatal(err)
		}
		found = append(found, n)
	}
	return found
}

// exact fails unless the tasks 0…n-1 are stored, each once and in order.
func (w *world) exact(n int) {
	w.t.Helper()
	want := make([]int, n)
	for i := range want {
		want[i] = i
	}
	if got := w.numbers(); !slices.Equal(got, want) {
		w.t.Errorf("stored tasks: %v, want 0 to %d, each once", got, n-1)
	}
}

// line is a way to the broker that can be cut at an exact byte.
type line struct {
	mu      sync.Mutex
	blocked bool
	trap    *trap
	conns   []*lineConn
}

// trap cuts the line before the bytes that hold a text are let through.
type trap struct {
	toServer bool
	text     []byte
	stay     bool // let no connection through afterwards, until restore
	sprung   chan struct{}
}

// cutAt sets a trap. The channel is closed when it has sprung.
func (l *line) cutAt(toServer bool, text string, stay bool) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trap = &trap{toServer: toServer, text: []byte(text), stay: stay, sprung: make(chan struct{})}
	return l.trap.sprung
}

func (l *line) restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocked = false
}

// Dial implements nats.CustomDialer.
func (l *line) Dial(network, address string) (net.Conn, error) {
	l.mu.Lock()
	blocked := l.blocked
	l.mu.Unlock()
	if blocked {
		return nil, errors.New("the line is cut")
	}
	conn, err := (&net.Dialer{}).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &lineConn{Conn: conn, line: l}
	l.conns = append(l.conns, c)
	return c, nil
}

// pass reports whether a chunk may go on its way. Before are the last bytes
// that went this way.
func (l *line) pass(toServer bool, before *[]byte, chunk []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trap == nil || l.trap.toServer != toServer {
		return true
	}
	seen := append(*before, chunk...)
	if !bytes.Contains(seen, l.trap.text) {
		*before = bytes.Clone(seen[max(0, len(seen)-len(l.trap.text)):])
		return true
	}
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns, l.blocked = nil, l.trap.stay
	close(l.trap.sprung)
	l.trap = nil
	return false
}

type lineConn struct {
	net.Conn
	line              *line
	sent, received    []byte
	sendMu, receiveMu sync.Mutex
}

func (c *lineConn) Write(b []byte) (int, error) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if !c.line.pass(true, &c.sent, b) {
		return 0, errors.New("the line was cut")
	}
	return c.Conn.Write(b)
}

func (c *lineConn) Read(b []byte) (int, error) {
	c.receiveMu.Lock()
	defer c.receiveMu.Unlock()
	n, err := c.Conn.Read(b)
	if n > 0 && !c.line.pass(false, &c.received, b[:n]) {
		return 0, errors.New("the line was cut")
	}
	return n, err
}
