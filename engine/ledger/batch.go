package ledger

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of an atomic batch (ADR-50), and of the expectation that fences it.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
	headerExpected      = "Nats-Expected-Last-Subject-Sequence"
)

// maxHeader is what the server stores of a message's headers.
const maxHeader = 1<<16 - 1

// batch is tasks and their entry, ready to be sent any number of times.
type batch struct {
	msgs    []*nats.Msg // the entry is the last
	fence   uint64
	crc     uint32
	largest int // index of the largest message
	size    int // of that, headers and body
}

// newBatch copies the headers of the tasks and shares their bodies.
func (l *Ledger) newBatch(fence uint64, tasks []*nats.Msg, position json.RawMessage) (*batch, error) {
	switch {
	case len(tasks) > MaxTasks:
		return nil, fmt.Errorf("ledger %s: batch %w: %d tasks, at most %d", l.subject, ErrTooLarge, len(tasks), MaxTasks)
	case len(position) > MaxPosition:
		return nil, fmt.Errorf("ledger %s: position %w: %d bytes, at most %d", l.subject, ErrTooLarge, len(position), MaxPosition)
	case !json.Valid(position):
		return nil, fmt.Errorf("ledger %s: position must be JSON, got %q", l.subject, position)
	}
	b := &batch{msgs: make([]*nats.Msg, 0, len(tasks)+1), fence: fence, crc: checksum(fence, tasks, position)}
	for i, task := range tasks {
		if err := l.checkTask(task); err != nil {
			return nil, fmt.Errorf("ledger %s: task %d of the batch: %w", l.subject, i, err)
		}
		b.add(task.Subject, task.Header, task.Data)
	}
	body, err := json.Marshal(entryBody{position, l.instance, b.crc})
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", l.subject, err)
	}
	b.add(l.subject, nil, body)
	entry := b.msgs[len(b.msgs)-1]
	entry.Header[headerBatchCommit] = []string{"1"}
	if !l.unfenced {
		entry.Header[headerExpected] = []string{strconv.FormatUint(fence, 10)}
	}
	return b, nil
}

// checkTask refuses what would change the meaning of a batch: instructions to
// the broker, and an entry before the entry.
func (l *Ledger) checkTask(task *nats.Msg) error {
	if task.Subject == l.subject {
		return fmt.Errorf("subject %q: must not be the ledger's own", task.Subject)
	}
	for name := range task.Header {
		if len(name) >= 5 && strings.EqualFold(name[:5], "Nats-") {
			return fmt.Errorf("header %q: must not be one of the broker's", name)
		}
	}
	return nil
}

func (b *batch) add(subject string, header nats.Header, data []byte) {
	m := &nats.Msg{Subject: subject, Header: make(nats.Header, len(header)+4), Data: data}
	maps.Copy(m.Header, header)
	m.Header[headerBatchSequence] = []string{strconv.Itoa(len(b.msgs) + 1)}
	m.Header[headerBatchID] = []string{rand.Text()} // for its size; each try has its own
	if size := m.Size() - len(subject); size > b.size {
		b.largest, b.size = len(b.msgs), size
	}
	b.msgs = append(b.msgs, m)
}

// checkSize reports a message that the broker would not take.
func (b *batch) checkSize(maxPayload int64) error {
	m := b.msgs[b.largest]
	if maxPayload > 0 && int64(b.size) > maxPayload {
		return fmt.Errorf("message %d of the batch, %s: %w: %d bytes with its headers, the broker takes %d",
			b.largest, m.Subject, ErrTooLarge, b.size, maxPayload)
	}
	for i, m := range b.msgs {
		if header := m.Size() - len(m.Subject) - len(m.Data); header > maxHeader {
			return fmt.Errorf("message %d of the batch, %s: %w: headers of %d bytes, the broker takes %d",
				i, m.Subject, ErrTooLarge, header, maxHeader)
		}
	}
	return nil
}

// checksum tells a batch from every other that its instance could have written.
// The fence is part of it, because an instance uses each fence for one entry at
// most.
func checksum(fence uint64, tasks []*nats.Msg, position []byte) uint32 {
	sum := summer{crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	sum.number(fence)
	sum.number(uint64(len(tasks)))
	for _, m := range tasks {
		sum.text(m.Subject)
		sum.number(uint64(len(m.Header)))
		for _, name := range slices.Sorted(maps.Keys(m.Header)) {
			sum.text(name)
			sum.number(uint64(len(m.Header[name])))
			for _, value := range m.Header[name] {
				sum.text(value)
			}
		}
		sum.bytes(m.Data)
	}
	sum.bytes(position)
	return sum.Sum32()
}

// summer writes parts with their lengths, so that no two lists of parts have
// one spelling.
type summer struct{ hash.Hash32 }

func (s summer) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = s.Write(b[:])
}

func (s summer) text(t string) {
	s.number(uint64(len(t)))
	_, _ = io.WriteString(s, t)
}

func (s summer) bytes(b []byte) {
	s.number(uint64(len(b)))
	_, _ = s.Write(b)
}

// errNoAnswer is the cause of an unknown outcome: all was sent, and no answer
// came while the connection stood and the time lasted.
var errNoAnswer = errors.New("no answer to the batch")

// send publishes the batch once, under an id of its own, and returns the
// sequence of its entry. Only errNoAnswer leaves the outcome open; after every
// other error this try is not stored and will not be.
//
// Answers are asked for the entry and for the first message, which tells at
// once that too many batches are open or that nobody takes the subject. Asking
// for all of them is slow and finds the reason for which one in the middle was
// refused: a batch without it is just incomplete.
func (l *Ledger) send(ctx context.Context, b *batch, askAll bool) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	lost := l.nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer l.nc.RemoveStatusListener(lost)
	inbox, answers := l.nc.NewInbox(), make(chan *nats.Msg, len(b.msgs)+1)
	sub, err := l.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return 0, err
	}
	defer func() { _ = sub.Unsubscribe() }()

	id := rand.Text()
	for i, m := range b.msgs {
		m.Reply = ""
		if askAll || i == 0 || i == len(b.msgs)-1 {
			m.Reply = inbox
		}
		m.Header[headerBatchID] = []string{id}
		if err := l.nc.PublishMsg(m); err != nil {
			return 0, err
		}
	}
	for {
		select {
		case m := <-answers:
			if sequence, last, err := readAnswer(m, id, len(b.msgs)); last {
				return sequence, err
			}
		case <-lost:
			return 0, fmt.Errorf("%w: connection lost", errNoAnswer)
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
		}
	}
}

// readAnswer reads one answer. It is the last if it settles the whole batch: a
// PubAck, or any refusal. The others are empty.
func readAnswer(m *nats.Msg, id string, count int) (sequence uint64, last bool, err error) {
	if len(m.Data) == 0 {
		if m.Header.Get("Status") == "503" {
			return 0, true, nats.ErrNoResponders
		}
		return 0, false, nil
	}
	var ack struct {
		Sequence uint64              `json:"seq"`
		Batch    string              `json:"batch"`
		Count    int                 `json:"count"`
		Error    *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return 0, true, fmt.Errorf("%w that can be read: %w", errNoAnswer, err)
	case ack.Error != nil:
		return 0, true, ack.Error
	case ack.Batch != id || ack.Count != count || ack.Sequence == 0:
		return 0, true, errNotAtomic
	}
	return ack.Sequence, true, nil
}

// errNotAtomic means that a server before 2.12 took the messages one by one, or
// that somebody else answers.
var errNotAtomic = errors.New("the broker did not take the batch as a whole: it must be nats-server 2.12 or newer")
