package logging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/logging"
)

var noon = time.Date(2026, 11, 22, 21, 10, 1, 204_900_000, time.UTC)

// say logs a line of a certain time.
func say(t *testing.T, log *slog.Logger, level slog.Level, message string, args ...any) {
	t.Helper()
	r := slog.NewRecord(noon, level, message, 0)
	r.Add(args...)
	if !log.Enabled(t.Context(), level) {
		return
	}
	if err := log.Handler().Handle(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func parse(t *testing.T, content string) *logging.Python {
	t.Helper()
	p, err := logging.ParsePython("logging_config.json", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// oneFormat is a file with one form of lines, to standard error.
func oneFormat(formatter string) string {
	return `{"version":1,"formatters":{"f":` + formatter + `},"handlers":{"h":{"class":"logging.StreamHandler","formatter":"f"}},"root":{"level":"DEBUG","handlers":["h"]}}`
}

func TestPythonForms(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("CET", 3600)
	for _, tc := range []struct{ formatter, want string }{
		{`{"format":"%(asctime)s - %(levelname)s - %(name)s - %(message)s"}`, `2026-11-22 22:10:01,204 - WARNING - engine - lost queue=mail n=2 err="no route" g.a=1` + "\n"},
		{`{"format":"%(levelname)-8s|%(levelname)9s|%(levelname).4s|%(message).4s|"}`, "WARNING |  WARNING|WARN|lost|\n"},
		{`{"format":"%(levelno)03d %(msecs)05d %(created)f %(created).0f %(created)d 100%% %(msecs).1f"}`, "030 00204 1795381801.204900 1795381801 1795381801 100% 204.0\n"},
		{`{"format":"%(threadName)s %(processName)s %(taskName)s"}`, "MainThread MainProcess None\n"},
		{`{"format":"%(process)d %(name)s"}`, fmt.Sprintf("%d engine\n", os.Getpid())},
		{`{"format":"%(asctime)s","datefmt":"%d/%b/%Y:%H:%M:%S %z %Z %j %I%p %y %a %A %B %% %F %T"}`, "22/Nov/2026:22:10:01 +0100 CET 326 10PM 26 Sun Sunday November % 2026-11-22 22:10:01\n"},
		{`{"format":"%(color)s %(name)d %(message)"}`, "%(color)s %(name)d %(message)\n"},
	} {
		var out bytes.Buffer
		log := open(t, &out, logging.Options{Python: parse(t, oneFormat(tc.formatter)), Zone: zone}).Logger("engine")
		out.Reset() // the warning of what is unused
		say(t, log.With("queue", "mail"), slog.LevelWarn, "lost", "n", 2, "err", errors.New("no route"), slog.Group("g", "a", 1))
		if diff := cmp.Diff(tc.want, out.String()); diff != "" {
			t.Errorf("%s: %s", tc.formatter, diff)
		}
	}
}

func TestPythonFormsKnowThePlace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := open(t, &out, logging.Options{Python: parse(t, oneFormat(`{"format":"%(filename)s %(module)s %(lineno)d %(funcName)s %(pathname)s"}`))}).Logger("engine")
	log.Info("here")
	if !regexp.MustCompile(`^python_test\.go python_test \d\d+ TestPythonFormsKnowThePlace /.*/python_test\.go\n$`).MatchString(out.String()) {
		t.Errorf("wrote %q", out.String())
	}
}

func TestPythonJSON(t *testing.T) {
	t.Parallel()
	for _, formatter := range []string{
		`{"()":"pythonjsonlogger.jsonlogger.JsonFormatter","format":"%(message)s"}`,
		`{"class":"pythonjsonlogger.json.JsonFormatter"}`,
	} {
		var out bytes.Buffer
		say(t, open(t, &out, logging.Options{Format: logging.Console, Python: parse(t, oneFormat(formatter))}).Logger("kafka"), slog.LevelInfo, "hi")
		if want := `{"time":"2026-11-22T21:10:01.2049Z","level":"INFO","msg":"hi","logger":"kafka"}` + "\n"; out.String() != want {
			t.Errorf("%s: wrote %q", formatter, out.String())
		}
	}
}

// sayAll logs a line of each level to each component.
func sayAll(t *testing.T, logs *logging.Logs, components ...string) {
	t.Helper()
	for _, c := range components {
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			say(t, logs.Logger(c), level, "m")
		}
	}
}

func TestFilesOfTheOriginal(t *testing.T) {
	t.Parallel()
	at := "2026-11-22 21:10:01,204 - "
	for _, tc := range []struct {
		name, log            string
		stdout, stderr, file []string
	}{
		{
			name: "kafka", log: "kafka.log",
			stdout: []string{at + "INFO - produce - m", at + "WARNING - produce - m", at + "ERROR - produce - m", at + "WARNING - kafka - m", at + "ERROR - kafka - m"},
			file:   []string{at + "DEBUG - produce - m", at + "INFO - produce - m", at + "WARNING - produce - m", at + "ERROR - produce - m", at + "WARNING - kafka - m", at + "ERROR - kafka - m"},
		},
		{
			name: "celery", log: "celery.log",
			stderr: []string{at + "WARNING - produce - m", at + "ERROR - produce - m", at + "WARNING - kafka - m", at + "ERROR - kafka - m", at + "INFO - worker - m", at + "WARNING - worker - m", at + "ERROR - worker - m", at + "DEBUG - beat - m", at + "INFO - beat - m", at + "WARNING - beat - m", at + "ERROR - beat - m", at + "ERROR - discord - m"},
			file:   []string{"[2026-11-22 21:10:01: WARNING /MainProcess] .:0 m", "[2026-11-22 21:10:01: ERROR   /MainProcess] .:0 m", "[2026-11-22 21:10:01: WARNING /MainProcess] .:0 m", "[2026-11-22 21:10:01: ERROR   /MainProcess] .:0 m"},
		},
	} {
		p, err := logging.ReadPython(filepath.Join("testdata", tc.name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		var stdout, stderr bytes.Buffer
		logs := open(t, &stderr, logging.Options{Python: p, Stdout: &stdout, Folder: dir, Zone: time.UTC})
		if warned := strings.Count(stderr.String(), "unused"); tc.name == "celery" && (warned != 1 || !strings.Contains(stderr.String(), "handlers.mail (logging.handlers.SMTPHandler)")) || tc.name == "kafka" && warned != 0 {
			t.Errorf("%s: warned %q", tc.name, stderr.String())
		}
		stderr.Reset()
		components := []string{"produce", "kafka", "worker", "beat", "discord"}
		if tc.name == "kafka" {
			components = components[:2]
		}
		sayAll(t, logs, components...)
		file, err := os.ReadFile(filepath.Join(dir, tc.log))
		if err != nil {
			t.Fatal(err)
		}
		for what, pair := range map[string][2]string{
			"stdout": {lines(tc.stdout), stdout.String()}, "stderr": {lines(tc.stderr), stderr.String()}, "file": {lines(tc.file), string(file)},
		} {
			if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
				t.Errorf("%s: %s: %s", tc.name, what, diff)
			}
		}
	}
}

func lines(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, "\n") + "\n"
}

// levelOf is the least level that a component writes.
func levelOf(logs *logging.Logs, component string) slog.Level {
	for level := slog.Level(-9); ; level++ {
		if logs.Logger(component).Enabled(context.Background(), level) {
			return level
		}
	}
}

func TestPythonLevels(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, content, component string
		opts                     logging.Options
		want                     slog.Level
	}{
		{"root", `"root":{"level":"ERROR"}`, "nats", logging.Options{}, 8},
		{"no root", `"loggers":{}`, "nats", logging.Options{}, 0},
		{"a number", `"root":{"level":30}`, "nats", logging.Options{}, 4},
		{"critical", `"root":{"level":"CRITICAL"}`, "nats", logging.Options{}, 8},
		{"not set", `"root":{"level":"WARNING"},"loggers":{"nats":{"level":"NOTSET"}}`, "nats", logging.Options{}, 4},
		{"above", `"loggers":{"celery":{"level":"DEBUG"}}`, "worker", logging.Options{}, -4},
		{"a child", `"loggers":{"confluent_kafka.producer":{"level":"DEBUG"}}`, "kafka", logging.Options{}, -4},
		{"the parent rather", `"loggers":{"celery":{"level":"ERROR"},"celery.app.trace":{"level":"DEBUG"}}`, "engine", logging.Options{}, 8},
		{"root by its other name", `"loggers":{"":{"level":"ERROR"}}`, "engine", logging.Options{}, 8},
		{"given", `"root":{"level":"ERROR"},"loggers":{"nats":{"level":"ERROR"}}`, "nats", logging.Options{Level: -4, LevelGiven: true}, -4},
		{"given for the component", `"loggers":{"nats":{"level":"ERROR"}}`, "nats", logging.Options{Levels: map[string]slog.Level{"nats": -4}}, -4},
		{"the output is above", `"handlers":{"h":{"class":"logging.StreamHandler","level":"ERROR"}},"root":{"level":"DEBUG","handlers":["h"]}`, "nats", logging.Options{}, 8},
	} {
		tc.opts.Python = parse(t, `{"version":1,`+tc.content+`}`)
		if got := levelOf(open(t, io.Discard, tc.opts), tc.component); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestGivenFormatWins(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	say(t, open(t, &out, logging.Options{Format: logging.JSON, FormatGiven: true, Python: parse(t, oneFormat(`{"format":"%(message)s"}`))}).Logger("kafka"), slog.LevelInfo, "hi")
	if !strings.HasPrefix(out.String(), "{") {
		t.Errorf("wrote %q", out.String())
	}
}

func TestUnusedIsOneWarning(t *testing.T) {
	t.Parallel()
	p := parse(t, `{"version":1,"incremental":true,"filters":{"x":{}},"extra":1,
		"formatters":{"a":{"format":"{message}","style":"{"},"b":{"class":"colorlog.ColoredFormatter","format":"%(log_color)s","datefmt":"%U"}},
		"handlers":{"mail":{"class":"logging.handlers.SMTPHandler"},"own":{"()":"my.Handler"},"q":{"class":"logging.handlers.QueueHandler","filters":["x"]}},
		"loggers":{"urllib3":{"level":"INFO"}},"root":{"handlers":["mail","own"],"filters":["x"]}}`)
	var out bytes.Buffer
	say(t, open(t, &out, logging.Options{Format: logging.JSON, Python: p}).Logger("kafka"), slog.LevelInfo, "hi")
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want the warning and one: %s", n, out.String())
	}
	want := []string{
		"incremental", "filters", "extra", "formatters.a.style ({)", "formatters.b.class (colorlog.ColoredFormatter)", "formatters.b %(log_color)s", "formatters.b %U",
		"handlers.mail (logging.handlers.SMTPHandler)", "handlers.own (my.Handler)", "handlers.q.filters", "handlers.q (logging.handlers.QueueHandler)", "root.filters", "loggers.urllib3",
	}
	if diff := cmp.Diff(want, p.Unused); diff != "" || !strings.Contains(out.String(), strings.Join(want, ", ")) {
		t.Errorf("%s\n%s", diff, out.String())
	}
}

func TestInvalidPython(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ content, want string }{
		{"{\n  \"version\": 1,\n  x", ":3:3: is not JSON: invalid character 'x'"},
		{``, ":1:1: is not JSON: unexpected end"},
		{`[]`, ": must be a JSON object"},
		{`{}`, ": version must be 1, and is missing"},
		{`{"version":2}`, ": version must be 1, got 2"},
		{`{"version":1,"handlers":{"file":{"class":"logging.handlers.RotatingFileHandler","filename":"a","maxBytes":"big"}}}`, `: handlers.file.maxBytes must be a whole number, 0 or more, got "big"`},
		{`{"version":1,"handlers":{"file":{"class":"logging.FileHandler"}}}`, ": handlers.file.filename must be set"},
		{`{"version":1,"handlers":{"file":{"class":"logging.FileHandler","filename":"a","mode":"x"}}}`, `: handlers.file.mode must be a or w, got "x"`},
		{`{"version":1,"handlers":{"h":{}}}`, ": handlers.h.class must be set"},
		{`{"version":1,"handlers":[]}`, ": handlers must be an object, got a list"},
		{`{"version":1,"handlers":{"h":{"class":"logging.StreamHandler","formatter":"f"}}}`, `: handlers.h.formatter must name a formatter, got "f"`},
		{oneFormat(`{"format":"100%% %(message)"}`), `: formatters.f.format must have a field, such as %(message)s, got "100%% %(message)"`},
		{`{"version":1,"root":{"handlers":["h"]}}`, `: root.handlers must name handlers of the file, got "h"`},
		{`{"version":1,"root":{"handlers":"h"}}`, `: root.handlers must be a list of names, got "h"`},
		{`{"version":1,"loggers":{"a":{"handlers":[1]}}}`, `: loggers.a.handlers[0] must be a name, got 1`},
		{`{"version":1,"loggers":{"a":{"level":"LOUD"}}}`, `: loggers.a.level must be DEBUG, INFO, WARNING, ERROR, CRITICAL, NOTSET or a number from 0 to 50, got "LOUD"`},
		{`{"version":1,"loggers":{"a":{"propagate":"no"}}}`, `: loggers.a.propagate must be true or false, got "no"`},
		{`{"version":1,"loggers":{"a":null}}`, `: loggers.a must be an object, and is null`},
	} {
		_, err := logging.ParsePython("logging_config.json", []byte(tc.content))
		if !errors.Is(err, logging.ErrInvalid) || !strings.HasPrefix(err.Error(), "logging_config.json"+tc.want) {
			t.Errorf("%s: %v, want %s", tc.content, err, tc.want)
		}
	}
}

// file is a file with one rotating output.
func file(name string, maxBytes, backups int) string {
	return fmt.Sprintf(`{"version":1,"formatters":{"f":{"format":"%%(message)s"}},"handlers":{"file":{"class":"logging.handlers.RotatingFileHandler","formatter":"f","filename":%q,"maxBytes":%d,"backupCount":%d}},"root":{"handlers":["file"]}}`, name, maxBytes, backups)
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		out[e.Name()] = string(b)
	}
	return out
}

func TestRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := open(t, io.Discard, logging.Options{Folder: dir, Python: parse(t, file("app.log", 10, 2))}).Logger("nats")
	for _, s := range []string{"one", "two", "three", "four", "five", "a line that is longer than a file"} {
		say(t, log, slog.LevelInfo, s)
	}
	want := map[string]string{"app.log": "a line that is longer than a file\n", "app.log.1": "five\n", "app.log.2": "four\n"}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(filepath.Join(dir, "app.log")); err != nil || info.Mode().Perm()&0o027 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestRotationThatFailsLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A folder that is not empty cannot be replaced by a file.
	if err := os.MkdirAll(filepath.Join(dir, "app.log.1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	log := open(t, &stderr, logging.Options{Folder: dir, Python: parse(t, file("app.log", 8, 1))}).Logger("nats")
	for _, s := range []string{"one", "two", "three"} {
		say(t, log, slog.LevelInfo, s)
	}
	if got := contents(t, dir)["app.log"]; got != "one\ntwo\nthree\n" {
		t.Errorf("wrote %q", got)
	}
	if n := strings.Count(stderr.String(), "pelton: log file "); n != 1 {
		t.Errorf("told %d times: %s", n, stderr.String())
	}
}

func TestRotationOfConcurrentLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	logs := open(t, io.Discard, logging.Options{Folder: dir, Python: parse(t, file("app.log", 500, 1000))})
	var group sync.WaitGroup
	for i, c := range []string{"nats", "kafka", "engine", "worker"} {
		group.Go(func() {
			for n := range 200 {
				say(t, logs.Logger(c), slog.LevelInfo, fmt.Sprintf("line %d", i*1000+n))
			}
		})
	}
	group.Wait()
	seen := map[string]bool{}
	for name, content := range contents(t, dir) {
		if len(content) > 500 {
			t.Errorf("%s has %d bytes", name, len(content))
		}
		for line := range strings.Lines(content) {
			if !strings.HasPrefix(line, "line ") || seen[line] {
				t.Fatalf("line %q", line)
			}
			seen[line] = true
		}
	}
	if len(seen) != 800 {
		t.Errorf("%d lines, want 800", len(seen))
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	logs := open(t, io.Discard, logging.Options{Folder: dir, Python: parse(t, file("app.log", 0, 0))})
	say(t, logs.Logger("nats"), slog.LevelInfo, "one")
	if err := os.Rename(filepath.Join(dir, "app.log"), filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	say(t, logs.Logger("nats"), slog.LevelInfo, "two")
	if err := logs.Reopen(); err != nil {
		t.Fatal(err)
	}
	say(t, logs.Logger("nats"), slog.LevelInfo, "three")
	if diff := cmp.Diff(map[string]string{"old": "one\ntwo\n", "app.log": "three\n"}, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	_, err := logging.Open(io.Discard, logging.Options{Folder: t.TempDir(), Python: parse(t, file("no/such/app.log", 0, 0))})
	if !errors.Is(err, logging.ErrInvalid) || !strings.Contains(err.Error(), "handlers.file.filename must be a file that can be written: open ") || !strings.Contains(err.Error(), "no/such/app.log: no such file") {
		t.Error(err)
	}
	if _, err := logging.ReadPython(filepath.Join(t.TempDir(), "none.json")); !errors.Is(err, logging.ErrInvalid) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

func FuzzDictConfig(f *testing.F) {
	for _, name := range []string{"kafka", "celery"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(oneFormat(`{"format":"%(created)08.3f %(msecs)s %(lineno)x %%%","datefmt":"%"}`)))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := logging.ParsePython("f", content)
		switch {
		case err != nil && (p != nil || !errors.Is(err, logging.ErrInvalid) || strings.ContainsAny(err.Error(), "\n\r")):
			t.Fatalf("not one plain error: %q", err)
		case err != nil || bytes.Contains(content, []byte("filename")) || bytes.Contains(content, []byte(`\u`)):
			return // no files of the fuzzer's naming
		}
		logs, err := logging.Open(io.Discard, logging.Options{Python: p})
		if err != nil {
			t.Fatal(err)
		}
		sayAll(t, logs, logging.Components()...)
	})
}
