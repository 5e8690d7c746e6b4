package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pelton/engine/wire"
)

func TestCheckJSON(t *testing.T) {
	limits := wire.Limits{Bytes: 64, Depth: 3, Keys: 4}
	for _, body := range []string{
		"null", "true", "0", "-1.5e300", `""`, `"a"`, "[]", "{}", " {} ", "\n[1,2]\t", "[[[1]]]", `{"a":{"b":{}}}`, `{"a":1,"b":2,"c":3,"d":4}`,
		`{"":""}`, `"[[[[[["`, `"{:::::::}"`, `{"a\"[[[[":1}`, `"\\"`, `["\\\"]]]"]`, `"ä"`, `"\ud800"`, "123456789012345678901234567890",
		strings.Repeat(" ", 63) + "1",
	} {
		if err := limits.CheckJSON([]byte(body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	for body, want := range map[string]string{
		"":                                    "body: empty, must be JSON",
		" ":                                   "body: not JSON, must be JSON",
		"{":                                   "body: not JSON, must be JSON",
		"}{":                                  "body: not JSON, must be JSON",
		"[}":                                  "body: not JSON, must be JSON",
		"1 2":                                 "body: not JSON, must be JSON",
		"{} {}":                               "body: not JSON, must be JSON",
		"{}x":                                 "body: not JSON, must be JSON",
		"nul":                                 "body: not JSON, must be JSON",
		"NaN":                                 "body: not JSON, must be JSON",
		"01":                                  "body: not JSON, must be JSON",
		"'a'":                                 "body: not JSON, must be JSON",
		`"a`:                                  "body: not JSON, must be JSON",
		`"\`:                                  "body: not JSON, must be JSON",
		"[1,]":                                "body: not JSON, must be JSON",
		`{"a"}`:                               "body: not JSON, must be JSON",
		"{a:1}":                               "body: not JSON, must be JSON",
		"\ufeff{}":                            "body: not JSON, must be JSON",
		"{}\x00":                              "body: not JSON, must be JSON",
		"\"\n\"":                              "body: not JSON, must be JSON",
		"\"\xff\"":                            "body: not UTF-8, must be JSON",
		"\"\xed\xa0\x80\"":                    "body: not UTF-8, must be JSON",
		"[[[[]]]]":                            "body: 4 levels deep, must be at most 3 levels deep",
		`{"a":[{"b":[]}]}`:                    "body: 4 levels deep, must be at most 3 levels deep",
		`[{"a":1,"b":2,"c":3},{"d":4,"e":5}]`: "body: 5 keys, must have at most 4 keys",
		strings.Repeat(" ", 64) + "1":         "body: 65 bytes, must be at most 64 bytes",
	} {
		err := limits.CheckJSON([]byte(body))
		var broken *wire.BodyError
		if !errors.As(err, &broken) || err.Error() != want {
			t.Errorf("%q: %v, want %s", body, err, want)
		}
	}
	if err := wire.DefaultLimits.CheckSize(make([]byte, 512<<10)); err != nil {
		t.Error(err)
	}
	if err := wire.DefaultLimits.CheckSize(make([]byte, 600_000)); err == nil || err.Error() != "body: 600000 bytes, must be at most 524288 bytes" {
		t.Error(err)
	}
}

// TestCheckJSONDoesNotRecurse gives it a stack on which a million levels would
// not fit.
func TestCheckJSONDoesNotRecurse(t *testing.T) {
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
	nested := func(levels int, open, end string) []byte {
		return []byte(strings.Repeat(open, levels) + "1" + strings.Repeat(end, levels))
	}
	tests := []struct {
		name   string
		body   []byte
		limits wire.Limits
		want   string
	}{
		{"100,000 levels", nested(100_000, "[", "]"), wire.DefaultLimits, "body: 100000 levels deep, must be at most 32 levels deep"},
		{"100,000 objects", nested(100_000, `{"":`, "}"), wire.Limits{Bytes: 1 << 20, Depth: 32, Keys: 1}, "body: 100000 levels deep, must be at most 32 levels deep"},
		{"100,000 never closed", bytes.Repeat([]byte("["), 100_000), wire.DefaultLimits, "body: 100000 levels deep, must be at most 32 levels deep"},
		{"2 MiB of levels", nested(1<<20, "[", "]"), wire.DefaultLimits, "body: 2097153 bytes, must be at most 524288 bytes"},
		{"2 MiB of levels, no limit", nested(1<<20, "[", "]"), wire.Limits{Bytes: 4 << 20, Depth: 4 << 20, Keys: 1}, "body: not JSON, must be JSON"},
		{"2 MiB flat", append(append([]byte(`"`), bytes.Repeat([]byte(`\\`), 1<<20)...), '"'), wire.Limits{Bytes: 4 << 20, Depth: 1, Keys: 1}, ""},
	}
	for _, test := range tests {
		err := test.limits.CheckJSON(test.body)
		if got := errorText(err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzCheckJSON(f *testing.F) {
	for _, body := range []string{"", "null", `{"a":[1,{"b":"\"[:"}]}`, "[[[[[]]]]]", `{"a":1,"b":2,"c":3,"d":4}`, "\"\xff\"", "1 2", `"\`, "]{"} {
		f.Add([]byte(body))
	}
	limits := wire.Limits{Bytes: 1 << 10, Depth: 4, Keys: 3}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := limits.CheckJSON(body)
		depth, keys, ok := decoded(body)
		want := ok && len(body) <= limits.Bytes && depth <= limits.Depth && keys <= limits.Keys && utf8.Valid(body)
		if (err == nil) != want {
			t.Errorf("%q: %v; depth %d, keys %d, JSON %t", body, err, depth, keys, ok)
		}
		if err != nil && len(err.Error()) > 100 {
			t.Errorf("error %s", strconv.Quote(err.Error()))
		}
	})
}

// decoded says the same as CheckJSON by the decoder of the standard library.
func decoded(body []byte) (deepest, keys int, ok bool) {
	if !json.Valid(body) {
		return 0, 0, false
	}
	type level struct{ object, value bool }
	var stack []level
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return deepest, keys, true
		}
		if top := len(stack) - 1; top >= 0 && stack[top].object && token != json.Delim('}') {
			if !stack[top].value {
				keys++
				stack[top].value = true
				continue
			}
			stack[top].value = false
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{object: true})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		deepest = max(deepest, len(stack))
	}
}
