package main

import (
	"strings"
	"testing"
)

// TestRolesStopOnWhatIsMissingOrDiffers: each role looks at what it needs, names
// what is wrong with it, and the command that mends it.
func TestRolesStopOnWhatIsMissingOrDiffers(t *testing.T) {
	w := newWorld(t).withKafka("commands", "results")
	roles := map[string]string{"worker": "PELTON_", "edge ingest": "PELTON_TASKS_default", "edge emit": "KV_PELTON_RESULTS_default"}
	for role, names := range roles {
		got := w.run(strings.Fields(role)...)
		if got.code != exitNotFound || !strings.Contains(got.stderr, names) || !strings.Contains(got.stderr, "pelton setup apply") {
			t.Errorf("%s without streams: exit code %d: %s", role, got.code, got.stderr)
		}
	}
	w.ok("setup", "apply")
	ctx, js := testContext(t), w.broker.JetStream()
	for stream, role := range map[string]string{"PELTON_TASKS_default": "edge ingest", "KV_PELTON_RESULTS_default": "edge emit"} {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		cfg.AllowDirect = false
		if _, err := js.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
		got := w.run(strings.Fields(role)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, stream) || !strings.Contains(got.stderr, "allow_direct is false, must be true") ||
			!strings.Contains(got.stderr, "pelton setup apply") {
			t.Errorf("%s on a stream that differs: exit code %d: %s", role, got.code, got.stderr)
		}
	}
}
