package main

import (
	"context"
	"io"
	stdlog "log" //nolint:depguard // must stay as it is
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pelton/internal/config"
)

const pythonFile = `{"version":1,"formatters":{"f":{"format":"%(asctime)s - %(levelname)s - %(name)s - %(message)s"}},
	"handlers":{"file":{"class":"logging.FileHandler","formatter":"f","filename":"role.log"}},"root":{"level":"INFO","handlers":["file"]}}`

// beside starts a role in a folder with a logging_config.json.
func (w *world) beside(dir string, args ...string) *role {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &role{t: w.t, cancel: cancel, code: make(chan int, 1)}
	a := &app{stdin: strings.NewReader(""), stdout: &r.stdout, stderr: &r.stderr, env: w.env, dir: dir}
	go func() { r.code <- a.run(ctx, args) }()
	w.t.Cleanup(func() { r.stop() })
	return r
}

func folderWith(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, foundLogging), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRoleFindsItsLoggingFile(t *testing.T) {
	w := newWorld(t)
	dir := folderWith(t, pythonFile)
	r := w.beside(dir, "worker", "--manage")
	w.waitForTask()
	if code := r.stop(); code != exitOK {
		t.Fatalf("exit code %d: %s", code, r.stderr.String())
	}
	got, err := os.ReadFile(filepath.Join(dir, "role.log"))
	if err != nil || !strings.Contains(string(got), " - INFO - worker - worker started worker=") || r.stderr.String() != "" {
		t.Errorf("%q, %v, standard error %q", got, err, r.stderr.String())
	}
	// A client does not look for one.
	if got := w.beside(folderWith(t, "broken"), "queue", "ls").wait(); got != exitOK {
		t.Errorf("a client: exit code %d", got)
	}
}

// waitForTask waits until a worker has run a task. The streams may not be there yet.
func (w *world) waitForTask() {
	w.t.Helper()
	ctx := testContext(w.t)
	for ctx.Err() == nil {
		if got := runIn(ctx, w.env, nil, "send", "add", `{"a":1,"b":2}`); got.code == exitOK {
			w.ok("task", "wait", strings.TrimSpace(got.stdout), "--timeout", "50s")
			return
		}
	}
	w.t.Fatal("no worker")
}

func TestLoggingMistakes(t *testing.T) {
	t.Parallel()
	dir := folderWith(t, `{"version":2}`)
	env := []string{"NATS_URL=nats://127.0.0.1:1"}
	for _, tc := range []struct {
		env  []string
		args []string
		want string
	}{
		{nil, nil, foundLogging + ": version must be 1, got 2"},
		{nil, []string{"--logging-config", "none.json"}, "none.json: must be a file that can be read"},
		{[]string{"PELTON_LOG__LEVELS__KAFAK=debug"}, nil, "PELTON_LOG__LEVELS__KAFAK: log.levels.kafak is unknown, did you mean log.levels.kafka?"},
	} {
		var stderr watched
		a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &stderr, env: append(env, tc.env...), dir: dir}
		code := a.run(t.Context(), append([]string{"worker"}, tc.args...))
		if got := stderr.String(); code != exitUsage || !strings.Contains(got, tc.want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%v: exit code %d: %s", tc, code, got)
		}
	}
}

func TestComponentLevels(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "PELTON_LOG__LEVELS__WORKER=error", "PELTON_LOG__LEVELS__NATS=debug")
	r := w.start("worker", "--manage", "--log-format", "json")
	w.waitForTask()
	if code := r.stop(); code != exitOK || strings.Contains(r.stderr.String(), "worker started") {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
}

// songbird is told what goes to the process's own logger.
type songbird struct{ slog.Handler }

func TestGlobalLoggersAreNotTouched(t *testing.T) {
	before, writer, flags := slog.Default(), stdlog.Writer(), stdlog.Flags() //nolint:forbidigo // to see that it stays
	var out watched
	mine := slog.New(songbird{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.Level(-100)})})
	slog.SetDefault(mine) //nolint:forbidigo // the canary
	t.Cleanup(func() {
		slog.SetDefault(before) //nolint:forbidigo // as it was
		stdlog.SetOutput(writer)
		stdlog.SetFlags(flags)
	})
	wired := stdlog.Writer()
	w := newWorld(t).withKafka("commands")
	r := w.beside(folderWith(t, pythonFile), "worker", "--manage")
	w.waitForTask()
	w.ok("produce", "a")
	w.broker.Stop() // and what is said about that
	if err := w.broker.Restart(); err != nil {
		t.Fatal(err)
	}
	w.waitForTask()
	if code := r.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
	if slog.Default() != mine || stdlog.Writer() != wired { //nolint:forbidigo // to see that it stayed
		t.Error("the process's own logger was changed")
	}
	if out.String() != "" {
		t.Errorf("the process's own logger was written to: %s", out.String())
	}
	slog.Warn("the canary sings") //nolint:sloglint,forbidigo // the control
	if !strings.Contains(out.String(), "the canary sings") {
		t.Error("the canary hears nothing")
	}
}

// A log file that cannot be opened anew leaves the levels as they are, as the
// line about it says.
func TestLevelsStayWhereAReloadFails(t *testing.T) {
	t.Parallel()
	ctx, dir := testContext(t), t.TempDir()
	folder, away := filepath.Join(dir, "logs"), filepath.Join(dir, "away")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, foundLogging, `{"version":1,"handlers":{"f":{"class":"logging.FileHandler","filename":"logs/role.log"}},"root":{"handlers":["f"]}}`)
	a := &app{stdout: io.Discard, stderr: io.Discard, dir: dir}
	settings := func(level string) *config.Config {
		t.Helper()
		cfg, err := config.Load(config.Options{Dir: dir, Environ: []string{"PELTON_LOG__LEVEL=" + level}})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	logs, err := a.roleLogs(settings("info"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	for _, step := range []struct {
		from, to string
		fails    bool
	}{{folder, away, true}, {away, folder, false}} {
		if err := os.Rename(step.from, step.to); err != nil {
			t.Fatal(err)
		}
		if err := a.relevel(settings("debug"), logs); (err != nil) != step.fails {
			t.Errorf("error %v", err)
		}
		if got := logs.Logger("nats").Enabled(ctx, slog.LevelDebug); got == step.fails {
			t.Errorf("debug after a reload that fails=%t: %t", step.fails, got)
		}
	}
}
