package emit

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

// The headers of an emitted record. Those without a value are left out.
const (
	headerID          = "pelton-id"
	headerTask        = "pelton-task"
	headerQueue       = "pelton-queue"
	headerState       = "pelton-state"
	headerAttempt     = "pelton-attempt"
	headerOrigin      = "pelton-origin"
	headerTruncated   = "pelton-truncated"
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
	headerBaggage     = "baggage"
)

// What JetStream says of a value that is none.
const (
	headerKVOperation  = "KV-Operation"
	headerMarkerReason = "Nats-Marker-Reason"
)

const (
	// overhead is what Kafka adds to a record and its batch, generously.
	overhead       = 256
	headerOverhead = 10
)

// result is a message of a bucket's stream on its way.
type result struct {
	source    *source
	sequence  uint64 // in the stream
	delivered uint64 // by the consumer
	stored    time.Time
	record    *kgo.Record // nil where nothing is emitted
	emitted   Emitted
	truncated bool
	weight    int64
}

// translate makes a Kafka record of a result that is final. Of all others only
// the place counts.
func (x *session) translate(src *source, msg *nats.Msg, meta *nats.MsgMetadata) *result {
	r := &result{
		source:    src,
		sequence:  meta.Sequence.Stream,
		delivered: meta.Sequence.Consumer,
		stored:    meta.Timestamp.UTC(),
		weight:    min(int64(len(msg.Data)), maxBuffered),
	}
	if h := msg.Header; h.Get(headerKVOperation) != "" || h.Get(headerMarkerReason) != "" {
		return r
	}
	q := src.queue
	prefix := len(x.e.cfg.Namespace.RecordSubject(q.name, ""))
	id := msg.Subject[min(prefix, len(msg.Subject)):]
	rec, err := wire.DecodeRecord(id, msg.Data)
	if err != nil {
		x.skip(q, r, id, err)
		return r
	}
	if !rec.State.Terminal() {
		return r
	}
	r.record, r.truncated = x.record(q.name, rec, msg.Data)
	r.emitted = Emitted{TaskID: rec.ID, Queue: q.name, State: rec.State, Topic: r.record.Topic}
	return r
}

// skip passes over a value that is no record. It is said once, also when the
// same message is read again by a later session.
func (x *session) skip(q *queue, r *result, id string, err error) {
	if r.sequence <= q.reported {
		return
	}
	q.reported = r.sequence
	x.e.stats.skipped.Add(1)
	x.log.Error("value under a task's key is no record and is skipped",
		"queue", q.name, "task_id", id, "stream", q.stream, "sequence", r.sequence, "err", err)
}

// record is the record of the topic. Its value is the stored one, byte for
// byte, unless it is larger than the topic takes.
func (x *session) record(queue string, rec *wire.Record, value []byte) (*kgo.Record, bool) {
	out := &kgo.Record{
		Topic:   x.topic(rec),
		Key:     []byte(rec.ID),
		Value:   value,
		Headers: headers(queue, rec),
	}
	if rec.ReplyKey != "" {
		out.Key = []byte(rec.ReplyKey)
	}
	limit := x.limits[out.Topic]
	if encodedSize(out) <= limit {
		return out, false
	}
	return x.truncate(out, queue, rec, limit), true
}

// truncate makes a record small enough for any topic, so that one result never
// holds up the others. The state stays, and who the task was; result, progress,
// attempts and stack go. A task without an error of its own gets one that says
// so.
func (x *session) truncate(out *kgo.Record, queue string, rec *wire.Record, limit int) *kgo.Record {
	size := encodedSize(out)
	x.log.Warn("result is too large for its topic and is emitted without its content",
		"queue", queue, "task_id", rec.ID, "topic", out.Topic, "bytes", size, "limit", limit)
	// Everything is cut: a record is written by workers, and nothing says that
	// its result is what makes it large.
	short := wire.Record{
		ID: rec.ID, Run: rec.Run, State: rec.State, Attempt: rec.Attempt, Deaths: rec.Deaths,
		Task: cut(rec.Task, 128), Queue: cut(rec.Queue, 128), Worker: cut(rec.Worker, 128),
		Parent: cut(rec.Parent, 128), Root: cut(rec.Root, 128), Origin: cut(rec.Origin, 1024), Trace: cut(rec.Trace, 128),
		QueuedAt: rec.QueuedAt, StartedAt: rec.StartedAt, FinishedAt: rec.FinishedAt,
	}
	if rec.Error == nil {
		short.Error = &wire.Failure{
			Type:    wire.FailureTooLarge,
			Message: fmt.Sprintf("the record has %d bytes, topic %s takes %d: read it from the bucket while it is there", size, out.Topic, limit),
		}
	} else {
		short.Error = &wire.Failure{Type: cut(rec.Error.Type, 128), Message: cut(rec.Error.Message, 1024)}
	}
	value, err := short.Encode()
	if err != nil {
		panic(fmt.Sprintf("truncated record: %v", err)) // nothing is left in it that could fail
	}
	key := out.Key
	if len(key) > 4096 {
		key = []byte(rec.ID)
	}
	return &kgo.Record{
		Topic:   out.Topic,
		Key:     key,
		Value:   value,
		Headers: append(headers(queue, &short), kgo.RecordHeader{Key: headerTruncated, Value: []byte("true")}),
	}
}

// cut shortens s to at most n bytes, at a rune's border.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// topic is the one the task asked for, if that is allowed.
func (x *session) topic(rec *wire.Record) string {
	asked := rec.ReplyTopic
	if slices.Contains(x.e.cfg.ReplyTopics, asked) {
		return asked
	}
	if asked != "" && asked != x.e.cfg.Topic && x.e.firstRefusal(asked) {
		x.log.Warn("result asks for a topic that is not among the reply topics",
			"task_id", rec.ID, "asked", asked, "topic", x.e.cfg.Topic)
	}
	return x.e.cfg.Topic
}

func headers(queue string, rec *wire.Record) []kgo.RecordHeader {
	all := [...]struct{ key, value string }{
		{headerID, rec.ID},
		{headerTask, rec.Task},
		{headerQueue, queue},
		{headerState, string(rec.State)},
		{headerAttempt, strconv.Itoa(rec.Attempt)},
		{headerOrigin, rec.Origin},
		{headerTraceParent, rec.Trace},
		{headerTraceState, rec.TraceState},
		{headerBaggage, rec.Baggage},
	}
	out := make([]kgo.RecordHeader, 0, len(all)+1)
	for _, h := range all {
		if h.value != "" {
			out = append(out, kgo.RecordHeader{Key: h.key, Value: []byte(h.value)})
		}
	}
	return out
}

// encodedSize is at least what a record takes in a batch of its own.
func encodedSize(r *kgo.Record) int {
	size := len(r.Key) + len(r.Value) + overhead
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + headerOverhead
	}
	return size
}
