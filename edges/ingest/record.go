package ingest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

// deadHead is how much of a record that is too large goes to the dead letters,
// in bytes.
const deadHead = 4 << 10

// maxHeaders bounds the headers of a task, in bytes: those carried have at most
// 4 KiB each.
const maxHeaders = 36 << 10

// carried are the headers of a record that become headers of its task. Names
// are looked up in any case.
var carried = []string{
	wire.HeaderDelay, wire.HeaderETA, wire.HeaderExpires, wire.HeaderReplyTopic, wire.HeaderReplyKey,
	wire.HeaderTraceParent, wire.HeaderTraceState, wire.HeaderBaggage,
}

// task makes the task of a record: always one, whatever the record is.
func (p *partition) task(r *kgo.Record) (*nats.Msg, Task) {
	origin := wire.KafkaOrigin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Route: p.cfg.Route.Name, Generation: p.generation}
	seen := Task{Offset: r.Offset, ID: origin.ID(), Task: p.cfg.Route.Task}
	h, body := wire.Header{}, r.Value
	var err error
	if bomb, ok := p.bombs[r.Offset]; ok {
		err = bomb
	} else if err = p.accept(h, r, origin); err == nil {
		err = p.cfg.Limits.CheckJSON(body)
	}
	if room := p.room(); err == nil && len(body) > room {
		err = &wire.BodyError{Rule: fmt.Sprintf("must be at most %d bytes for the broker", room), Have: fmt.Sprintf("%d bytes", len(body))}
	}
	if err != nil {
		seen.Task, seen.Dead = wire.TaskDead, true
		h, body = p.dead(r, origin, err)
	}
	subject := p.cfg.Namespace.TaskSubject(wire.Address{Lane: p.lane(), Task: seen.Task})
	return &nats.Msg{Subject: subject, Header: nats.Header(h), Data: body}, seen
}

// accept fills the headers of the task, and reports the first that breaks a
// rule.
func (p *partition) accept(h wire.Header, r *kgo.Record, origin wire.KafkaOrigin) error {
	for _, name := range carried {
		if value, ok := recordHeader(r, name); ok {
			if strings.ContainsAny(value, "\r\n") {
				return &wire.NameError{Field: name, Value: value, Rule: "must be one line"}
			}
			h[name] = []string{value}
		}
	}
	chain, _ := recordHeader(r, wire.HeaderOrigin)
	h[wire.HeaderOrigin] = []string{wire.JoinOrigins(origin.String(), chain)}
	// Not from the record's own time, which its producer may have made up.
	_, err := wire.ParseMeta(h, time.Now())
	return err
}

// dead is the task that takes a record to the dead letters.
func (p *partition) dead(r *kgo.Record, origin wire.KafkaOrigin, why error) (wire.Header, []byte) {
	text, body := why.Error(), r.Value
	if len(body) > min(p.cfg.Limits.Bytes, p.room()) {
		text = fmt.Sprintf("%s; the first %d bytes are kept", text, deadHead)
		body = body[:min(deadHead, len(body))]
	}
	h := wire.Header{
		wire.HeaderOrigin:    {origin.String()},
		wire.HeaderErrorType: {wire.FailureBadInput},
		wire.HeaderError:     {strings.Map(oneLine, text)},
	}
	// Where it came from, and the trace, as far as they can be carried: these
	// are the records that one wants to follow.
	if chain, ok := recordHeader(r, wire.HeaderOrigin); ok && wire.CheckOrigins(chain) == nil {
		h[wire.HeaderOrigin] = []string{wire.JoinOrigins(origin.String(), chain)}
	}
	for _, name := range []string{wire.HeaderTraceParent, wire.HeaderTraceState, wire.HeaderBaggage} {
		if value, ok := recordHeader(r, name); ok && len(value) <= 4096 && !strings.ContainsAny(value, "\r\n") {
			h[name] = []string{value}
		}
	}
	return h, body
}

// room is how large a body the broker takes beside the headers.
func (p *partition) room() int { return int(p.cfg.NATS.MaxPayload()) - maxHeaders }

func oneLine(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// recordHeader is the last value of a record's header, as Kafka's own clients
// have it.
func recordHeader(r *kgo.Record, name string) (string, bool) {
	for _, h := range slices.Backward(r.Headers) {
		if strings.EqualFold(h.Key, name) {
			return string(h.Value), true
		}
	}
	return "", false
}
