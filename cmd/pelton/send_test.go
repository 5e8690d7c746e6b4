package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSendRefusesBadTasks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.Setup("default")
	large := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(large, []byte(`"`+strings.Repeat("x", 513<<10)+`"`), 0o600); err != nil {
		t.Fatal(err)
	}
	var headers []string
	for i := range 10_000 {
		headers = append(headers, "-H", fmt.Sprintf("X-Header-%d=v", i))
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"body of 513 KiB", []string{"print", "@" + large}, "must be at most 524288 bytes"},
		{"10,000 headers", append([]string{"print", "1"}, headers...), "must be at most"},
		{"header name with a space", []string{"print", "1", "-H", "a b=1"}, "must be a token"},
		{"header name of two lines", []string{"print", "1", "-H", "a\r\nb=1"}, "must be a token"},
		{"header value of two lines", []string{"print", "1", "-H", "a=1\r\nNats-Rollup: all"}, "must be one line"},
		{"id of 129 characters", []string{"print", "1", "--id", strings.Repeat("i", 129)}, "{1,128}"},
		{"id with a dot", []string{"print", "1", "--id", "a.b"}, `id "a.b"`},
		{"empty id", []string{"print", "1", "--id", ""}, `id ""`},
		{"delayed, id with a dot", []string{"print", "1", "--id", "a.b", "--in", "1h"}, `id "a.b"`},
		{"delayed, empty id", []string{"print", "1", "--id", "", "--in", "1h"}, `id ""`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := w.run(append([]string{"send"}, tc.args...)...)
			stderr := strings.TrimSpace(got.stderr)
			if got.code != exitUsage || got.stdout != "" || !strings.Contains(stderr, tc.want) || strings.Contains(stderr, "\n") || len(stderr) > 600 {
				t.Errorf("exit code %d, %q, %.600s", got.code, got.stdout, stderr)
			}
		})
	}
	if got := w.ok("queue", "ls"); !strings.Contains(got, "default") || strings.Contains(got, "10000") {
		t.Errorf("%s", got)
	}
}
