package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/spf13/cobra"

	"pelton/internal/config"
)

// What operators copy must fit the binary: every command line, variable and
// port in the files of deployments, in the Taskfile and in the docs.
func TestDeploymentsFitTheBinary(t *testing.T) {
	files := deploymentFiles(t)
	d := readDeployments(files)
	for _, wrong := range d.misfits(secretFile(t)) {
		t.Error(wrong)
	}
	if len(d.processes) < 40 || len(d.ports) < 20 {
		t.Errorf("%d command lines and %d ports: the files were not read", len(d.processes), len(d.ports))
	}
	for _, want := range []string{
		"compose.yaml: worker: ", "compose.yaml: worker: health check", "compose.yaml: produce: ", "pelton-emit.service: ", "ingest.yaml: ", "setup.yaml: ",
		"Taskfile.yml: ", ".ci/run: ", "README.md: ", "operations.md: ",
	} {
		if !slices.ContainsFunc(d.processes, func(p process) bool { return strings.Contains(p.where+": ", want) }) {
			t.Errorf("no command line of %s was read", want)
		}
	}
}

// The control: what is planted in a copy is found, each mistake by itself.
func TestDeploymentsMisfitsAreFound(t *testing.T) {
	files := deploymentFiles(t)
	for _, tc := range []struct{ file, old, planted, want string }{
		{"deployments/compose.yaml", "[worker]", "[worker, --queue, mail]", "--queue, did you mean"},
		{"deployments/compose.yaml", "[edge, ingest]", "[edge, digest]", "digest"},
		{"deployments/compose.yaml", "PELTON_TELEMETRY__ADDR:", "PELTON_TELEMETRY__ADR:", "PELTON_TELEMETRY__ADR"},
		{"deployments/compose.yaml", "KAFKA_BOOTSTRAP_SERVERS:", "KAFKA_BOOTSTRAP_SERVER:", "KAFKA_BOOTSTRAP_SERVER"},
		{"deployments/compose.yaml", "nats://nats:4222", "nats://nats:4223", "4223"},
		{"deployments/compose.yaml", "kafka:19092", "kafka:19093", "19093"},
		{"deployments/compose.yaml", "127.0.0.1:8222/", "127.0.0.1:8223/", "8223"},
		{"deployments/compose.yaml", "127.0.0.1:4222:4222", "4222:4222", "loopback"},
		{"deployments/compose.yaml", `NATS_SETUP_PASSWORD: ""`, "NATS_SETUP_PASSWORD: x", "NATS_SETUP_PASSWORD"},
		{"deployments/.env.example", "NATS_WORKER_PASSWORD=\n", "", "NATS_WORKER_PASSWORD"},
		{"deployments/kubernetes/emit.yaml", "value: emit", "value: emitter", "emitter"},
		{"deployments/.env.example", "#PELTON_WORKER__GRACE", "#PELTON_WORKER__GRASE", "PELTON_WORKER__GRASE"},
		{"deployments/nats/nats-server.conf", ":4222", ":4333", "4222"},
		{"deployments/Dockerfile", `ENTRYPOINT ["/pelton"]`, `ENTRYPOINT ["/bin/pelton"]`, "/bin/pelton"},
		{"deployments/Dockerfile", "USER 65532:65532", "USER pelton", "USER"},
		{"deployments/Dockerfile", "COPY internal internal", "COPY intern internal", "intern"},
		{"deployments/Dockerfile", "golang:1.26-alpine", "golang", "FROM"},
		{"deployments/systemd/pelton-emit.service", "edge emit", "edge emit --shard 1", "--shard"},
		{"deployments/systemd/pelton-.service.d/10-pelton.conf", "PELTON_NATS__INBOX_PREFIX", "PELTON_NATS__INBOX", "PELTON_NATS__INBOX"},
		{"deployments/systemd/pelton-emit.service", ":8583", ":8581", "8581"},
		{"deployments/systemd/pelton-.service.d/10-pelton.conf", "RestartPreventExitStatus=2 8", "RestartPreventExitStatus=2", "RestartPreventExitStatus"},
		{"deployments/kubernetes/worker.yaml", "args: [worker]", "args: [worker, --slots, 8]", "--slots"},
		{"deployments/kubernetes/worker.yaml", "containerPort: 8581", "containerPort: 8580", "8580"},
		{"deployments/kubernetes/worker.yaml", "path: /readyz", "path: /ready", "/ready"},
		{"deployments/kubernetes/ingest.yaml", "port: telemetry", "port: health", "health"},
		{"deployments/kubernetes/configmap.yaml", "max_pending:", "max_pendig:", "MAX_PENDIG"},
		{"deployments/kubernetes/configmap.yaml", "grace: 25s", "grace: 50s", "killed after 40s"},
		{"Taskfile.yml", "edge emit", "edge omit", "omit"},
		{"Taskfile.yml", "  emit:\n", "  emit:\n    dotenv: [.env]\n", "dotenv"},
		{"Taskfile.yml", "version: \"3\"\n", "version: \"3\"\ndotenv: [.env]\n", "dotenv"},
		{"README.md", "pelton worker --queues", "pelton worker --queus", "--queus"},
		{"docs/operations.md", "pelton setup plan --exit-code", "pelton setup plan --exit", "--exit"},
		{"docs/operations.md", "PELTON_TELEMETRY__ADDR", "PELTON_TELEMETRY__HOST", "PELTON_TELEMETRY__HOST"},
		{"docs/operations.md", "127.0.0.1:8581", "127.0.0.1:8591", "8591"},
	} {
		before := files[tc.file]
		if before == nil || !strings.Contains(string(before.Data), tc.old) {
			t.Errorf("%s: %q is not there to be changed", tc.file, tc.old)
			continue
		}
		planted := maps.Clone(files)
		planted[tc.file] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(string(before.Data), tc.old, tc.planted))}
		got := readDeployments(planted).misfits(secretFile(t))
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, tc.want) }) {
			t.Errorf("%s: %q in place of %q is not found: %q", tc.file, tc.planted, tc.old, got)
		}
	}
}

// secretFile is what *_FILE variables name in the tests.
func secretFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte("placeholder\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// deploymentFiles is every file that tells somebody how to run pelton.
func deploymentFiles(t *testing.T) fstest.MapFS {
	t.Helper()
	root, files := os.DirFS(filepath.Join("..", "..")), fstest.MapFS{}
	add := func(name string) {
		data, err := fs.ReadFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	add("Taskfile.yml")
	add(".ci/run")
	add("README.md")
	for _, dir := range []string{"deployments", "docs"} {
		err := fs.WalkDir(root, dir, func(name string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && entry.Name() != ".env" {
				add(name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// What COPY takes must exist; its content does not matter.
	for _, dir := range []string{"cmd", "edges", "engine", "internal", "schedules"} {
		files[dir+"/dir"] = &fstest.MapFile{}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		files[name] = &fstest.MapFile{}
	}
	return files
}

// misfits says what in the deployments does not fit the binary, or one file the
// other. secret is a file for the *_FILE variables.
func (d *deployments) misfits(secret string) []string {
	out := slices.Clone(d.wrong)
	for _, p := range d.processes {
		if err := p.check(secret); err != nil {
			out = append(out, fmt.Sprintf("%s: pelton %s: %v", p.where, strings.Join(p.args, " "), err))
		}
	}
	for _, v := range d.variables {
		var broken *config.Error
		_, err := config.Load(config.Options{Environ: []string{v.text + "=x"}})
		if errors.As(err, &broken) && strings.HasPrefix(broken.Rule, "is unknown") {
			out = append(out, fmt.Sprintf("%s: %v", v.where, err))
		}
	}
	return append(append(out, d.strangers()...), d.strayPorts()...)
}

// strangers are users that NATS does not know, and users without a password.
func (d *deployments) strangers() (out []string) {
	example := d.envFile("deployments/.env.example")
	for _, user := range d.users {
		if name := "NATS_" + strings.ToUpper(user) + "_PASSWORD"; example[name] == "" {
			out = append(out, "deployments/.env.example: "+name+" is missing, nats-server does not start without it")
		}
	}
	for _, p := range d.processes {
		if user := p.env["PELTON_NATS__USER"]; user != "" && !slices.Contains(d.users, user) {
			out = append(out, fmt.Sprintf("%s: nats has no user %s", p.where, user))
		}
	}
	return out
}

// strayPorts are ports that nothing listens on.
func (d *deployments) strayPorts() (out []string) {
	listens := map[string]bool{}
	for _, p := range d.ports {
		if p.listens {
			listens[p.port] = true
		}
	}
	for _, p := range d.ports {
		if !p.listens && !listens[p.port] {
			out = append(out, fmt.Sprintf("%s: nothing listens on port %s", p.where, p.port))
		}
	}
	return out
}

// check reads a command line as the binary would, and loads its settings, but
// does not run it.
func (p process) check(secret string) error {
	root := (&app{}).root()
	cmd, rest, err := root.Find(p.args)
	if err != nil {
		return err
	}
	if cmd == root && len(p.args) > 0 && !strings.HasPrefix(p.args[0], "-") {
		return fmt.Errorf("unknown command %q", p.args[0])
	}
	cmd.InitDefaultHelpFlag()
	if p.named {
		return namesFlags(cmd, rest)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return flagError(cmd, err)
	}
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return nil
	}
	if cmd.HasSubCommands() && cmd != root {
		return fmt.Errorf("%s only holds others", cmd.CommandPath())
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	return p.checkSettings(cmd, secret)
}

// namesFlags checks that there are such flags, their values aside.
func namesFlags(cmd *cobra.Command, words []string) error {
	for _, word := range words {
		name, isFlag := strings.CutPrefix(word, "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && cmd.Flags().Lookup(name) == nil {
			return fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), name)
		}
	}
	return nil
}

func (p process) checkSettings(cmd *cobra.Command, secret string) error {
	foreign := map[string]string{"NATS_URL": "nats.url", "KAFKA_BOOTSTRAP_SERVERS": "kafka.brokers"}
	var environ []string
	for name, value := range p.env {
		switch _, known := foreign[name]; {
		case value == "":
			continue // as if it were not set
		case name == "COMMANDS_TOPIC":
			// Means something to some of them.
		case !known && !strings.HasPrefix(name, "PELTON_"):
			return fmt.Errorf("%s is set and means nothing to it", name)
		case strings.HasSuffix(name, "_FILE") && strings.HasPrefix(name, "PELTON_"):
			value = secret
		}
		environ = append(environ, name+"="+value)
	}
	cfg, err := config.Load(config.Options{Environ: environ, Flags: cmd.Flags(), Part: partOf(cmd)})
	if err != nil {
		return err
	}
	for name, key := range foreign {
		if p.env[name] != "" && cfg.Source(key) != name {
			return fmt.Errorf("%s is set, and %s comes from %s", name, key, cfg.Source(key))
		}
	}
	if p.grace > 0 && cfg.Worker.Grace >= p.grace {
		return fmt.Errorf("it is killed after %v, and worker.grace is %v", p.grace, cfg.Worker.Grace)
	}
	return p.checkProbed(cfg)
}

// checkProbed asks for an address where somebody probes the process.
func (p process) checkProbed(cfg *config.Config) error {
	if p.probed == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(cfg.Telemetry.Addr)
	switch {
	case err != nil:
		return fmt.Errorf("it is probed, and telemetry.addr is %q", cfg.Telemetry.Addr)
	case p.probed != probedWithin && port != p.probed:
		return fmt.Errorf("it is probed on %s, and telemetry.addr is %q", p.probed, cfg.Telemetry.Addr)
	case p.probed == probedWithin && host != "127.0.0.1":
		return fmt.Errorf("telemetry.addr is %q and must be on the loopback", cfg.Telemetry.Addr)
	}
	return nil
}

func partOf(cmd *cobra.Command) config.Part {
	switch cmd.CommandPath() {
	case "pelton produce":
		return config.PartProduce
	case "pelton edge ingest":
		return config.PartIngest
	case "pelton edge emit":
		return config.PartEmit
	case "pelton setup apply", "pelton setup plan":
		return config.PartQueues
	}
	return config.PartNone
}
