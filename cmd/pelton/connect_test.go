package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pelton/engine/enginetest"
	"pelton/internal/config"
	"pelton/internal/connect"
	"pelton/internal/connect/connecttest"
)

// newWorldWith has a broker with a configuration in a folder, and Kafka. The
// environment names both, and what is given.
func newWorldWith(t *testing.T, dir, conf string, env ...string) (*world, *enginetest.Server) {
	t.Helper()
	s, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: filepath.Join(dir, "store"), ConfigFile: connecttest.File(t, dir, "nats.conf", []byte(conf))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	_, address, _ := strings.Cut(s.URL(), "://")
	w := &world{t: t, env: append([]string{"NATS_URL=nats://" + address}, env...)}
	return w.withKafka("commands", "results"), s
}

func TestRefusedCredentialsEndARole(t *testing.T) {
	conf := func(password string) []byte {
		return fmt.Appendf(nil, "authorization { user: joe, password: %q }", password)
	}
	dir := t.TempDir()
	w, s := newWorldWith(t, dir, string(conf("canary-right")), "PELTON_NATS__USER=joe", "PELTON_NATS__PASSWORD=canary-right")
	w.ok("setup", "apply")
	later := w.start("worker")
	later.stderr.has(t, "worker started")
	w.env = append(slices.Clip(w.env), "PELTON_NATS__PASSWORD=canary-wrong")
	got := w.start("worker")
	if code := got.wait(); code != exitUnreachable {
		t.Errorf("a wrong password at the start: exit code %d", code)
	}
	connecttest.File(t, dir, "nats.conf", conf("canary-new"))
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if code := later.wait(); code != exitUnreachable {
		t.Errorf("a password that became wrong: exit code %d", code)
	}
	if told := got.stderr.String() + later.stderr.String(); strings.Contains(told, "canary") || !strings.Contains(strings.ToLower(told), "authorization violation") {
		t.Errorf("it tells a secret, or not why: %s", told)
	}
}

func TestBrokenFilesEndWithTwo(t *testing.T) {
	w := newWorld(t).withKafka("commands")
	for _, tc := range []struct{ env, args string }{
		{"PELTON_NATS__TLS__CA_FILE=/none.pem", "worker"},
		{"PELTON_NATS__TLS__CA_FILE=/none.pem", "queue ls"},
		{"PELTON_NATS__CREDS_FILE=/none.creds", "edge emit"},
		{"PELTON_KAFKA__TLS__CA_FILE=/none.pem", "edge ingest"},
		{"PELTON_KAFKA__TLS__CA_FILE=/none.pem", "edge emit"},
		{"PELTON_KAFKA__TLS__CA_FILE=/none.pem", "produce hi"},
		{"PELTON_KAFKA__TLS__CA_FILE=/none.pem", "setup plan"},
		{"PELTON_KAFKA__SASL__MECHANISM=plain", "edge ingest"},
	} {
		got := runIn(testContext(t), append(slices.Clip(w.env), tc.env), strings.NewReader(""), strings.Fields(tc.args)...)
		name, _, _ := strings.Cut(tc.env, "=")
		if got.code != exitUsage || strings.Count(got.stderr, "pelton: "+name) != 1 {
			t.Errorf("%s with %s: exit code %d: %s", tc.args, tc.env, got.code, got.stderr)
		}
	}
	got := w.run("worker", "--context", "nowhere", "--nats-url", "nats://a:1")
	if got.code != exitUsage || !strings.Contains(got.stderr, "--context: nats.context must not stand beside nats.url (--nats-url)") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

// hanging is a role whose SIGHUP the test sends.
type hanging struct {
	*role
	app       *app
	hups      chan os.Signal
	listening chan struct{}
}

func (w *world) startHanging(args ...string) *hanging {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &hanging{role: &role{t: w.t, cancel: cancel, code: make(chan int, 1)}, hups: make(chan os.Signal), listening: make(chan struct{})}
	h.app = &app{stdin: strings.NewReader(""), stdout: &h.stdout, stderr: &h.stderr, env: w.env}
	h.app.hangups = func() (<-chan os.Signal, func()) {
		close(h.listening)
		return h.hups, func() {}
	}
	go func() { h.code <- h.app.run(ctx, args) }()
	w.t.Cleanup(func() { h.stop() })
	return h
}

// listens waits until the role hears.
func (h *hanging) listens() {
	h.t.Helper()
	select {
	case <-h.listening:
	case <-testContext(h.t).Done():
		h.t.Fatalf("nobody listens: %s", h.stderr.String())
	}
}

// hangup sends one and waits for a line. The environment is what the role finds
// when it reads its settings again.
func (h *hanging) hangup(line string, env ...string) {
	h.t.Helper()
	h.listens()
	ctx := testContext(h.t)
	h.app.env = append(slices.Clip(h.app.env), env...)
	select {
	case h.hups <- syscall.SIGHUP:
		h.stderr.has(h.t, line)
	case <-ctx.Done():
		h.t.Fatal("it does not hear it")
	}
}

func TestHangupReloadsTheSettings(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	w.env = append(w.env, "PELTON_LOG__LEVEL=error")
	worker := w.startHanging("worker", "--log-format", "json")
	worker.hangup("nats.token, queues.mail, worker.grace",
		"PELTON_LOG__LEVEL=info", "PELTON_WORKER__GRACE=7s", "PELTON_QUEUES__MAIL__MAX_PENDING=5", "PELTON_NATS__TOKEN=canary-1")
	if !strings.Contains(worker.stderr.String(), `"reloaded: log levels and certificates"`) {
		t.Errorf("it does not say what it did: %s", worker.stderr.String())
	}
	worker.hangup("settings are not reloaded, the old ones stay", "PELTON_LOG__LEVEL=loud")
	worker.hangup("worker.grace, worker.timeout", "PELTON_LOG__LEVEL=info", "PELTON_WORKER__TIMEOUT=1h")
	if code := worker.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	told := worker.stderr.String()
	if strings.Contains(told, "canary") || strings.Count(told, `"ERROR"`) != 1 || !strings.Contains(told, "PELTON_LOG__LEVEL: log.level must be") {
		t.Errorf("it tells a secret, or not one clear error: %s", told)
	}
}

// The levels of an imported file are levels of the log, too.
func TestHangupReloadsTheLoggingFile(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	dir := t.TempDir()
	file := filepath.Join(dir, foundLogging)
	writeFile(t, dir, foundLogging, `{"version":1,"root":{"level":"ERROR"}}`)
	worker := w.startHanging("worker", "--log-format", "json", "--logging-config", file)
	w.waitForTask() // whatever a worker says when it starts is said
	writeFile(t, dir, foundLogging, `{"version":2}`)
	worker.hangup("version must be 1, got 2")
	writeFile(t, dir, foundLogging, `{"version":1,"root":{"level":"INFO"}}`)
	worker.hangup(`"reloaded: log levels and certificates"`)
	if code := worker.stop(); code != exitOK || strings.Contains(worker.stderr.String(), "worker started") {
		t.Errorf("exit code %d: %s", code, worker.stderr.String())
	}
}

// A server whose authority is another now refuses a role until that has read
// its certificates again.
func TestHangupReloadsCertificates(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	renew := func() {
		ca := connecttest.NewAuthority(t, "ca")
		connecttest.File(t, dir, "ca.pem", ca.PEM())
		ca.Issue("localhost").Write(t, dir, "server")
		ca.Issue("worker").Write(t, dir, "client")
	}
	renew()
	w, s := newWorldWith(t, dir, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", file("server.pem"), file("server-key.pem"), file("ca.pem")),
		"PELTON_NATS__TLS__CA_FILE="+file("ca.pem"), "PELTON_NATS__TLS__CERT_FILE="+file("client.pem"), "PELTON_NATS__TLS__KEY_FILE="+file("client-key.pem"))
	w.ok("setup", "apply")
	worker := w.startHanging("worker")
	worker.stderr.has(t, "worker started")
	renew()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	worker.stderr.has(t, "nats refuses the connection")
	if strings.Contains(worker.stderr.String(), "nats connection is back") {
		t.Error("it came back before it has reloaded: nothing is shown")
	}
	connecttest.File(t, dir, "ca.pem", []byte("broken"))
	worker.hangup("certificates are not reloaded, the old ones stay")
	renew()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	worker.hangup("nats connection is back")
	id := strings.TrimSpace(w.ok("send", "echo", `1`))
	if got := w.ok("task", "wait", id, "--timeout", "50s"); got != "1\n" {
		t.Errorf("result %q", got)
	}
	if code := worker.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

const processArgs = "PROCESS_ARGS"

// TestProcess is the binary in a process of its own, where one is asked for.
func TestProcess(t *testing.T) {
	if args := os.Getenv(processArgs); args != "" {
		env := []string{"NATS_URL=" + os.Getenv("NATS_URL")}
		a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: env, hangups: hangups}
		os.Exit(a.run(t.Context(), strings.Fields(args)))
	}
}

// SIGHUP does not end a process that is a role.
func TestHangupOfAProcess(t *testing.T) {
	w := newWorld(t)
	w.ok("setup", "apply")
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr watched
	cmd := exec.CommandContext(testContext(t), binary, "-test.run=^TestProcess$")
	cmd.Env = slices.Concat(w.env, []string{processArgs + "=worker"})
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	stderr.has(t, "worker started")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	stderr.has(t, "reloaded: log levels and certificates")
}

// What is broken of one connection does not keep the certificates of another
// from being read.
func TestCertificatesAreReloadedEachForItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all certificates
	held := map[string]*connect.Certificates{}
	for _, name := range []string{"kafka", "nats"} {
		file := connecttest.File(t, dir, name+".pem", connecttest.NewAuthority(t, name).PEM())
		certs, err := connect.LoadCertificates(&config.Config{}, name+".tls", config.TLS{CAFile: file})
		if err != nil {
			t.Fatal(err)
		}
		held[name] = certs
		all.add(certs)
	}
	next := connecttest.NewAuthority(t, "next")
	connecttest.File(t, dir, "kafka.pem", []byte("broken"))
	connecttest.File(t, dir, "nats.pem", next.PEM())
	before := held["kafka"].Config("").RootCAs
	if err := all.reload(); err == nil || !strings.Contains(err.Error(), "kafka.tls.ca_file") {
		t.Errorf("error %v", err)
	}
	if !held["nats"].Config("").RootCAs.Equal(next.Pool()) || !held["kafka"].Config("").RootCAs.Equal(before) {
		t.Error("not what was right was taken over, and that alone")
	}
}
