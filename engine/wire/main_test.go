package wire_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pelton/engine/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// mustEqualGolden holds bytes of the contract against a file. A change of such
// a file is a change that other clients see.
func mustEqualGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; it is now\n%s", file, got)
	}
}

// mustSay fails unless an error is a NameError with this text.
func mustSay(t *testing.T, err error, want string) {
	t.Helper()
	var name *wire.NameError
	if !errors.As(err, &name) || !errors.Is(err, wire.ErrInvalidName) {
		t.Errorf("error %v is no NameError; want %q", err, want)
		return
	}
	if err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

// hostile is what strangers put where a name belongs.
var hostile = []string{
	"", " ", ".", "..", "*", ">", "a.b", "a.", ".a", "a*", "a>", "a b", "a\n", "a\r\nb", "a\x00", "\ta",
	"ä", "a\u200b", "\xff", "Ⅸ", "a/b", `a\b`, "a:b", "a,b", "a@b", "a;b", "$JS", "$KV", "%s", "{{wildcard(1)}}", `"a"`, "'a'",
	strings.Repeat("a", 129), strings.Repeat("*", 4096),
}

// now is when the tasks of these tests were published.
var now = time.Date(2026, 11, 22, 22, 29, 10, 500_000_000, time.UTC)
