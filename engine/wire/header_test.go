package wire_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

// fullHeader has every header that a task can carry.
func fullHeader() wire.Header {
	h := wire.Header{}
	h.Set(wire.HeaderID, "mail-41")
	h.Set(wire.HeaderETA, wire.FormatTime(now.Add(1500*time.Millisecond)))
	h.Set(wire.HeaderExpires, "1h")
	h.Set(wire.HeaderAttempt, "2")
	h.Set(wire.HeaderMaxAttempts, "5")
	h.Set(wire.HeaderBackoff, wire.Backoff{Min: time.Second, Max: 10 * time.Minute}.String())
	h.Set(wire.HeaderTimeout, (30 * time.Second).String())
	h.Set(wire.HeaderRun, "3")
	h.Set(wire.HeaderGeneration, "4")
	h.Set(wire.HeaderParent, "order-76")
	h.Set(wire.HeaderRoot, "order-1")
	h.Set(wire.HeaderFlow, "chain/2")
	h.Set(wire.HeaderOrigin, wire.JoinOrigins(wire.KafkaOrigin{Topic: "commands", Partition: 3, Offset: 18422}.String(), "discord:123/456"))
	h.Set(wire.HeaderReplyTopic, "results")
	h.Set(wire.HeaderReplyKey, "customer 7")
	h.Set(wire.HeaderContentType, "application/json; charset=utf-8")
	h.Set(wire.HeaderTraceParent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	h.Set(wire.HeaderTraceState, "vendor=1")
	h.Set(wire.HeaderBaggage, "user=7")
	return h
}

func TestHeadersGolden(t *testing.T) {
	h := fullHeader()
	h.Set(wire.HeaderDelay, "5m")
	h.Set(wire.HeaderErrorType, wire.FailureError)
	h.Set(wire.HeaderError, "upstream 503")
	h.Set(wire.HeaderDiedAt, wire.FormatTime(now))
	var b strings.Builder
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range h {
			if !yield(name) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s: %s\n", name, h.Value(name))
	}
	mustEqualGolden(t, "headers.txt", []byte(b.String()))
}

func TestLookup(t *testing.T) {
	for name, h := range map[string]wire.Header{
		"as asked":           {"Pelton-Id": {"a"}},
		"lower case":         {"pelton-id": {"a"}},
		"upper case":         {"PELTON-ID": {"a"}},
		"exact one wins":     {"PELTON-ID": {"b"}, "Pelton-Id": {"a"}, "pelton-id": {"c"}},
		"first of the rest":  {"pelton-id": {"b"}, "PELTON-ID": {"a"}, "Pelton-ID": {"c"}},
		"first value":        {"pelton-id": {"a", "b"}},
		"empty lists do not": {"Pelton-Id": {}, "PELTON-ID": nil, "pelton-id": {"a"}},
		"through http":       wire.Header(http.Header{"Pelton-Id": {"a"}}),
	} {
		for range 10 { // whatever the order of the map
			if got, ok := h.Lookup(wire.HeaderID); !ok || got != "a" {
				t.Errorf("%s: %q, %t", name, got, ok)
			}
		}
	}
	for _, h := range []wire.Header{nil, {}, {"Pelton-Idx": {"a"}, "Pelton": {"a"}, "Pelton_Id": {"a"}, "Pelton-Id": {}}} {
		if got, ok := h.Lookup(wire.HeaderID); ok || got != "" || h.Value(wire.HeaderID) != "" {
			t.Errorf("%v has %q", h, got)
		}
	}
}

func TestSetAndDelete(t *testing.T) {
	h := wire.Header{"pelton-id": {"a"}, "PELTON-ID": {"b"}, "X": {"c"}}
	h.Set(wire.HeaderID, "d")
	if want := (wire.Header{"Pelton-Id": {"d"}, "X": {"c"}}); !reflect.DeepEqual(h, want) {
		t.Errorf("%v, want %v", h, want)
	}
	h.Delete("pelton-ID")
	if want := (wire.Header{"X": {"c"}}); !reflect.DeepEqual(h, want) {
		t.Errorf("%v, want %v", h, want)
	}
}

func TestOwn(t *testing.T) {
	h := wire.Header{"Nats-Rollup": {"all"}, "nats-ttl": {"1s"}, "NATS-Msg-Id": {"a"}, "Nats": {"b"}, "Natsy-X": {"c"}, "Pelton-Id": {"d", "e"}}
	own := h.Own()
	if want := (wire.Header{"Nats": {"b"}, "Natsy-X": {"c"}, "Pelton-Id": {"d", "e"}}); !reflect.DeepEqual(own, want) {
		t.Errorf("%v, want %v", own, want)
	}
	own["Pelton-Id"][0] = "changed"
	if h.Value(wire.HeaderID) != "d" {
		t.Error("the copy shares memory with the original")
	}
	if own := wire.Header(nil).Own(); own == nil || len(own) > 0 {
		t.Errorf("of nothing: %v", own)
	}
}

func TestParseMeta(t *testing.T) {
	for _, h := range []wire.Header{nil, {}, {"X-Other": {"1"}, "Nats-Msg-Id": {"2"}}} {
		if m, err := wire.ParseMeta(h, now); err != nil || m != (wire.Meta{Attempt: 1, Run: 1}) {
			t.Errorf("%v: %+v, %v", h, m, err)
		}
	}
	want := wire.Meta{
		ID: "mail-41", ETA: now.Add(1500 * time.Millisecond), Expires: now.Add(time.Hour),
		Attempt: 2, MaxAttempts: 5, Backoff: wire.Backoff{Min: time.Second, Max: 10 * time.Minute}, Timeout: 30 * time.Second, Run: 3, Generation: 4,
		Parent: "order-76", Root: "order-1", Flow: "chain/2", Origin: "kafka:commands/3@18422, discord:123/456",
		ReplyTopic: "results", ReplyKey: "customer 7", ContentType: "application/json; charset=utf-8",
		Trace: wire.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "vendor=1", Baggage: "user=7"},
	}
	spellings := map[string]func(string) string{"own": func(s string) string { return s }, "lower": strings.ToLower, "upper": strings.ToUpper}
	for spelling, spell := range spellings {
		h := wire.Header{}
		for name, values := range fullHeader() {
			h[spell(name)] = values
		}
		if m, err := wire.ParseMeta(h, now); err != nil || m != want {
			t.Errorf("in %s case: %+v, %v", spelling, m, err)
		}
	}
	h := wire.Header{wire.HeaderDelay: {"5m"}, wire.HeaderExpires: {"2026-11-23T00:00:00+01:00"}}
	m, err := wire.ParseMeta(h, now)
	if err != nil || !m.ETA.Equal(now.Add(5*time.Minute)) || !m.Expires.Equal(time.Date(2026, 11, 22, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestParseMetaRefuses(t *testing.T) {
	const (
		ruleDuration = "must be a duration as 1m30s, from 0 to a year (8760h)"
		ruleETA      = "must be a time as 2026-11-22T22:29:10.5Z, at most a year ahead"
		ruleInstant  = "must be a time as 2026-11-22T22:29:10.5Z or a duration as 5m, at most a year ahead"
		ruleBackoff  = "must be <min>..<max>, as 1s..10m, or at most 32 waits, as 5s or 1s,5s,1m, each above 0 and at most a year"
		ruleZone     = "must name its zone, as 2026-11-22T22:29:10Z or 2026-11-22T23:29:10+01:00"
		ruleAhead    = "must lie at most a year (8760h) ahead"
		ruleCount    = "must be a whole number from 1 to 1000000"
		ruleTopic    = "must match [A-Za-z0-9._-]{1,249}"
	)
	tests := []struct {
		header string
		values []string
		rule   string // after the header's name and the value
	}{
		{wire.HeaderDelay, []string{"", "5", "-1s", "8761h", "1e3s", "5 m", "5 minutes", "five", "∞", "9223372036854775807h"}, ruleDuration},
		{wire.HeaderTimeout, []string{"", "5", "-1ns", "8760h1ns"}, ruleDuration},
		{wire.HeaderETA, []string{"", "5m", "tomorrow", "2026-11-22", "2026-11-22 22:29:10Z", "10000-01-01T00:00:00Z", "1795386550"}, ruleETA},
		{wire.HeaderETA, []string{"2026-11-22T22:29:10", "2026-11-22T22:29:10.5"}, ruleZone},
		{wire.HeaderETA, []string{"2028-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}, ruleAhead},
		{wire.HeaderExpires, []string{"", "5", "-5m", "8761h", "tomorrow", "5 minutes"}, ruleInstant},
		{wire.HeaderExpires, []string{"2026-11-22T22:29:10"}, ruleZone},
		{wire.HeaderExpires, []string{"2028-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}, ruleAhead},
		{wire.HeaderBackoff, []string{"", "5", "0s", "1s,", ",1s", "1s, 2s", "1s,-2s", "1s,8761h", strings.Repeat("1s,", 32) + "1s", "1s..2s,3s", "1s..", "..1s", "10m..1s", "0s..1s", "-1s..1s", "1s..8761h", "1s-2s", "1s..2s..3s"}, ruleBackoff},
		{wire.HeaderAttempt, []string{"", "0", "-1", "1.5", "1000001", "two", "0x2", " 2", "99999999999999999999"}, ruleCount},
		{wire.HeaderMaxAttempts, []string{"", "0", "1000001"}, ruleCount},
		{wire.HeaderRun, []string{"", "0", "1000001"}, ruleCount},
		{wire.HeaderGeneration, []string{"", "0", "-1", "1000001"}, ruleCount},
		{wire.HeaderFlow, []string{strings.Repeat("f", 4097)}, "must be at most 4096 bytes"},
		{wire.HeaderTraceState, []string{strings.Repeat("f", 4097)}, "must be at most 4096 bytes"},
	}
	for _, test := range tests {
		for _, value := range test.values {
			_, err := wire.ParseMeta(wire.Header{test.header: {value}}, now)
			mustSay(t, err, fmt.Sprintf("%s %q: %s", test.header, cut(value), test.rule))
		}
	}
	for _, value := range hostile {
		for _, header := range []string{wire.HeaderID, wire.HeaderParent, wire.HeaderRoot} {
			_, err := wire.ParseMeta(wire.Header{header: {value}}, now)
			mustSay(t, err, fmt.Sprintf("%s: id %q: %s", header, cut(value), wire.RuleID))
		}
	}
	for _, topic := range []string{"", ".", "..", "a b", "a/b", "ä", strings.Repeat("a", 250)} {
		_, err := wire.ParseMeta(wire.Header{wire.HeaderReplyTopic: {topic}}, now)
		mustSay(t, err, fmt.Sprintf("Pelton-Reply-Topic: topic %q: %s", cut(topic), ruleTopic))
	}
	_, err := wire.ParseMeta(wire.Header{wire.HeaderOrigin: {"nowhere"}}, now)
	mustSay(t, err, `Pelton-Origin: Pelton-Origin "nowhere": `+wire.RuleOrigin)
	_, err = wire.ParseMeta(wire.Header{wire.HeaderDelay: {"5m"}, wire.HeaderETA: {"2026-11-22T23:00:00Z"}}, now)
	mustSay(t, err, `Pelton-Delay "5m": must not stand beside Pelton-Eta`)
}

func TestWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		waits := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(1, int64(wire.MaxDuration)).Draw(t, "wait"))
		}), 1, wire.MaxWaits).Draw(t, "waits")
		text := wire.FormatWaits(waits...)
		m, err := wire.ParseMeta(wire.Header{wire.HeaderBackoff: {text}}, now)
		if err != nil || m.Backoff != (wire.Backoff{}) {
			t.Fatalf("%s: %+v, %v", text, m, err)
		}
		if !slices.Equal(m.Waits.All(), waits) {
			t.Fatalf("%s are %s", text, m.Waits.All())
		}
		attempt := rapid.IntRange(1, wire.MaxAttempts).Draw(t, "attempt")
		if got, want := m.Waits.After(attempt), waits[min(attempt, len(waits))-1]; got != want {
			t.Fatalf("%s after attempt %d: %s, want %s", text, attempt, got, want)
		}
	})
}

// TestTimesAreReadAsWritten: what this package writes it reads again, to the
// nanosecond, and what lies further ahead than a year it refuses.
func TestTimesAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ahead := time.Duration(rapid.Int64Range(-int64(100*wire.MaxDuration), int64(2*wire.MaxDuration)).Draw(t, "ahead"))
		at := now.Add(ahead)
		got, err := wire.ParseTime("eta", wire.FormatTime(at), now)
		if ahead > wire.MaxDuration {
			if !errors.Is(err, wire.ErrInvalidName) {
				t.Fatalf("%s: %v", at, err)
			}
			return
		}
		if err != nil || !got.Equal(at) {
			t.Fatalf("%s became %s, %v", at, got, err)
		}
		instant, err := wire.ParseInstant("expires", wire.FormatTime(at), now)
		if err != nil || !instant.Equal(at) {
			t.Fatalf("%s became %s, %v", at, instant, err)
		}
	})
}

// TestForeignHeadersAreBounded: Pelton's headers and the broker's do not count.
func TestForeignHeadersAreBounded(t *testing.T) {
	h := fullHeader()
	for i := range 100 {
		h.Set(fmt.Sprintf("Nats-X-%d", i), strings.Repeat("x", 1000))
	}
	if _, err := wire.ParseMeta(h, now); err != nil {
		t.Error(err)
	}
	many := wire.Header{}
	for i := range wire.MaxHeaders + 1 {
		many.Set(fmt.Sprintf("X-%d", i), "")
	}
	for name, h := range map[string]wire.Header{"many": many, "large": {"X": {strings.Repeat("x", wire.MaxHeaderBytes)}}} {
		var bad *wire.NameError
		if _, err := wire.ParseMeta(h, now); !errors.As(err, &bad) || bad.Field != "headers" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHeaderNames: what is taken is what the rule says, one by one and among the
// headers of a task.
func TestHeaderNames(t *testing.T) {
	rule := regexp.MustCompile("\\A[A-Za-z0-9!#$%&'*+.^_`|~-]+\\z")
	check := func(name string) {
		t.Helper()
		err := wire.CheckHeaderName(name)
		if legal := rule.MatchString(name); legal != (err == nil) {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil {
			mustSay(t, err, fmt.Sprintf("header %q: %s", cut(name), wire.RuleHeader))
		}
		if _, of := wire.ParseMeta(wire.Header{name: {"1"}}, now); (err == nil) != (of == nil) {
			t.Errorf("%q among headers: %v", name, of)
		}
	}
	for c := range 256 {
		check(string([]byte{byte(c)}))
		check("a" + string([]byte{byte(c)}))
	}
	for _, name := range append(hostile, "X-Customer", "traceparent") {
		check(name)
	}
}

func TestMetaJSON(t *testing.T) {
	for contentType, want := range map[string]bool{
		"": true, "application/json": true, "Application/JSON ; charset=utf-8": true, " application/json": true, ";": true,
		"text/plain": false, "application/jsonl": false, "application/problem+json": false, "application/octet-stream": false,
	} {
		if got := (wire.Meta{ContentType: contentType}).JSON(); got != want {
			t.Errorf("%q: %t", contentType, got)
		}
	}
}

func TestTimesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(wire.MaxDuration)).Draw(t, "duration"))
		if got, err := wire.ParseDuration("f", d.String()); err != nil || got != d {
			t.Fatalf("%v became %v, %v", d, got, err)
		}
		if got, err := wire.ParseInstant("f", d.String(), now); err != nil || !got.Equal(now.Add(d)) {
			t.Fatalf("in %v became %v, %v", d, got, err)
		}
		zone := time.FixedZone("", rapid.IntRange(-12, 14).Draw(t, "zone")*3600)
		at := now.Add(d).In(zone)
		if got, err := wire.ParseInstant("f", wire.FormatTime(at), now); err != nil || !got.Equal(at) {
			t.Fatalf("%v became %v, %v", at, got, err)
		}
		b := wire.Backoff{Min: max(d/3, 1), Max: max(d, 1)}
		if got, err := wire.ParseBackoff(b.String()); err != nil || got != b {
			t.Fatalf("%v became %v, %v", b, got, err)
		}
	})
}

func FuzzParseMeta(f *testing.F) {
	for name, values := range fullHeader() {
		f.Add(name, values[0], wire.HeaderDelay, "5m")
		f.Add(strings.ToLower(name), values[0], name, "")
	}
	for _, value := range hostile {
		f.Add(wire.HeaderOrigin, value, wire.HeaderBackoff, value)
	}
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		m, err := wire.ParseMeta(wire.Header{name1: {value1}, name2: {value2}}, now)
		if err != nil {
			mustSay(t, err, err.Error())
			if len(err.Error()) > 1200 {
				t.Errorf("the error repeats %d bytes", len(err.Error()))
			}
			return
		}
		latest := now.Add(wire.MaxDuration)
		if m.Attempt < 1 || m.Run < 1 || m.MaxAttempts < 0 || m.Timeout < 0 || m.Timeout > wire.MaxDuration || m.ETA.After(latest) || m.Expires.After(latest) {
			t.Errorf("out of bounds: %+v", m)
		}
		for _, id := range []string{m.ID, m.Parent, m.Root} {
			if id != "" && wire.CheckID(id) != nil {
				t.Errorf("id %q", id)
			}
		}
		if m.Origin != "" && wire.CheckOrigins(m.Origin) != nil {
			t.Errorf("origin %q", m.Origin)
		}
		if id, ok := wire.OriginID(m.Origin); ok && wire.CheckID(id) != nil {
			t.Errorf("origin %q has id %q", m.Origin, id)
		}
	})
}
