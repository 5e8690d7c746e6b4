package produce

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 1, 2, 13, 4, 5, 123456789, time.FixedZone("CET", 3600))

func TestEncodeWrapsText(t *testing.T) {
	for _, text := range []string{
		"hi", "", `a "quoted" <text> & more`, "zwei\nZeilen", "日本", "{not json", "[1,2", "[] and more",
		`"a string"`, "42", "true", "null", "  ",
	} {
		value, err := encode(text, noon)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(value, &got); err != nil {
			t.Fatalf("%q: %s: %v", text, value, err)
		}
		if len(got) != 3 || got["content"] != text || got["timestamp"] != "2026-01-02T12:04:05.123456Z" {
			t.Errorf("%q: %s", text, value)
		}
		if !uuidV4.MatchString(got["uuid"]) {
			t.Errorf("uuid %q", got["uuid"])
		}
		if _, err := time.Parse(time.RFC3339, got["timestamp"]); err != nil {
			t.Error(err)
		}
	}
}

func TestEncodeKeepsTheOriginalsFields(t *testing.T) {
	value, err := encode("<hi>", noon)
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^\{"uuid":"[0-9a-f-]{36}","content":"<hi>","timestamp":"2026-01-02T12:04:05\.123456Z"\}$`)
	if !want.Match(value) {
		t.Errorf("got %s", value)
	}
}

func TestEncodeLeavesDocuments(t *testing.T) {
	for _, doc := range []string{
		`{}`, `[]`, `{"b":1,"a":[1, 2]}`, ` { "n": 1.0 } `, "[\n1\n]", "\t[1]", `{"n":12345678901234567890}`,
	} {
		value, err := encode(doc, noon)
		if err != nil || string(value) != doc {
			t.Errorf("%q became %q, %v", doc, value, err)
		}
	}
}

func TestEncodeRefusesOtherEncodings(t *testing.T) {
	if _, err := encode("caf\xe9", noon); err == nil || err.Error() != "must be valid UTF-8" {
		t.Errorf("got %v", err)
	}
}

func FuzzEncode(f *testing.F) {
	for _, seed := range []string{"hi", `{"a":1}`, "[", "\xff", "{\x00}", "  [1] ", "\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		value, err := encode(message, noon)
		if err != nil {
			if utf8.ValidString(message) {
				t.Fatalf("%q: %v", message, err)
			}
			return
		}
		if !json.Valid(value) {
			t.Fatalf("%q became %q", message, value)
		}
		if string(value) == message {
			return
		}
		var got record
		if err := json.Unmarshal(value, &got); err != nil || got.Content != message {
			t.Fatalf("%q became %q, %v", message, value, err)
		}
	})
}

var uuidV4 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestUUID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newUUID()
		if !uuidV4.MatchString(id) {
			t.Fatalf("%q is no version 4", id)
		}
		if seen[id] {
			t.Fatalf("%q twice", id)
		}
		seen[id] = true
	}
}
