package schedules

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"pelton/engine/ledger"
)

// A ledger holds a position however often its outcomes change and however long
// it lives.
func TestPositionFits(t *testing.T) {
	p := position{
		Last: time.Now().UTC(), Source: SourceConfig, Generation: 1 << 62, Definition: digest("a"), Times: digest("b"), Zones: ZoneVersion(),
		Task: strings.Repeat("t", 64), Closed: closedRemoved, Paused: true,
	}
	outcomes := []string{Fired, SkipOverlap, SkipCatchUp, SkipPaused, Changed}
	at := time.Unix(lastNominal, 0).UTC()
	for i := range 10_000 {
		p.note(outcomes[i%len(outcomes)], at)
	}
	for outcome := range p.Counts {
		p.count(outcome, 1<<60)
	}
	for i := range p.Spans {
		p.Spans[i].Count = 1 << 60
	}
	body, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	const most = 4 << 10
	if len(body) > most-256 { // what the ledger itself adds
		t.Errorf("%d bytes, must leave room in %d", len(body), most)
	}
	if len(p.Spans) != keptSpans || p.Counts[SkipOverlap] != 2000+1<<60 {
		t.Errorf("%d spans, counts %v", len(p.Spans), p.Counts)
	}
}

// Whatever stands in a ledger is a position or an error, and what is read is
// what was written.
func FuzzReadPosition(f *testing.F) {
	f.Add([]byte(`{"last":"2026-11-22T00:00:00Z","source":"kv","generation":3,"spans":[{"outcome":"fired","from":"2026-11-22T00:00:00Z","to":"2026-11-22T00:00:00Z","count":1}]}`))
	f.Add([]byte(`{"counts":{"fired":-1},"spans":null}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"last":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := readPosition(ledger.Entry{Sequence: 1, Position: data})
		if err != nil {
			return
		}
		p.note(Fired, time.Unix(1, 0).UTC())
		p.changeTimes(time.Unix(2, 0).UTC())
		body, err := p.encode()
		if err != nil {
			return // a time that JSON cannot say
		}
		again, err := readPosition(ledger.Entry{Sequence: 1, Position: body})
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		first, _ := json.Marshal(p)
		second, _ := json.Marshal(again)
		if !reflect.DeepEqual(first, second) {
			t.Errorf("%s is read as %s", first, second)
		}
	})
}
