package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// scanned are documents, and how they can be broken.
var scanned = []string{
	`"plain and long enough for more than eight bytes at a time"`, `"\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00"`, `"é€😀"`, `""`,
	`0`, `-0`, `12`, `-1.5`, `1e9`, `1E+9`, `1.25e-3`, `true`, `false`, `null`, `[]`, `{}`, ` [ ] `, ` { } `,
	`[1,"two",[3,{"four":[5]}],{}]`, `{"a":1,"b":{"c":[true,false,null]},"":""}`, "\t{\n\"a\" : [ 1 , 2 ]\r\n} ",
	``, ` `, `"`, `"\`, `"\u12`, `"\x"`, "\"\x01\"", "\"a tab\tin a text\"", "\"\xff\"", `01`, `-`, `1.`, `.5`, `1e`, `1e+`, `+1`, `0x1`,
	`tru`, `truer`, `nul`, `[`, `]`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `[1}`, `{`, `}`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`,
	`{"a":1]`, `{1:2}`, `1 2`, `"a" "b"`, "null\x00", "\x00", "\ufeff1", `[[[[[[[[[[]]]]]]]]]]`, `{"a":{"b":{"c":{"d":{}}}}}`,
}

// agrees fails where a scan does not say what encoding/json does.
func agrees(t interface {
	Helper()
	Errorf(string, ...any)
}, l Limits, body []byte,
) {
	t.Helper()
	if err := l.explain(body); l.within(body) != (err == nil) {
		t.Errorf("within says %v of %q, but: %v", l.within(body), body, err)
	}
}

func TestScanAgrees(t *testing.T) {
	for _, doc := range scanned {
		agrees(t, DefaultLimits, []byte(doc))
		for i := range doc { // where a word of eight bytes begins must not matter
			agrees(t, DefaultLimits, []byte(strings.Repeat(" ", i)+doc))
		}
		agrees(t, Limits{Bytes: 1 << 10, Depth: 3, Keys: 2}, []byte(doc))
	}
	for depth := range scanDepth + 2 {
		body := []byte(strings.Repeat(`[{"a":`, depth/2) + strings.Repeat("[", depth%2) + strings.Repeat("]", depth%2) + strings.Repeat(`1}]`, min(1, depth/2)) + strings.Repeat("}]", max(0, depth/2-1)))
		agrees(t, Limits{Bytes: 1 << 10, Depth: scanDepth, Keys: scanDepth}, body)
	}
	deep := []byte(strings.Repeat("[", scanDepth+1) + strings.Repeat("]", scanDepth+1))
	if err := (Limits{Bytes: 1 << 10, Depth: 1000, Keys: 1}).CheckJSON(deep); err != nil {
		t.Errorf("deeper than a scan follows: %v", err)
	}
}

// TestScanAgreesOnWhatIsAlmostJSON breaks random documents at random places.
func TestScanAgreesOnWhatIsAlmostJSON(t *testing.T) {
	text := rapid.SampledFrom([]string{"", "a", `a "quoted" word`, "\\", "\x1f", "é", "eight bytes", "a text of some length \u2028"})
	value := rapid.Deferred(func() *rapid.Generator[any] { return documents(text, 4) })
	rapid.Check(t, func(t *rapid.T) {
		body, err := json.Marshal(value.Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		agrees(t, DefaultLimits, body)
		for range rapid.IntRange(1, 3).Draw(t, "breaks") {
			at := rapid.IntRange(0, len(body)).Draw(t, "at")
			switch rapid.SampledFrom([]string{"cut", "put", "flip", "drop"}).Draw(t, "how") {
			case "cut":
				body = body[:at]
			case "put":
				body = append(body[:at:at], append([]byte{rapid.SampledFrom([]byte("\"\\{}[],:0-.eE+tn u\x00\x1f\x7f\x80\xff")).Draw(t, "byte")}, body[at:]...)...)
			case "flip":
				if at < len(body) {
					body[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
				}
			case "drop":
				if at < len(body) {
					body = append(body[:at:at], body[at+1:]...)
				}
			}
			agrees(t, DefaultLimits, body)
		}
	})
}

func documents(text *rapid.Generator[string], depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Map(text, func(s string) any { return s }),
		rapid.Map(rapid.Float64Range(-1e9, 1e9), func(f float64) any { return f }),
		rapid.Map(rapid.Int(), func(n int) any { return n }),
		rapid.SampledFrom([]any{true, false, nil, 0, 1e-9, 1e300}),
	)
	if depth == 0 {
		return leaf
	}
	below := documents(text, depth-1)
	return rapid.OneOf(leaf,
		rapid.Map(rapid.SliceOfN(below, 0, 4), func(s []any) any { return s }),
		rapid.Map(rapid.MapOfN(text, below, 0, 4), func(m map[string]any) any { return m }),
	)
}

func FuzzScan(f *testing.F) {
	for _, doc := range scanned {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		agrees(t, Limits{Bytes: 1 << 20, Depth: scanDepth, Keys: 100}, body)
	})
}

func BenchmarkCheckJSON(b *testing.B) {
	for name, body := range map[string]string{
		"text":   `"` + strings.Repeat("x", 254) + `"`,
		"object": `{"to":"somebody@example.org","subject":"Your order 123456 has left","lines":[{"sku":"A-100","n":2,"price":1299},{"sku":"B-200","n":1,"price":399.5}],"locale":"de_DE","urgent":false,"note":null,"parent":"00-0af7651916cd43dd8448eb211c80319c-01"}`,
	} {
		data := []byte(body)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := DefaultLimits.CheckJSON(data); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/encoding-json", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := DefaultLimits.explain(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
