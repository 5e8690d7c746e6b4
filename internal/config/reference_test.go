package config_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/config"
)

var update = flag.Bool("update", false, "write the table of all keys anew")

// The documentation names every key.
func TestReference(t *testing.T) {
	t.Parallel()
	const path, mark = "../../docs/config.md", "## All settings\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, table, found := strings.Cut(string(page), mark)
	if !found {
		t.Fatalf("%s has no line %q", path, mark)
	}
	if *update {
		if err := os.WriteFile(path, []byte(intro+mark+config.Reference()), 0o600); err != nil {
			t.Fatal(err)
		}
		table = config.Reference()
	}
	if diff := cmp.Diff(config.Reference(), table); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", path, diff)
	}
	for _, k := range config.Keys() {
		if !strings.Contains(table, "`"+k.Variable+"`") {
			t.Errorf("%s is not in the table", k.Name)
		}
	}
}
