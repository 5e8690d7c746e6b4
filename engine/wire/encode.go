package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Encode is the record's bytes. It fails only where Result, Progress or Body is
// not JSON.
func (r *Record) Encode() ([]byte, error) { return r.Append(make([]byte, 0, 512)) }

// Append appends the record's bytes to b, which costs no memory of its own where
// they fit and the task did not fail. It writes what package json would, but a
// result stays as its handler wrote it.
func (r *Record) Append(b []byte) ([]byte, error) {
	for _, raw := range []json.RawMessage{r.Body, r.Result, r.Progress} {
		if len(raw) > 0 && !json.Valid(raw) {
			return nil, fmt.Errorf("record %s: %w", r.ID, &NameError{"value", string(raw[:min(len(raw), 40)]), "must be JSON"})
		}
	}
	o := object{b: append(b, '{')}
	o.text("id", r.ID)
	o.number("run", r.Run)
	o.text("task", r.Task)
	o.text("queue", r.Queue)
	o.text("state", string(r.State))
	o.number("attempt", r.Attempt)
	o.maybeNumber("generation", r.Generation)
	o.maybeNumber("deaths", r.Deaths)
	o.maybeText("priority", string(r.Priority))
	if r.Sequence != 0 {
		o.key("sequence")
		o.b = strconv.AppendUint(o.b, r.Sequence, 10)
	}
	if r.Due {
		o.key("due")
		o.b = append(o.b, "true"...)
	}
	if r.DueSeq != 0 {
		o.key("due_sequence")
		o.b = strconv.AppendUint(o.b, r.DueSeq, 10)
	}
	o.raw("body", r.Body)
	o.raw("result", r.Result)
	if r.Error != nil {
		o.value("error", r.Error)
	}
	if len(r.Attempts) > 0 {
		o.value("attempts", r.Attempts)
	}
	o.maybeText("origin", r.Origin)
	o.maybeText("worker", r.Worker)
	o.time("queued_at", r.QueuedAt)
	o.time("eta", r.ETA)
	o.time("started_at", r.StartedAt)
	o.time("finished_at", r.FinishedAt)
	o.raw("progress", r.Progress)
	o.maybeText("parent", r.Parent)
	o.maybeText("root", r.Root)
	o.maybeText("reply_topic", r.ReplyTopic)
	o.maybeText("reply_key", r.ReplyKey)
	o.maybeText("trace", r.Trace)
	o.maybeText("tracestate", r.TraceState)
	o.maybeText("baggage", r.Baggage)
	if o.err != nil {
		return nil, fmt.Errorf("record %s: %w", r.ID, o.err)
	}
	return append(o.b, '}'), nil
}

// object is a JSON object as it is written. Its names need no escape.
type object struct {
	b   []byte
	err error
}

func (o *object) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) number(name string, n int) {
	o.key(name)
	o.b = strconv.AppendInt(o.b, int64(n), 10)
}

func (o *object) maybeNumber(name string, n int) {
	if n != 0 {
		o.number(name, n)
	}
}

func (o *object) text(name, s string) {
	if !plainText(s) {
		o.value(name, s)
		return
	}
	o.key(name)
	o.b = append(o.b, '"')
	o.b = append(o.b, s...)
	o.b = append(o.b, '"')
}

func (o *object) maybeText(name, s string) {
	if s != "" {
		o.text(name, s)
	}
}

func (o *object) time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	if y := t.Year(); y < 0 || y > 9999 {
		o.value(name, t) // says what is wrong with it
		return
	}
	o.key(name)
	o.b = append(o.b, '"')
	o.b = t.AppendFormat(o.b, time.RFC3339Nano)
	o.b = append(o.b, '"')
}

func (o *object) raw(name string, raw json.RawMessage) {
	if len(raw) > 0 {
		o.key(name)
		o.b = append(o.b, raw...)
	}
}

// value writes what is rare or needs care, with package json.
func (o *object) value(name string, v any) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		o.err = err
		return
	}
	o.key(name)
	o.b = append(o.b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

// plainText reports whether a text stands in JSON as it is.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
