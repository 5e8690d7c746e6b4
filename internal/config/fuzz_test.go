package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/config"
)

// roundTrip loads a file; what loads can be told, and what is told can be loaded
// again and is the same. Secrets and addresses, which are not told whole, and
// what a file of its own holds, are left out.
func roundTrip(t *testing.T, opts config.Options) {
	t.Helper()
	c, err := config.Load(opts)
	if err != nil {
		if !errors.Is(err, config.ErrInvalid) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("the error is not one line of the usual kind: %q", err)
		}
		return
	}
	var environ []string
	told := map[string]string{}
	for _, v := range c.Values() {
		if strings.Contains(v.Value, "***") || v.Source == "default" || strings.HasPrefix(v.Key, "nats.") || strings.HasPrefix(v.Key, "discord.") || strings.HasPrefix(v.Key, "kafka.sasl") {
			continue
		}
		told[v.Key] = v.Value
		if v.Value != "" {
			environ = append(environ, "PELTON_"+strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(v.Key))+"="+v.Value)
		}
	}
	again, err := config.Load(config.Options{Environ: environ})
	if err != nil {
		t.Fatalf("what is told cannot be loaded: %v", err)
	}
	for _, v := range again.Values() {
		if want, ok := told[v.Key]; ok && v.Value != want {
			t.Errorf("%s: %q was told, loaded again it is %q", v.Key, want, v.Value)
		}
	}
}

func FuzzYAML(f *testing.F) {
	for _, seed := range []string{
		config.Example(), "namespace: a\nworker: {queues: {a: 1, b: }, grace: 5s}\n", "queues:\n  a:\n  b: {max_bytes: 4GiB}\n",
		"a: &a [*a, *a]\n", "? [a]\n: b\n", "--- \n---\n", "edges: {ingest: {a: {topics: [b]}}}", "log: {levels: 'a:info,b:warn'}", "kafka: {brokers: ['a:1,b:2', c:3], tls: true}",
		"{", "!!map {a: b}", "produce: {message: \"a\\nb\", key: ' '}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "pelton.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, config.Options{File: path})
	})
}

func FuzzDotenv(f *testing.F) {
	for _, seed := range []string{
		"PELTON_WORKER__GRACE=5s\r\n# x\nexport A='b'\n", "A=\"b\\n$A${B:-c}\" # d\n", "\ufeffPELTON_NAMESPACE=a", "A='\n'\n\n", "PELTON_PRODUCE__MESSAGE=$A\\$$B", "=\n", "A\n", "export\n",
		"PELTON_WORKER__QUEUES=a:1,b\nPELTON_QUEUES__A_B__MAX_PENDING=-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, config.Options{Dir: dir})
		// In single quotes any text comes through as it is.
		if strings.ContainsAny(content, "'\r") || content == "" || !utf8.ValidString(content) {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("PELTON_PRODUCE__MESSAGE='"+content+"'"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(content, c.Produce.Message); diff != "" {
			t.Error(diff)
		}
	})
}
