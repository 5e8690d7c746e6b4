package emit

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

func headersOf(r *kgo.Record) map[string]string {
	out := map[string]string{}
	for _, h := range r.Headers {
		out[h.Key] = string(h.Value)
	}
	return out
}

func TestRecord(t *testing.T) {
	w := newWorld(t, "mail")
	if err := w.cluster.CreateTopic("own", 1, nil); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	cfg.Queues, cfg.ReplyTopics = []string{"mail"}, []string{"own"}
	w.ensureLedger(cfg)
	r := w.start(cfg)
	full := func(rec *wire.Record) {
		rec.Task, rec.Attempt, rec.Origin = "send", 3, "kafka:commands/3@18422, discord:1/2"
		rec.Trace, rec.TraceState, rec.Baggage = "00-4bf9-01", "a=b", "c=d"
	}
	w.put("mail", "full", wire.StateFailed, full)
	w.put("mail", "bare", wire.StateRevoked)
	w.put("mail", "keyed", wire.StateExpired, func(rec *wire.Record) { rec.ReplyKey = "customer-1" })
	w.put("mail", "own", wire.StateSucceeded, func(rec *wire.Record) { rec.ReplyTopic = "own" })
	w.put("mail", "refused", wire.StateSucceeded, func(rec *wire.Record) { rec.ReplyTopic = ledgerTopic })
	f, own := w.feed(resultTopic), w.feed("own")
	f.wait("full", "bare", "customer-1", "refused")
	own.wait("own")
	r.stop()

	stored, err := w.js.KeyValue(w.ctx, wire.DefaultNamespace.ResultsBucket("mail"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := stored.Get(w.ctx, "full")
	if err != nil {
		t.Fatal(err)
	}
	if got := f.by["full"][0].Value; string(got) != string(entry.Value()) {
		t.Errorf("value %s, want it as stored: %s", got, entry.Value())
	}
	for id, want := range map[string]map[string]string{
		"full": {
			"pelton-id": "full", "pelton-task": "send", "pelton-queue": "mail", "pelton-state": "failed", "pelton-attempt": "3",
			"pelton-origin": "kafka:commands/3@18422, discord:1/2", "traceparent": "00-4bf9-01", "tracestate": "a=b", "baggage": "c=d",
		},
		"bare":       {"pelton-id": "bare", "pelton-task": "echo", "pelton-queue": "mail", "pelton-state": "revoked", "pelton-attempt": "1"},
		"customer-1": {"pelton-id": "keyed", "pelton-task": "echo", "pelton-queue": "mail", "pelton-state": "expired", "pelton-attempt": "1"},
	} {
		if got := headersOf(f.by[id][0]); !mapsEqual(got, want) {
			t.Errorf("%s: headers %v, want %v", id, got, want)
		}
	}
	if !slices.Contains(w.journal.Lines(), "WARN result asks for a topic that is not among the reply topics") {
		t.Errorf("log %q says nothing of the refused topic", w.journal.Lines())
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// What is no record is passed over, once and aloud; what was deleted silently.
func TestSkipsWhatIsNoRecord(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.publish("default", "text", []byte("hello"))
	w.publish("default", "stolen", []byte(`{"id":"other","run":1,"state":"succeeded"}`))
	w.publish("default", "empty", nil)
	stored, err := w.js.KeyValue(w.ctx, wire.DefaultNamespace.ResultsBucket("default"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stored.Delete(w.ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	w.succeed("default", 0, 10)
	r := w.start(cfg)
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
	lines := slices.DeleteFunc(w.journal.Lines(), func(line string) bool { return !strings.HasPrefix(line, "ERROR") })
	if len(lines) != 3 || r.Stats().Skipped != 3 {
		t.Errorf("log %q and %d skipped, want 3", lines, r.Stats().Skipped)
	}
}

// content is a result that compression does not make smaller.
func content(bytes int) json.RawMessage {
	b := make([]byte, bytes/2)
	_, _ = rand.Read(b)
	out := make([]byte, 0, bytes+2)
	for _, c := range b {
		out = strconv.AppendInt(out, int64(c%10), 10)
		out = append(out, 'a'+c%26)
	}
	return json.RawMessage(`"` + string(out) + `"`)
}

// A result beyond what the topic takes loses its content, not its place, and
// holds up no other. What the topic takes is learned from it.
func TestTooLargeForTheTopic(t *testing.T) {
	const limit = 40_000
	w := newWorld(t, "default")
	if err := w.cluster.DeleteTopic(resultTopic); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.CreateTopic(resultTopic, 1, map[string]string{"max.message.bytes": strconv.Itoa(limit)}); err != nil {
		t.Fatal(err)
	}
	cfg := w.config()
	w.ensureLedger(cfg)
	large := func(rec *wire.Record) { rec.Result = content(100_000) }
	for i := range 20 { // more than the topic takes as one batch
		w.put("default", "medium-"+strconv.Itoa(i), wire.StateSucceeded, func(rec *wire.Record) { rec.Result = content(10_000) })
	}
	w.put("default", "large", wire.StateSucceeded, large)
	w.put("default", "failed", wire.StateFailed, func(rec *wire.Record) {
		rec.Error = &wire.Failure{Type: "error", Message: "no such mailbox", Stack: strings.Repeat("x", 100_000)}
	})
	r := w.start(cfg)
	f := w.feed(resultTopic)
	f.wait()
	w.succeed("default", 0, 10)
	w.put("default", "large-2", wire.StateSucceeded, large)
	f.wait()
	r.stop()
	w.exact()
	if got := r.Stats(); got.Truncated != 3 || got.Emitted != 33 || got.Failures != 1 {
		t.Errorf("stats %+v, want 3 of 33 truncated and one failure to learn from", got)
	}
	for id, want := range map[string]wire.Failure{
		"large":  {Type: wire.FailureTooLarge},
		"failed": {Type: "error", Message: "no such mailbox"},
	} {
		got := f.by[id][0]
		rec, err := wire.DecodeRecord(id, got.Value)
		if err != nil {
			t.Fatal(err)
		}
		if want.Message == "" {
			want.Message = rec.Error.Message
		}
		if rec.Result != nil || *rec.Error != want || headersOf(got)["pelton-truncated"] != "true" || headersOf(got)["pelton-state"] != string(rec.State) {
			t.Errorf("%s: %s, headers %v", id, got.Value, headersOf(got))
		}
	}
	if got := headersOf(f.by["medium-1"][0])["pelton-truncated"]; got != "" {
		t.Errorf("medium-1 is truncated")
	}
}

// Whatever a worker puts into a record, its short form fits every topic.
func TestTruncatedIsSmall(t *testing.T) {
	huge := strings.Repeat("\x00é", 100_000)
	rec := &wire.Record{
		ID: "a", Run: 1, State: wire.StateFailed, Task: huge, Queue: huge, Worker: huge, Origin: huge, Parent: huge, Root: huge,
		Trace: huge, TraceState: huge, Baggage: huge, ReplyKey: huge, ReplyTopic: huge,
		Error:  &wire.Failure{Type: huge, Message: huge, Stack: huge},
		Result: content(100_000),
	}
	value, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	cfg := w.config()
	cfg.MaxRecordBytes = leastRecord
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := newShard(e, nil, 0)
	out, truncated := (&session{shard: s, limits: s.limits}).record("default", rec, value)
	if size := encodedSize(out); !truncated || size > leastRecord {
		t.Errorf("truncated %t to %d bytes, want at most %d", truncated, size, leastRecord)
	}
	if _, err := wire.DecodeRecord("a", out.Value); err != nil {
		t.Error(err)
	}
}
