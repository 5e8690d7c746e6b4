package wire_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pelton/engine/wire"
)

func TestKafkaOrigin(t *testing.T) {
	tests := []struct {
		origin wire.KafkaOrigin
		entry  string
		id     string
	}{
		{wire.KafkaOrigin{Topic: "commands", Partition: 3, Offset: 18422}, "kafka:commands/3@18422", "commands-3-18422"},
		{wire.KafkaOrigin{Topic: "Orders", Partition: 3, Offset: 18422, Route: "orders"}, "kafka:Orders/3@18422;route=orders", "orders-3-18422"},
		{wire.KafkaOrigin{Topic: "eu.a", Partition: 3, Offset: 18422, Route: "orders", Several: true}, "kafka:eu.a/3@18422;route=orders=", "orders=eu=a-3-18422"},
		{wire.KafkaOrigin{Topic: "a", Offset: 1, Route: "a", Several: true}, "kafka:a/0@1;route=a=", "a=a-0-1"},
		{wire.KafkaOrigin{Topic: "commands", Partition: 3, Offset: 18422, Generation: 2}, "kafka:commands/3@18422;g=2", "commands-3-18422-g2"},
		{wire.KafkaOrigin{Topic: "a_b", Offset: math.MaxInt64, Partition: math.MaxInt32, Route: "r", Generation: 12}, "kafka:a_b/2147483647@9223372036854775807;route=r;g=12", "r-2147483647-9223372036854775807-g12"},
	}
	for _, test := range tests {
		if got := test.origin.String(); got != test.entry {
			t.Errorf("%+v is %s, want %s", test.origin, got, test.entry)
		}
		if got := test.origin.ID(); got != test.id {
			t.Errorf("%s has id %s, want %s", test.entry, got, test.id)
		}
		if got, err := wire.ParseKafkaOrigin(test.entry); err != nil || got != test.origin {
			t.Errorf("%s: %+v, %v", test.entry, got, err)
		}
		if id, ok := wire.OriginID(test.entry + ", discord:123/456"); !ok || id != test.id {
			t.Errorf("OriginID(%s) = %s, %t", test.entry, id, ok)
		}
	}
	// Two ways of saying the same.
	for entry, origin := range map[string]wire.KafkaOrigin{
		"kafka:a/0@1":          {Topic: "a", Offset: 1, Route: "a", Generation: 1},
		"kafka:a/0@1;route=a=": {Topic: "a", Offset: 1, Several: true},
	} {
		if origin.String() != entry {
			t.Errorf("%+v is %s, want %s", origin, origin, entry)
		}
	}
	const rule = "must be kafka:<topic>/<partition>@<offset>[;route=<route>][;g=<n>]"
	for _, entry := range append([]string{
		"kafka:", "kafka:/3@1", "kafka:a", "kafka:a/3", "kafka:a@1", "kafka:a/@1", "kafka:a/3@", "kafka:a/b@1", "kafka:a/3@b", "kafka:a b/3@1",
		"Kafka:a/3@1", " kafka:a/3@1", "kafka:a/3@1 ", "kafka:a/3@1\n", "kafka:a/03@1", "kafka:a/3@01", "kafka:a/+3@1", "kafka:a/-3@1", "kafka:a/3@-1",
		"kafka:a/2147483648@1", "kafka:a/3@9223372036854775808", "kafka:a/3/4@1", "kafka:a/3@1@2",
		"kafka:a/3@1;", "kafka:a/3@1;x=1", "kafka:a/3@1;route=", "kafka:a/3@1;route=a", "kafka:a/3@1;route==", "kafka:a/3@1;route=R", "kafka:a/3@1;route=b;",
		"kafka:a/3@1;g=", "kafka:a/3@1;g=0", "kafka:a/3@1;g=1", "kafka:a/3@1;g=+2", "kafka:a/3@1;g=02", "kafka:a/3@1;g=2;route=b", "kafka:a/3@1;g=2;", "kafka:a/3@1;route=b;g=2;g=3",
		"kafka:" + strings.Repeat("a", 250) + "/3@1", "kafka:*/3@1", "kafka:>/3@1",
	}, hostile...) {
		_, err := wire.ParseKafkaOrigin(entry)
		mustSay(t, err, fmt.Sprintf("Pelton-Origin %q: %s", cut(entry), rule))
	}
}

func TestBeatOrigin(t *testing.T) {
	o := wire.BeatOrigin{Entry: "nightly", Nominal: time.Date(2026, 11, 22, 1, 0, 0, 0, time.FixedZone("CET", 3600))}
	const entry = "beat:nightly@2026-11-22T00:00:00Z"
	if o.String() != entry || o.ID() != "nightly-1795305600" {
		t.Errorf("%s has id %s", o, o.ID())
	}
	if got, err := wire.ParseBeatOrigin(entry); err != nil || got.Entry != o.Entry || !got.Nominal.Equal(o.Nominal) {
		t.Errorf("%+v, %v", got, err)
	}
	if id, ok := wire.OriginID(entry); !ok || id != o.ID() {
		t.Errorf("OriginID = %s, %t", id, ok)
	}
	for _, entry := range append([]string{
		"beat:", "beat:nightly", "beat:nightly@", "beat:@2026-11-22T00:00:00Z", "beat:Nightly@2026-11-22T00:00:00Z", "nightly@2026-11-22T00:00:00Z",
		"beat:nightly@2026-11-22T01:00:00+01:00", "beat:nightly@2026-11-22T00:00:00.5Z", "beat:nightly@2026-11-22T00:00:00z", "beat:nightly@2026-13-22T00:00:00Z",
		"beat:nightly@2026-11-22", "beat:nightly@1795305600", "beat:nightly@2026-11-22T00:00:00Z ", "beat:a.b@2026-11-22T00:00:00Z",
	}, hostile...) {
		_, err := wire.ParseBeatOrigin(entry)
		mustSay(t, err, fmt.Sprintf("Pelton-Origin %q: must be beat:<entry>@<RFC 3339 time>", cut(entry)))
	}
}

func TestChains(t *testing.T) {
	chain := wire.JoinOrigins("kafka:commands/3@18422", wire.JoinOrigins("", wire.JoinOrigins("discord:123/456", "")))
	if chain != "kafka:commands/3@18422, discord:123/456" {
		t.Errorf("chain %q", chain)
	}
	if got := wire.NearestOrigin(chain); got != "kafka:commands/3@18422" {
		t.Errorf("nearest %q", got)
	}
	for _, ok := range []string{chain, "discord:123/456", "a:b", "a:b,c:d", "a:b , c:d", "http:https://example.com/?a=b"} {
		if err := wire.CheckOrigins(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"", ",", "a", "a:", ":b", "a:b,", ",a:b", "a:b,,c:d", "A:b", "a b:c", "a:b c", "a:b\n", "a:b,\nc:d", "a:b,\tc:d", "a:ä", "a:b,\u00a0c:d", "a:\x7f", "a.b:c",
		strings.Repeat("a", 33) + ":b",
	} {
		mustSay(t, wire.CheckOrigins(bad), fmt.Sprintf("Pelton-Origin %q: %s", bad, wire.RuleOrigin))
	}
	long := "a:" + strings.Repeat("b", 1023)
	mustSay(t, wire.CheckOrigins(long), fmt.Sprintf("Pelton-Origin %q: must be at most 1024 bytes", cut(long)))
	if err := wire.CheckOrigins(long[:1024]); err != nil {
		t.Error(err)
	}
}

func TestOriginID(t *testing.T) {
	for _, chain := range append([]string{
		"discord:123/456", "discord:123/456, kafka:commands/3@18422", // only the nearest counts
		"kafka:commands", "beat:nightly", "kafka:eu.a/3@1", // a dot is no part of an id
		"kafka:" + strings.Repeat("a", 120) + "/3@18422222222", // too long for an id
	}, hostile...) {
		if id, ok := wire.OriginID(chain); ok {
			t.Errorf("OriginID(%q) = %s", chain, id)
		}
	}
}

var (
	anyKafkaOrigin = rapid.Custom(func(t *rapid.T) wire.KafkaOrigin {
		return wire.KafkaOrigin{
			Topic:      rapid.StringMatching(`[A-Za-z0-9._-]{1,249}`).Draw(t, "topic"),
			Partition:  rapid.Int32Min(0).Draw(t, "partition"),
			Offset:     rapid.Int64Min(0).Draw(t, "offset"),
			Route:      rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,63}`).Draw(t, "route"),
			Several:    rapid.Bool().Draw(t, "several"),
			Generation: rapid.IntRange(0, 9).Draw(t, "generation"),
		}
	})
	anyTime = rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "seconds"), 0).UTC()
	})
)

func TestOriginRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kafka := anyKafkaOrigin.Draw(t, "kafka")
		got, err := wire.ParseKafkaOrigin(kafka.String())
		if err != nil || got.String() != kafka.String() || got.ID() != kafka.ID() {
			t.Fatalf("%+v became %+v, %v", kafka, got, err)
		}
		if err := wire.CheckOrigins(wire.JoinOrigins(kafka.String(), "discord:1/2")); err != nil {
			t.Fatal(err)
		}
		beat := wire.BeatOrigin{Entry: anyQueue.Draw(t, "entry"), Nominal: anyTime.Draw(t, "nominal")}
		if got, err := wire.ParseBeatOrigin(beat.String()); err != nil || got != beat {
			t.Fatalf("%+v became %+v, %v", beat, got, err)
		}
	})
}

// TestPositionsHaveTheirOwnIDs: two records never share an id unless they are
// the same position of the same route.
func TestPositionsHaveTheirOwnIDs(t *testing.T) {
	near := rapid.Custom(func(t *rapid.T) wire.KafkaOrigin {
		return wire.KafkaOrigin{
			Topic:      rapid.SampledFrom([]string{"a", "a-1", "a-1-2", "a.1", "a_1"}).Draw(t, "topic"),
			Partition:  rapid.Int32Range(0, 2).Draw(t, "partition"),
			Offset:     rapid.Int64Range(0, 2).Draw(t, "offset"),
			Route:      rapid.SampledFrom([]string{"a", "a-1", "a-1-2"}).Draw(t, "route"),
			Several:    rapid.Bool().Draw(t, "several"),
			Generation: rapid.IntRange(1, 3).Draw(t, "generation"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		x, y := near.Draw(t, "x"), near.Draw(t, "y")
		if !x.Several {
			x.Topic = x.Route
		}
		if !y.Several {
			y.Topic = y.Route
		}
		if x != y && x.ID() == y.ID() {
			t.Fatalf("%s and %s are both %s", x, y, x.ID())
		}
	})
}

func FuzzParseKafkaOrigin(f *testing.F) {
	for _, entry := range append([]string{
		"kafka:commands/3@18422", "kafka:Orders/3@18422;route=orders", "kafka:eu.a/3@18422;route=orders=", "kafka:a/0@0;g=2", "kafka:a/03@1", "kafka:a/3@1;route=a",
	}, hostile...) {
		f.Add(entry)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		o, err := wire.ParseKafkaOrigin(entry)
		if err != nil {
			mustSay(t, err, err.Error())
			return
		}
		if o.String() != entry {
			t.Errorf("%q is read as %+v, which is %q", entry, o, o)
		}
		if len(entry) <= 1024 && wire.CheckOrigins(entry) != nil {
			t.Errorf("%q is no origin", entry)
		}
	})
}
