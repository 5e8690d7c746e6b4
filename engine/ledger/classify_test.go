package ledger

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	api := func(class, code int, text string) error {
		return &jetstream.APIError{Code: class, ErrorCode: jetstream.ErrorCode(code), Description: text}
	}
	for _, tc := range []struct {
		err  error
		want verdict
	}{
		{nil, stored},
		{fmt.Errorf("%w: %w", errNoAnswer, context.DeadlineExceeded), unknown},
		{api(400, 10071, "wrong last sequence: 7"), fenced},
		{api(400, 10164, "wrong last sequence"), again},
		{api(503, 10077, "maximum messages exceeded"), full},
		{api(503, 10077, "maximum bytes exceeded"), full},
		{api(503, 10077, "write failed"), again},
		{api(400, 10002, "resource limits exceeded for account"), full},
		{api(503, 10023, "insufficient resources"), full},
		{api(500, 10028, "insufficient memory resources available"), full},
		{api(500, 10047, "insufficient storage resources available"), full},
		{api(400, 10176, "atomic publish batch is incomplete"), again},
		{api(400, 10201, "atomic publish batch contains duplicate message id"), again},
		{api(409, 10158, "duplicate message id is in process"), again},
		{api(429, 10210, "atomic publish too many inflight"), again},
		{api(503, 10008, "JetStream system temporarily unavailable"), again},
		{api(500, 10118, "stream is offline"), again},
		{api(400, 10174, "atomic publish is disabled"), rejected},
		{api(400, 10054, "message size exceeds maximum allowed"), rejected},
		{api(400, 10199, "atomic publish batch is too large: 10"), rejected},
		{api(400, 10109, "invalid operation on sealed stream"), rejected},
		{nats.ErrNoResponders, again},
		{nats.ErrReconnectBufExceeded, again},
		{nats.ErrConnectionClosed, rejected},
		{nats.ErrMaxPayload, rejected},
		{nats.ErrBadSubject, rejected},
		{errNotAtomic, rejected},
		{errors.New("anything else"), again},
	} {
		if got := classify(tc.err); got != tc.want {
			t.Errorf("classify(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestNewest(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		sequence uint64
		ok       bool
	}{
		"wrong last sequence: 0":                    {0, true},
		"wrong last sequence: 18446744073709551615": {18446744073709551615, true},
		"wrong last sequence":                       {0, false},
		"wrong last sequence: x":                    {0, false},
	} {
		got, ok := Newest(&jetstream.APIError{Code: 400, ErrorCode: codeWrongLast, Description: text})
		if ok != want.ok || ok && got != want.sequence {
			t.Errorf("Newest(%q) = %d, %t, want %+v", text, got, ok, want)
		}
	}
	if _, ok := Newest(nats.ErrTimeout); ok {
		t.Error("a timeout names a sequence")
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		msg      nats.Msg
		sequence uint64
		last     bool
		want     verdict
	}{
		"one message is there": {nats.Msg{}, 0, false, stored},
		"all are stored":       {nats.Msg{Data: []byte(`{"stream":"S","seq":9,"batch":"b","count":3}`)}, 9, true, stored},
		"nobody listens":       {nats.Msg{Header: nats.Header{"Status": {"503"}}}, 0, true, again},
		"refused":              {nats.Msg{Data: []byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 2"},"stream":"S","seq":0}`)}, 0, true, fenced},
		"another batch":        {nats.Msg{Data: []byte(`{"stream":"S","seq":9,"batch":"c","count":3}`)}, 0, true, rejected},
		"too few":              {nats.Msg{Data: []byte(`{"stream":"S","seq":9,"batch":"b","count":2}`)}, 0, true, rejected},
		"no batch":             {nats.Msg{Data: []byte(`{"stream":"S","seq":9}`)}, 0, true, rejected},
		"not JSON":             {nats.Msg{Data: []byte(`+OK`)}, 0, true, unknown},
	} {
		sequence, last, err := readAnswer(&tc.msg, "b", 3)
		if sequence != tc.sequence || last != tc.last || classify(err) != tc.want {
			t.Errorf("%s: %d, %t, %v", name, sequence, last, err)
		}
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	seen := map[uint32]string{}
	for name, sum := range map[string]uint32{
		"base":        checksum(1, tasks(0, 2), position(2)),
		"fence":       checksum(2, tasks(0, 2), position(2)),
		"position":    checksum(1, tasks(0, 2), position(3)),
		"tasks":       checksum(1, tasks(1, 2), position(2)),
		"fewer":       checksum(1, tasks(0, 1), position(2)),
		"header":      checksum(1, []*nats.Msg{{Header: nats.Header{"A": {"1"}}}}, position(2)),
		"header name": checksum(1, []*nats.Msg{{Header: nats.Header{"A1": {""}}}}, position(2)),
		"body":        checksum(1, []*nats.Msg{{Subject: "A", Data: []byte("1")}}, position(2)),
		"subject":     checksum(1, []*nats.Msg{{Subject: "A1"}}, position(2)),
	} {
		if other, ok := seen[sum]; ok {
			t.Errorf("%s and %s have one sum", name, other)
		}
		seen[sum] = name
	}
	two := &nats.Msg{Header: nats.Header{"A": {"1"}, "B": {"2"}, "C": {"3"}}}
	first := checksum(1, []*nats.Msg{two}, nil)
	for range 20 {
		if checksum(1, []*nats.Msg{two}, nil) != first {
			t.Fatal("the sum depends on the order of a map")
		}
	}
}
