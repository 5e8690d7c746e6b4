package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/wire"
)

// deadMessage is a task's dead letter: its body and headers, and why it died.
func (w *Worker) deadMessage(d *delivery, f *wire.Failure, now time.Time) *nats.Msg {
	h := wire.Header(d.msg.Header).Own()
	for name := range h {
		if wire.CheckHeaderName(name) != nil {
			delete(h, name) // the client library would refuse the whole letter
		}
	}
	h.Set(wire.HeaderID, d.id)
	h.Set(wire.HeaderAttempt, strconv.Itoa(d.meta.Attempt))
	h.Set(wire.HeaderErrorType, headerLine(f.Type, 64))
	h.Set(wire.HeaderError, headerLine(f.Message, 1024))
	h.Set(wire.HeaderDiedAt, wire.FormatTime(now))
	m := &nats.Msg{
		Subject: w.c.ns.DeadSubject(d.queue(), d.addr.Task, d.id),
		Header:  nats.Header(h),
		Data:    d.msg.Data,
	}
	// With the reason it may be more than the broker takes.
	if m.Size()-len(m.Data) > deadHeaders {
		for name := range h {
			if len(name) < 7 || !strings.EqualFold(name[:7], "Pelton-") {
				delete(h, name)
			}
		}
	}
	if most := w.c.nc.MaxPayload(); most > 0 && int64(m.Size()) > most {
		h.Set(wire.HeaderError, headerLine(fmt.Sprintf("%s (of %d bytes the first %d are kept)", f.Message, len(m.Data), deadHead), 1024))
		m.Data = m.Data[:min(len(m.Data), deadHead)]
	}
	return m
}

// deadHeaders is how many bytes of headers a dead letter keeps: the broker takes
// 64 KiB. Beyond that the caller's own are dropped.
const deadHeaders = 60 << 10

// deadHead is how much of a body is kept that would not fit, in bytes.
const deadHead = 4 << 10

// deadOnArrival is the built-in task that an edge publishes in place of a
// record that no rule accepts: it fails at once, for the reason in its headers.
func deadOnArrival(d *delivery) result {
	h := wire.Header(d.msg.Header)
	f := &wire.Failure{Type: h.Value(wire.HeaderErrorType), Message: h.Value(wire.HeaderError)}
	if f.Type == "" {
		f.Type = wire.FailureBadInput
	}
	return result{kind: resultFailed, failure: f, permanent: true}
}

// headerLine makes a text fit for one header line of at most n bytes.
func headerLine(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
