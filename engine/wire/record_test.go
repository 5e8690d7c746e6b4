package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

// goldenRecords has a record of every state and shape.
func goldenRecords() map[string]wire.Record {
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	base := wire.Record{ID: "mail-41", Run: 1, Task: "resize", Queue: "mail", Attempt: 1, QueuedAt: now}
	with := func(state wire.State, change func(*wire.Record)) wire.Record {
		r := base
		r.State = state
		change(&r)
		return r
	}
	failed := wire.Attempt{Attempt: 1, Worker: "w1", StartedAt: at(1), FinishedAt: at(2), Error: &wire.Failure{Type: wire.FailureError, Message: "upstream 503"}}
	died := wire.Attempt{Attempt: 2, Error: &wire.Failure{Type: wire.FailurePanic, Message: "boom", Stack: "goroutine 1\n\tmain.go:7"}}
	return map[string]wire.Record{
		"queued":    with(wire.StateQueued, func(r *wire.Record) { r.Run = 2 }),
		"scheduled": with(wire.StateScheduled, func(r *wire.Record) { r.ID, r.ETA = "order-77", at(300) }),
		"replaced": with(wire.StateScheduled, func(r *wire.Record) {
			r.ID, r.ETA, r.Due, r.Generation, r.Body = "order-77", at(300), true, 2, json.RawMessage(`{"width":80}`)
		}),
		"lane": with(wire.StateStarted, func(r *wire.Record) {
			r.ID, r.Worker, r.StartedAt, r.Due, r.DueSeq, r.Priority = "mail_high-41", "w1", at(1), true, 9, wire.PriorityHigh
		}),
		"started": with(wire.StateStarted, func(r *wire.Record) {
			r.Worker, r.StartedAt, r.Deaths, r.Sequence = "w1", at(1), 1, 41
		}),
		"progress": with("resizing", func(r *wire.Record) {
			r.Worker, r.StartedAt, r.Progress = "w1", at(1), json.RawMessage(`{"done":3,"of":7}`)
		}),
		"retrying": with(wire.StateRetrying, func(r *wire.Record) {
			r.Due = true
			r.Attempt, r.ETA, r.Error, r.Attempts = 2, at(10), failed.Error, []wire.Attempt{failed}
		}),
		"succeeded": with(wire.StateSucceeded, func(r *wire.Record) {
			r.Worker, r.StartedAt, r.FinishedAt, r.Result = "w1", at(1), at(2), json.RawMessage(`{"message":"cat.png <ready>","n":18446744073709551616}`)
		}),
		"succeeded_null": with(wire.StateSucceeded, func(r *wire.Record) { r.FinishedAt, r.Result = at(2), json.RawMessage(`null`) }),
		"failed": with(wire.StateFailed, func(r *wire.Record) {
			r.Attempt, r.Worker, r.StartedAt, r.FinishedAt, r.Error = 2, "w1", at(1), at(2), died.Error
			r.Attempts = []wire.Attempt{failed, died}
		}),
		"revoked": with(wire.StateRevoked, func(r *wire.Record) { r.FinishedAt = at(2) }),
		"expired": with(wire.StateExpired, func(r *wire.Record) { r.FinishedAt = at(2) }),
		"full": with(wire.StateSucceeded, func(r *wire.Record) {
			r.ID, r.Run, r.Worker, r.StartedAt, r.FinishedAt, r.Result = "orders=eu=a-3-7-g2", 3, "w1", at(1), at(2), json.RawMessage(`"ok"`)
			r.Origin, r.Parent, r.Root = "kafka:eu.a/3@7;route=orders=;g=2, discord:123/456", "order-76", "order-1"
			r.ReplyTopic, r.ReplyKey = "results", "customer 7"
			r.Trace, r.TraceState, r.Baggage = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=1", "user=7"
		}),
	}
}

func TestRecordsGolden(t *testing.T) {
	for name, r := range goldenRecords() {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		mustEqualGolden(t, "record_"+name+".json", b)
		if std, err := json.Marshal(r); err != nil || !reflect.DeepEqual(anyJSON(t, std), anyJSON(t, b)) {
			t.Errorf("%s: package json writes %s, %v", name, std, err)
		}
		got, err := wire.DecodeRecord(r.ID, b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s became\n%s, %v; was\n%s", name, again, err, b)
		}
	}
}

func anyJSON(t *testing.T, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestAppendCostsNothing: a record of a task that succeeded needs no memory.
func TestAppendCostsNothing(t *testing.T) {
	now := time.Now()
	r := &wire.Record{
		ID: "mail-1", Run: 1, Task: "send", Queue: "mail", State: wire.StateSucceeded, Attempt: 1, Result: json.RawMessage(`{"ok":true}`),
		Worker: "worker-2", QueuedAt: now, StartedAt: now, FinishedAt: now, Origin: "kafka:commands/3@18422",
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Append(buf); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRecordsGoldenIsComplete: no field of a record is left out of the files.
func TestRecordsGoldenIsComplete(t *testing.T) {
	kind := reflect.TypeFor[wire.Record]()
	for i := range kind.NumField() {
		used := false
		for _, r := range goldenRecords() {
			used = used || !reflect.ValueOf(r).Field(i).IsZero()
		}
		if !used {
			t.Errorf("no golden record has %s", kind.Field(i).Name)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, bad := range []string{"{", "nope", "1 2", `"\x"`} {
		r := wire.Record{ID: "mail-1", Result: json.RawMessage(bad)}
		if b, err := r.Encode(); err == nil || !strings.HasPrefix(err.Error(), "record mail-1: ") {
			t.Errorf("%q: %s, %v", bad, b, err)
		}
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	for value, want := range map[string]string{
		"":      "record mail-1: unexpected end of JSON input",
		"[]":    "record mail-1: json: cannot unmarshal array into Go value of type wire.Record",
		"null":  `record mail-1: id "": must be the record's own key`,
		"{}":    `record mail-1: id "": must be the record's own key`,
		`{"id`:  "record mail-1: unexpected end of JSON input",
		`{} {}`: "record mail-1: invalid character '{' after top-level value",
		`{"id":"mail-2","run":1,"state":"queued"}`: `record mail-1: id "mail-2": must be the record's own key`,
		`{"id":"MAIL-1","run":1,"state":"queued"}`: `record mail-1: id "MAIL-1": must be the record's own key`,
		`{"id":"mail-1","state":"queued"}`:         "record mail-1: has no run or no state",
		`{"id":"mail-1","run":0,"state":"queued"}`: "record mail-1: has no run or no state",
		`{"id":"mail-1","run":1}`:                  "record mail-1: has no run or no state",
	} {
		r, err := wire.DecodeRecord("mail-1", []byte(value))
		if err == nil || err.Error() != want || r != nil {
			t.Errorf("%s: %v, %v; want %s", value, r, err, want)
		}
	}
	deep := `{"id":"mail-1","run":1,"state":"queued","result":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}"
	if _, err := wire.DecodeRecord("mail-1", []byte(deep)); err == nil {
		t.Error("took 100,000 levels")
	}
}

func TestAddAttempt(t *testing.T) {
	var r wire.Record
	for i := 1; i <= wire.KeptAttempts+3; i++ {
		r.AddAttempt(wire.Attempt{Attempt: i})
	}
	if len(r.Attempts) != wire.KeptAttempts || r.Attempts[0].Attempt != 4 || r.Attempts[wire.KeptAttempts-1].Attempt != wire.KeptAttempts+3 {
		t.Errorf("kept %+v", r.Attempts)
	}
	// What is forgotten is not kept in memory, and a copy made before stays.
	before := r.Attempts
	r.AddAttempt(wire.Attempt{Attempt: 99})
	if before[0].Attempt != 4 {
		t.Error("an earlier copy changed")
	}
}

func TestRecordRoundTrip(t *testing.T) {
	text := rapid.String()
	instant := rapid.OneOf(rapid.Just(time.Time{}), anyTime)
	failure := rapid.Custom(func(t *rapid.T) *wire.Failure {
		return &wire.Failure{Type: text.Draw(t, "type"), Message: text.Draw(t, "message"), Stack: text.Draw(t, "stack")}
	})
	value := rapid.Custom(func(t *rapid.T) json.RawMessage {
		b, err := json.Marshal(rapid.MapOf(text, rapid.Int64()).Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
	attempt := rapid.Custom(func(t *rapid.T) wire.Attempt {
		return wire.Attempt{
			Attempt: rapid.Int().Draw(t, "attempt"), Worker: text.Draw(t, "worker"),
			StartedAt: instant.Draw(t, "started"), FinishedAt: instant.Draw(t, "finished"), Error: failure.Draw(t, "error"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := wire.Record{
			ID: anyID.Draw(t, "id"), Run: rapid.IntRange(1, wire.MaxRun).Draw(t, "run"), Task: anyTask.Draw(t, "task"), Queue: anyQueue.Draw(t, "queue"),
			State: wire.State(rapid.StringN(1, 20, -1).Draw(t, "state")), Attempt: rapid.Int().Draw(t, "attempt"), Deaths: rapid.Int().Draw(t, "deaths"),
			Sequence: rapid.Uint64().Draw(t, "sequence"), Generation: rapid.Int().Draw(t, "generation"), DueSeq: rapid.Uint64().Draw(t, "due"),
			Priority: rapid.SampledFrom([]wire.Priority{"", wire.PriorityHigh, wire.PriorityLow}).Draw(t, "priority"), Body: value.Draw(t, "body"),
			Result: value.Draw(t, "result"), Error: failure.Draw(t, "error"), Attempts: rapid.SliceOfN(attempt, 1, 3).Draw(t, "attempts"),
			Origin: text.Draw(t, "origin"), Worker: text.Draw(t, "worker"),
			QueuedAt: instant.Draw(t, "queued"), ETA: instant.Draw(t, "eta"), StartedAt: instant.Draw(t, "started"), FinishedAt: instant.Draw(t, "finished"),
			Progress: value.Draw(t, "progress"), Parent: text.Draw(t, "parent"), Root: text.Draw(t, "root"),
			ReplyTopic: text.Draw(t, "topic"), ReplyKey: text.Draw(t, "key"), Trace: text.Draw(t, "trace"), TraceState: text.Draw(t, "tracestate"), Baggage: text.Draw(t, "baggage"),
		}
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.DecodeRecord(want.ID, b)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Fatalf("%+v\nbecame %+v, %v", want, got, err)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range goldenRecords() {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(r.ID, b)
	}
	f.Add("mail-1", []byte(`{"ID":"mail-1","run":1,"state":"x","result":null,"run":2}`))
	f.Add("mail-1", []byte(`{"id":"mail-1","run":1e0,"state":"queued"}`))
	f.Fuzz(func(t *testing.T, id string, b []byte) {
		r, err := wire.DecodeRecord(id, b)
		if err != nil {
			if r != nil || !strings.HasPrefix(err.Error(), "record "+id+": ") {
				t.Errorf("%v, %v", r, err)
			}
			return
		}
		if r.ID != id || r.Run < 1 || r.State == "" {
			t.Errorf("took %+v", r)
		}
		// What was read can be written, and means the same when read again.
		first, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := wire.DecodeRecord(id, first)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s\nbecame %s, %v", first, second, err)
		}
	})
}

func TestStates(t *testing.T) {
	terminal := map[wire.State]bool{
		wire.StateQueued: false, wire.StateScheduled: false, wire.StateStarted: false, wire.StateRetrying: false, "resizing": false, "": false,
		wire.StateSucceeded: true, wire.StateFailed: true, wire.StateRevoked: true, wire.StateExpired: true,
	}
	for state, want := range terminal {
		if state.Terminal() != want {
			t.Errorf("%q: terminal %t", state, !want)
		}
		if state == "" {
			continue
		}
		if got, err := wire.ParseState(string(state)); err != nil || got != state {
			t.Errorf("%s: %s, %v", state, got, err)
		}
	}
	for celery, want := range map[string]wire.State{
		"PENDING": wire.StateQueued, "RECEIVED": wire.StateQueued, "STARTED": wire.StateStarted, "RETRY": wire.StateRetrying,
		"SUCCESS": wire.StateSucceeded, "FAILURE": wire.StateFailed, "REJECTED": wire.StateFailed, "REVOKED": wire.StateRevoked,
	} {
		if got, err := wire.ParseState(celery); err != nil || got != want {
			t.Errorf("%s: %s, %v", celery, got, err)
		}
	}
	for _, s := range append([]string{"Succeeded", "SUCCEEDED", "-x", "_x", "x.y", strings.Repeat("s", 65)}, hostile...) {
		if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" || len(s) > 64 {
			_, err := wire.ParseState(s)
			mustSay(t, err, fmt.Sprintf("state %q: must match [a-z0-9][a-z0-9_-]{0,63}, or be one of Celery's", cut(s)))
		}
	}
}
