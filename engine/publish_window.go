package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The window of publishes that wait for their PubAck: as many messages as the
// broker needs to be busy, and no more bytes than a program can spare.
const (
	windowMessages = 4096
	windowBytes    = 32 << 20
)

// windowTick is how often the window looks for publishes that were not answered
// in time, and for those that the broker's permissions forbid: it answers these
// with an error on the connection alone.
const windowTick = 100 * time.Millisecond

// landing is who waits for the answer to a publish. land is called once, on a
// goroutine of the client's, and must not block.
type landing interface {
	land(sequence uint64, err error)
}

// window publishes for all callers of a client over one stream of messages and
// hands each the answer to its own. It never waits for company: what callers
// publish while the connection is busy goes out together by itself.
type window struct {
	nc     *nats.Conn
	sub    *nats.Subscription
	prefix string // of the replies' subjects, a number follows
	room   room
	ended  chan struct{}
	group  sync.WaitGroup
	lost   chan nats.Status // tells when the connection is lost
	seen   error            // the connection's last error that watch has looked at

	mu     sync.Mutex
	last   uint64
	flying map[uint64]flight
	landed chan struct{} // closed when nothing flies any more
	closed bool
}

// flight is one publish under way.
type flight struct {
	to      landing
	subject string
	size    int
	until   time.Time
}

// errLost is a publish whose answer can no longer come.
var errLost = errors.New("connection lost before the answer came")

// errNoAnswer is a publish that was not answered in time.
var errNoAnswer = fmt.Errorf("no answer within %s", publishTimeout)

// newWindow makes a window that watch has still to be started for. What it looks
// for counts from here on: the answer to the first publish may be there before
// watch runs.
func newWindow(nc *nats.Conn) (*window, error) {
	w := &window{
		nc:     nc,
		prefix: nc.NewInbox() + ".",
		room:   room{messages: windowMessages, bytes: windowBytes},
		ended:  make(chan struct{}),
		flying: make(map[uint64]flight),
	}
	sub, err := nc.Subscribe(w.prefix+"*", w.answer)
	if err != nil {
		return nil, err
	}
	// Answers are bounded by the window; none may be dropped.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, errors.Join(err, sub.Unsubscribe())
	}
	w.sub = sub
	w.lost = nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	w.seen = nc.LastError()
	return w, nil
}

// window is made with the first publish: a client that only reads needs none.
func (c *Client) publisher() (*window, error) {
	c.windowMu.Lock()
	defer c.windowMu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.window == nil {
		w, err := newWindow(c.nc)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
		w.group.Go(w.watch)
		c.window = w
	}
	return c.window, nil
}

// send publishes one message as soon as the window has room. After an error
// nothing has left and land is not called. The message may be used again.
func (w *window) send(ctx context.Context, m *nats.Msg, to landing) (uint64, error) {
	size := len(m.Subject) + len(m.Data)
	if err := w.room.enter(ctx, size); err != nil {
		return 0, fmt.Errorf("%w: %w", errNotSent, err)
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		w.room.leave(size)
		return 0, ErrClosed
	}
	w.last++
	number := w.last
	w.flying[number] = flight{to, m.Subject, size, time.Now().Add(publishTimeout)}
	w.mu.Unlock()

	var reply [64]byte
	m.Reply = string(strconv.AppendUint(append(reply[:0], w.prefix...), number, 10))
	err := errNotSent
	if w.nc.Status() == nats.CONNECTED { // and shall not leave later, when its id is forgotten
		err = w.nc.PublishMsg(m)
	}
	if err == nil {
		return number, nil
	}
	if !w.forget(number) {
		return number, nil // it has landed: the connection was lost meanwhile
	}
	if errors.Is(err, nats.ErrReconnectBufExceeded) {
		err = errNotSent
	}
	return 0, err
}

// forget gives up a flight. It reports false when that has landed, or is about
// to.
func (w *window) forget(number uint64) bool {
	_, ok := w.take(number)
	return ok
}

func (w *window) take(number uint64) (flight, bool) {
	w.mu.Lock()
	f, ok := w.flying[number]
	delete(w.flying, number)
	w.tell()
	w.mu.Unlock()
	if ok {
		w.room.leave(f.size)
	}
	return f, ok
}

// tell wakes those that wait until nothing flies. The lock is held.
func (w *window) tell() {
	if len(w.flying) == 0 && w.landed != nil {
		close(w.landed)
		w.landed = nil
	}
}

// answer lands one flight.
func (w *window) answer(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[len(w.prefix):], 10, 64)
	if err != nil {
		return
	}
	f, ok := w.take(number)
	if !ok {
		return
	}
	sequence, err := readPubAck(m)
	f.to.land(sequence, err)
}

// watch lands what can have no answer any more, until the window or its
// connection is closed.
func (w *window) watch() {
	lost := w.lost
	defer w.nc.RemoveStatusListener(lost)
	tick := time.NewTicker(windowTick)
	defer tick.Stop()
	for {
		select {
		case <-w.ended:
			return
		case _, open := <-lost:
			if !open {
				lost = nil
			}
			w.fail(func(flight) error { return errLost })
		case now := <-tick.C:
			if w.nc.IsClosed() { // nothing is sent any more
				w.fail(func(flight) error { return errLost })
				return
			}
			refused := w.nc.LastError()
			if refused == w.seen { //nolint:errorlint // whether it is the same one, not alike
				refused = nil
			} else {
				w.seen = refused
			}
			w.fail(func(f flight) error {
				if now.After(f.until) {
					return errNoAnswer
				}
				return forbiddenAt(refused, f.subject)
			})
		}
	}
}

// fail lands the flights for which it is over, with the error that says why.
func (w *window) fail(over func(flight) error) {
	type failure struct {
		flight
		err error
	}
	var failed []failure
	w.mu.Lock()
	for number, f := range w.flying {
		if err := over(f); err != nil {
			delete(w.flying, number)
			failed = append(failed, failure{f, err})
		}
	}
	w.tell()
	w.mu.Unlock()
	for _, f := range failed {
		w.room.leave(f.size)
		f.to.land(0, f.err)
	}
}

// flush waits until nothing flies.
func (w *window) flush(ctx context.Context) error {
	w.mu.Lock()
	if len(w.flying) == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.landed == nil {
		w.landed = make(chan struct{})
	}
	landed := w.landed
	w.mu.Unlock()
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close fails what flies and takes nothing more.
func (w *window) close() {
	w.mu.Lock()
	was := w.closed
	w.closed = true
	w.mu.Unlock()
	if was {
		return
	}
	close(w.ended)
	w.group.Wait()
	_ = w.sub.Unsubscribe()
	w.fail(func(flight) error { return ErrClosed })
}

// readPubAck reads the answer to a publish.
func readPubAck(m *nats.Msg) (uint64, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return 0, nats.ErrNoResponders
	}
	return parsePubAck(m.Data)
}

var (
	ackHead = []byte(`{"stream":"`)
	ackSeq  = []byte(`","seq":`)
)

// parsePubAck reads `{"stream":"PELTON_TASKS_default","seq":12}`, the usual form
// without allocating, any other as JSON.
func parsePubAck(data []byte) (uint64, error) {
	if rest, ok := bytes.CutPrefix(data, ackHead); ok {
		name, number, ok := bytes.Cut(rest, ackSeq)
		if ok && plainName(name) {
			if sequence, ok := parseNumber(number); ok {
				return sequence, nil
			}
		}
	}
	var ack struct {
		Stream   string              `json:"stream"`
		Sequence uint64              `json:"seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(data, &ack); {
	case err != nil:
		return 0, fmt.Errorf("answer that is no PubAck: %w", err)
	case ack.Error != nil:
		return 0, ack.Error
	case ack.Stream == "" || ack.Sequence == 0:
		return 0, errors.New("answer that is no PubAck: it names no stream or no sequence")
	}
	return ack.Sequence, nil
}

// plainName reports whether a text means itself within JSON's quotes.
func plainName(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			return false
		}
	}
	return len(b) > 0
}

// parseNumber reads a sequence and the brace that ends the answer.
func parseNumber(b []byte) (n uint64, ok bool) {
	if len(b) < 2 || len(b) > 19 || b[0] == '0' || b[len(b)-1] != '}' {
		return 0, false
	}
	for _, c := range b[:len(b)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// room bounds what is under way, in messages and in bytes. Who waits longest
// enters first; a message larger than all the room enters alone.
type room struct {
	messages, bytes int // free

	mu      sync.Mutex
	waiting []*entrant
	inside  int
}

type entrant struct {
	size int
	in   chan struct{}
}

func (r *room) enter(ctx context.Context, size int) error {
	r.mu.Lock()
	if len(r.waiting) == 0 && r.fits(size) {
		r.admit(size)
		r.mu.Unlock()
		return nil
	}
	e := &entrant{size, make(chan struct{})}
	r.waiting = append(r.waiting, e)
	r.mu.Unlock()
	select {
	case <-e.in:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	for i, other := range r.waiting {
		if other == e {
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			r.wake() // the next may be smaller
			r.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	r.mu.Unlock()
	return nil // let in meanwhile
}

func (r *room) leave(size int) {
	r.mu.Lock()
	r.inside--
	r.messages++
	r.bytes += size
	r.wake()
	r.mu.Unlock()
}

func (r *room) fits(size int) bool {
	return r.messages > 0 && (r.bytes >= size || r.inside == 0)
}

func (r *room) admit(size int) {
	r.inside++
	r.messages--
	r.bytes -= size
}

func (r *room) wake() {
	for len(r.waiting) > 0 && r.fits(r.waiting[0].size) {
		r.admit(r.waiting[0].size)
		close(r.waiting[0].in)
		r.waiting = r.waiting[1:]
	}
}

// Bounds of the wait between two tries of what found no room.
const (
	firstRoomWait = 20 * time.Millisecond
	mostRoomWait  = time.Second
)

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
