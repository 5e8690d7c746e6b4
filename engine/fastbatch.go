package engine

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fast batch ingest, ADR-50, in its mode fail: what the broker has confirmed is
// the beginning of the batch without a gap, and the first message that it
// refuses ends the batch. It needs nats-server 2.14.
//
// What a message is to the batch stands in its reply subject,
// <inbox>.<batch>.<flow>.fail.<number>.<operation>.$FI, so it costs no header.
const (
	fastFlow    = 500             // messages between two confirmations, the broker's most
	fastAhead   = 2               // confirmations that may be outstanding
	fastSilence = 2 * time.Second // then the broker is asked whether the batch lives
	fastPatient = 8 * time.Second // the broker forgets a silent batch after 10 s
)

// Operations, as they end a reply subject.
const (
	fastStart  = ".0.$FI"
	fastAppend = ".1.$FI"
	fastLast   = ".2.$FI" // with a message
	fastEnd    = ".3.$FI" // without a message of its own
	fastPing   = ".4.$FI"
)

const (
	codeBatchDisabled = 10205
	codeBatchUnknown  = 10208
)

var (
	// errNoFast is a broker or a stream that takes no fast batches.
	errNoFast = errors.New("no fast batches here")
	// errOpenEnd is a batch of which nobody knows any more how far it came.
	errOpenEnd = errors.New("no answer to the end of the batch")
)

// fastBatch is one open batch, or one after the other. It belongs to one
// goroutine.
type fastBatch struct {
	nc      *nats.Conn
	inbox   string // the id follows
	id      string
	prefix  string // of the reply subjects; number and operation follow
	subject string // one of the stream's, for what is no message
	sub     *nats.Subscription
	answers chan *nats.Msg
	lost    chan nats.Status
	timer   *time.Timer

	sent   uint64 // messages
	acked  uint64 // how many of them the broker has confirmed
	pace   uint64 // messages between two confirmations; 0 until the broker says it
	free   uint64 // how many messages may be sent whatever is confirmed
	last   bool   // one has been sent that ends the batch
	broken bool   // it takes no more
	ended  bool   // the broker has said its last
	end    fastOutcome
}

// fastOutcome is how far a batch came.
type fastOutcome struct {
	stored   uint64 // messages, the first ones
	sequence uint64 // in the stream, of the last one stored; 0 if not known
	err      error  // why the others are not stored; errOpenEnd: they may be
	refused  uint64 // the message that err is about; 0 if it is about none
}

// refusedNext reports whether the batch ended because the broker said of the first
// message that is not stored that it does not take it.
func (o fastOutcome) refusedNext() bool {
	_, refused := errors.AsType[*jetstream.APIError](o.err)
	return refused && o.refused == o.stored+1
}

func openFastBatch(nc *nats.Conn) (*fastBatch, error) {
	b := &fastBatch{
		nc: nc, inbox: nc.NewInbox() + ".",
		// When a batch breaks, each message under way may be answered.
		answers: make(chan *nats.Msg, (fastAhead+1)*fastFlow),
	}
	// Not the connection's shared inbox: without interest the broker spares
	// itself the answers to what came too late.
	sub, err := nc.ChanSubscribe(b.inbox+">", b.answers)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	b.sub, b.timer = sub, time.NewTimer(time.Hour)
	b.lost = nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	b.next()
	return b, nil
}

// next begins a new batch, once the one before has ended.
func (b *fastBatch) next() {
	b.look()                // what is still said of the one before
	b.id = rand.Text()[:10] // among the open batches of one stream; it costs bytes with each message
	b.prefix = b.inbox + b.id + "." + strconv.Itoa(fastFlow) + ".fail."
	b.sent, b.acked, b.pace = 0, 0, 0
	b.last, b.broken, b.ended, b.end = false, false, false, fastOutcome{}
}

func (b *fastBatch) close() {
	b.timer.Stop()
	b.nc.RemoveStatusListener(b.lost)
	_ = b.sub.Unsubscribe()
}

// add publishes one more message, which may be used again at once, and waits
// where the broker is behind. It reports false when the batch takes no more;
// sent tells whether this message is part of it.
func (b *fastBatch) add(ctx context.Context, m *nats.Msg) bool {
	return b.send(ctx, m, fastAppend)
}

// addLast is an add that ends the batch; there is one before it.
func (b *fastBatch) addLast(ctx context.Context, m *nats.Msg) bool {
	b.last = b.send(ctx, m, fastLast)
	return b.last
}

func (b *fastBatch) send(ctx context.Context, m *nats.Msg, operation string) bool {
	b.look()
	if b.broken || b.nc.Status() != nats.CONNECTED {
		return false
	}
	if b.sent == 0 {
		operation = fastStart
		b.subject = m.Subject
	}
	m.Reply = b.reply(b.sent+1, operation)
	if err := b.nc.PublishMsg(m); err != nil {
		b.broken, b.end.err = true, err
		return false
	}
	b.sent++
	for !b.broken && b.sent >= b.free && (b.pace == 0 || b.sent >= b.acked+fastAhead*b.pace) {
		b.wait(ctx)
	}
	return !b.broken
}

// finish ends the batch and tells how far it came. It goes on after ctx, for a
// little: what is stored must be known.
func (b *fastBatch) finish(ctx context.Context) fastOutcome {
	if b.sent == 0 {
		return b.end
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fastPatient)
	defer cancel()
	b.look()
	for try := range 8 {
		if b.ended || try > 0 && pause(ctx, firstRoomWait<<try) != nil {
			break
		}
		// After a reconnect the broker may miss some messages. It sees that from
		// the number of the end, and then the batch ends before the gap.
		if connected(ctx, b.nc) != nil {
			break
		}
		if said := b.last && try == 0; !said && b.signal(b.sent+1, fastEnd) != nil {
			break
		}
		b.broken = false
		for !b.broken && !b.ended {
			b.wait(ctx)
		}
	}
	if !b.ended {
		b.end = fastOutcome{stored: b.acked, err: errOpenEnd}
	}
	return b.end
}

// reply is the reply subject of a message.
func (b *fastBatch) reply(number uint64, operation string) string {
	var buf [192]byte
	return string(append(strconv.AppendUint(append(buf[:0], b.prefix...), number, 10), operation...))
}

// signal publishes what is no message.
func (b *fastBatch) signal(number uint64, operation string) error {
	return b.nc.PublishMsg(&nats.Msg{Subject: b.subject, Reply: b.reply(number, operation)})
}

// look takes the answers that are there.
func (b *fastBatch) look() {
	for {
		select {
		case m := <-b.answers:
			b.take(m)
		case <-b.lost:
			b.broken = true
		default:
			return
		}
	}
}

// wait takes the next answer, or breaks the batch where none comes.
func (b *fastBatch) wait(ctx context.Context) {
	asked := false
	for {
		b.timer.Reset(fastSilence)
		select {
		case m := <-b.answers:
			b.take(m)
			return
		case <-b.lost:
			b.broken = true
			return
		case <-ctx.Done():
			b.broken = true
			return
		case <-b.timer.C:
			if asked || b.signal(b.sent, fastPing) != nil {
				b.broken = true
				return
			}
			asked = true
		}
	}
}

// take reads one answer.
func (b *fastBatch) take(m *nats.Msg) {
	if !strings.HasPrefix(m.Subject, b.prefix) {
		return // of the batch before
	}
	b.takeAnswer(readFastAnswer(m))
}

func (b *fastBatch) takeAnswer(a fastAnswer, err error) {
	if b.ended {
		return // what follows the end concerns messages that came too late
	}
	switch {
	case err != nil:
		b.broken = true
		b.reason(err)
	case a.kind == fastFlowAck:
		b.pace = max(a.pace, 1)
		b.acked = max(b.acked, min(a.number, b.sent))
	case a.kind == fastGap:
		b.broken = true
	case a.kind == fastRefusal && b.isOver(a.err):
		b.broken, b.ended = true, true
		b.end = fastOutcome{stored: b.acked, err: errOpenEnd}
	case a.kind == fastRefusal:
		b.broken = true
		if b.reason(a.err) {
			b.end.refused = a.number
		}
		// Without its first message there is no batch.
		b.ended = a.number == 1
	case a.batch != b.id:
		// A broker that knows no fast batches has stored the first message as it
		// stores any.
		b.broken, b.ended = true, true
		b.end = fastOutcome{stored: 1, sequence: a.sequence, err: errNoFast}
	default:
		b.broken, b.ended = true, true
		b.end.stored, b.end.sequence = min(a.number, b.sent), a.sequence
		if b.end.stored == b.sent {
			b.end.err = nil
		}
	}
}

// reason keeps the first one, and tells whether this is it.
func (b *fastBatch) reason(err error) bool {
	if b.end.err != nil {
		return false
	}
	b.end.err = err
	return true
}

// isOver reports whether the broker has forgotten the batch, or never had it,
// in which case it says why it does not take any.
func (b *fastBatch) isOver(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeBatchUnknown
}

// fastKind is a kind of answer.
type fastKind int

const (
	fastFlowAck fastKind = iota // so many are stored, and this is the pace
	fastGap                     // some got lost
	fastRefusal                 // one was refused
	fastPubAck                  // the end
)

// fastAnswer is an answer on a batch's inbox.
type fastAnswer struct {
	kind     fastKind
	number   uint64 // messages it covers; of a refusal the one refused
	pace     uint64
	batch    string
	sequence uint64
	err      error
}

func readFastAnswer(m *nats.Msg) (fastAnswer, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		// Nobody took this message. It may be a later one than the first, or the
		// end, while the stream has no leader.
		return fastAnswer{kind: fastRefusal, number: fastNumber(m.Subject), err: nats.ErrNoResponders}, nil
	}
	a, err := parseFastAnswer(m.Data)
	if a.kind == fastRefusal && err == nil {
		a.number = fastNumber(m.Subject)
	}
	return a, err
}

// fastNumber is the number of the message that an answer is to, by the subject
// it comes on; 0 if that cannot be read.
func fastNumber(subject string) uint64 {
	rest, ok := strings.CutSuffix(subject, ".$FI")
	if !ok || len(rest) < 2 {
		return 0
	}
	rest = rest[:len(rest)-2] // the operation
	n, err := strconv.ParseUint(rest[strings.LastIndexByte(rest, '.')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// parseFastAnswer reads the four kinds of answers. It is as strict as it can be
// without refusing what a later broker may add.
func parseFastAnswer(data []byte) (fastAnswer, error) {
	var a struct {
		Type     string              `json:"type"`
		Sequence uint64              `json:"seq"`
		Messages uint16              `json:"msgs"`
		Stream   string              `json:"stream"`
		Batch    string              `json:"batch"`
		Count    uint64              `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return fastAnswer{}, fmt.Errorf("answer to a batch: %w", err)
	}
	switch {
	case a.Type == "ack":
		return fastAnswer{kind: fastFlowAck, number: a.Sequence, pace: uint64(a.Messages)}, nil
	case a.Type == "gap":
		return fastAnswer{kind: fastGap}, nil
	case a.Type != "" && a.Type != "err":
		return fastAnswer{}, fmt.Errorf("answer to a batch: type %q is not known", a.Type)
	case a.Error != nil:
		return fastAnswer{kind: fastRefusal, err: a.Error}, nil //nolint:nilerr // reading it went well
	case a.Type == "err" || a.Stream == "" || a.Sequence == 0:
		return fastAnswer{}, errors.New("answer to a batch: it says nothing")
	}
	return fastAnswer{kind: fastPubAck, number: a.Count, batch: a.Batch, sequence: a.Sequence}, nil
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
