package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/logging"
)

// open opens logs that are closed with the test.
func open(t *testing.T, stderr io.Writer, opts logging.Options) *logging.Logs {
	t.Helper()
	logs, err := logging.Open(stderr, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := logs.Close(); err != nil {
			t.Error(err)
		}
	})
	return logs
}

func TestFormats(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		format logging.Format
		json   bool
	}{
		{"", true}, // a buffer is no terminal
		{logging.Auto, true},
		{logging.JSON, true},
		{logging.Console, false},
	} {
		t.Run(string(tc.format), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log := open(t, &out, logging.Options{Format: tc.format}).Logger("nats")
			log.Debug("too quiet")
			log.Warn("nats connection lost", "queue", "mail", "grace", 25*time.Second, "err", errors.New("no\nroute"))
			line := strings.TrimSuffix(out.String(), "\n")
			if strings.Contains(line, "\n") || strings.Contains(line, "\x1b") {
				t.Errorf("not one plain line: %q", line)
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(line), &got); (err == nil) != tc.json {
				t.Fatalf("JSON %t, want %t: %s", err == nil, tc.json, line)
			}
			if !tc.json {
				for _, part := range []string{"WRN", "nats connection lost", "queue=mail", "grace=25s"} {
					if !strings.Contains(line, part) {
						t.Errorf("%q lacks %q", line, part)
					}
				}
				return
			}
			if _, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil {
				t.Error(err)
			}
			delete(got, "time")
			want := map[string]any{"level": "WARN", "msg": "nats connection lost", "queue": "mail", "logger": "nats", "grace": "25s", "err": "no\nroute"}
			if len(got) != len(want) {
				t.Errorf("got %v, want %v", got, want)
			}
			for key, value := range want {
				if got[key] != value {
					t.Errorf("%s is %v, want %v", key, got[key], value)
				}
			}
		})
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logs := open(t, &out, logging.Options{Format: logging.JSON, Levels: map[string]slog.Level{"kafka": slog.LevelError}})
	// A logger that was derived before a change follows it.
	kafka, engine := logs.Logger("kafka").With("edge", "a"), logs.Logger("engine")
	try := func(step string) {
		say(t, kafka, slog.LevelWarn, step+" kafka warn")
		say(t, engine, slog.LevelInfo, step+" engine info")
		say(t, engine, slog.LevelDebug, step+" engine debug")
	}
	try("first")
	logs.SetLevels(slog.LevelDebug, nil)
	try("second")
	logs.SetLevels(slog.LevelWarn, map[string]slog.Level{"engine": slog.LevelInfo})
	try("third")
	want := []string{"first engine info", "second kafka warn", "second engine info", "second engine debug", "third kafka warn", "third engine info"}
	var got []string
	for line := range strings.Lines(out.String()) {
		var fields struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		got = append(got, fields.Msg)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// panicky fails the test that asks for its value.
type panicky struct{ t *testing.T }

func (p panicky) LogValue() slog.Value {
	p.t.Error("asked for the value of a line that is not written")
	return slog.Value{}
}

func TestLevelsThatAreOffCostNothing(t *testing.T) {
	log := open(t, io.Discard, logging.Options{}).Logger("engine")
	log.Debug("off", "value", panicky{t})
	if n := testing.AllocsPerRun(100, func() { log.LogAttrs(t.Context(), slog.LevelDebug, "off", slog.Int("n", 1)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]slog.Level{"debug": -4, "info": 0, "warn": 4, "error": 8} {
		if got, err := logging.ParseLevel(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "INFO", "warning", "trace"} {
		if _, err := logging.ParseLevel(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestLinesStayWhole(t *testing.T) {
	t.Parallel()
	for _, format := range []logging.Format{logging.Console, logging.JSON} {
		var out bytes.Buffer
		log := open(t, &out, logging.Options{Format: format}).Logger("engine")
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 50 {
					log.Info("long", "text", strings.Repeat("x", 300))
				}
			})
		}
		group.Wait()
		for line := range strings.Lines(out.String()) {
			if strings.Count(line, strings.Repeat("x", 300)) != 1 {
				t.Fatalf("%s: a line in pieces: %q", format, line)
			}
		}
	}
}

func TestIsTerminal(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if logging.IsTerminal(null) || logging.IsTerminal(io.Discard) || logging.IsTerminal(nil) {
		t.Error("what is no terminal is taken for one")
	}
}
