package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"pelton/internal/config"
	"pelton/internal/secret"
)

// runAt runs a command in a folder.
func runAt(ctx context.Context, dir string, env []string, args ...string) ended {
	var stdout, stderr watched
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, env: env, dir: dir}
	code := a.run(ctx, args)
	return ended{code, stdout.String(), stderr.String()}
}

func writeFile(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConfigShow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, dir, "pelton.yaml", "worker: {grace: 40s}\n")
	writeFile(t, dir, ".env", "COMMANDS_TOPIC=orders\nDISCORD_TOKEN=hush\n")
	writeFile(t, dir, ".env.prod", "PELTON_SETUP__REPLICAS=3\n")
	got := runAt(t.Context(), dir, []string{"NATS_URL=nats://joe:hush@h:1"}, "config", "show", "--sources", "--env", "prod")
	for _, line := range []string{
		`KEY +VALUE +SOURCE`,
		`worker\.grace +40s +pelton\.yaml:1`,
		`discord\.token +\*\*\* +\.env:2`,
		`setup\.replicas +3 +\.env\.prod:1`,
		`nats\.url +nats://joe:\*\*\*@h:1 +NATS_URL`,
		`produce\.topic +commands +default`,
		`nats\.user +- +default`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(got.stdout) {
			t.Errorf("no line %s in\n%s", line, got.stdout)
		}
	}
	if got.code != exitOK || got.stderr != "" {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	got = runAt(t.Context(), dir, nil, "config", "show", "--for", "ingest", "-o", "json")
	var values []config.Value
	if err := json.Unmarshal([]byte(got.stdout), &values); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, v := range values {
		found = found || v == config.Value{Key: "edges.ingest.orders.topics", Value: "orders", Source: ".env:1"}
	}
	if !found {
		t.Errorf("the route is not told: %s", got.stdout)
	}
}

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, dir, ".env", "PELTON_DISCORD__TOKEN_FILE=token\n")
	writeFile(t, dir, "token", "hush\n")
	if err := os.Chmod(filepath.Join(dir, "token"), 0o640); err != nil {
		t.Fatal(err)
	}
	got := runAt(t.Context(), dir, nil, "config", "check")
	if got.code != exitOK || got.stdout != "the settings are right\n" || !strings.HasPrefix(got.stderr, "pelton: warning: .env:1: discord.token_file: ") || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	writeFile(t, dir, "pelton.yaml", "worker: {grase: 1s}\nsetup: {replicas: 9}\n")
	got = runAt(t.Context(), dir, nil, "config", "check")
	want := "pelton: pelton.yaml:1: worker.grase is unknown, did you mean worker.grace?\npelton: pelton.yaml:2: setup.replicas must be from 1 to 5, got 9\n"
	if got.code != exitUsage || got.stdout != "" || !strings.HasSuffix(got.stderr, want) {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	// A command that starts with such settings tells the first of them.
	got = runAt(t.Context(), dir, nil, "worker")
	if line, _, _ := strings.Cut(want, "\n"); got.code != exitUsage || got.stderr != line+"\n" {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	// dev asks for no broker, whatever the files say of them.
	writeFile(t, dir, "pelton.yaml", "nats: {url: '%%', context: none}\n")
	writeFile(t, dir, ".env", "KAFKA_BOOTSTRAP_SERVERS=nowhere\n")
	if got := runAt(testContext(t), dir, nil, "dev", "--for", "100ms", "--quiet", "--nats-port", freePort(t), "--kafka-port", freePort(t)); got.code != exitOK {
		t.Errorf("dev: exit code %d: %s", got.code, got.stderr)
	}
}

// What keeps a role from opening its logs or its connections is a mistake of the
// settings, too.
func TestConfigCheckOfFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, yaml, python, want string }{
		{"right", "log: {levels: {kafka: debug}}", `{"version":1}`, ""},
		{"component", "log: {levels: {kafak: debug}}", "", "pelton.yaml:1: log.levels.kafak is unknown, did you mean log.levels.kafka?"},
		{"named", "log: {import: none.json}", "", "none.json: must be a file that can be read"},
		{"credentials", "nats: {creds_file: none.creds}", "", "pelton.yaml:1: nats.creds_file must name a file"},
		{"context", "nats: {context: mine}", "", "pelton.yaml:1: nats.context needs XDG_CONFIG_HOME or HOME"},
		{"certificate", "kafka: {tls: {ca_file: none.pem}}", "", "pelton.yaml:1: kafka.tls.ca_file must name a"},
		{"commands of a terminal", `log: {import: "none\n\e[2J.json"}`, "", "none; \ufffd[2J.json: must be a file that can be read"},
		{"found", "", `{"version":2}`, foundLogging + ": version must be 1, got 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeFile(t, dir, "pelton.yaml", tc.yaml+"\n")
			if tc.python != "" {
				writeFile(t, dir, foundLogging, tc.python)
			}
			got := runAt(t.Context(), dir, nil, "config", "check")
			if tc.want == "" {
				if got.code != exitOK {
					t.Errorf("exit code %d: %s", got.code, got.stderr)
				}
				return
			}
			if got.code != exitUsage || !strings.Contains(got.stderr, tc.want) || strings.Count(got.stderr, "\n") != 1 {
				t.Errorf("exit code %d: %s", got.code, got.stderr)
			}
		})
	}
}

func TestConfigExample(t *testing.T) {
	t.Parallel()
	got := runIn(t.Context(), nil, strings.NewReader(""), "config", "example")
	if got.code != exitOK || got.stdout != config.Example() {
		t.Errorf("exit code %d: %s", got.code, got.stdout)
	}
}

// canary is a secret that no output may hold.
const canary = "canary-5e1f"

// secretsEverywhere is a folder and an environment that hold it in every way
// that there is, but for those that exclude each other.
func secretsEverywhere(t *testing.T, nats, kafka string) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	writeFile(t, dir, "secret", canary+"\n")
	writeFile(t, dir, "pelton.yaml", "nats: {monitor_url: 'http://u:"+canary+"@127.0.0.1:1'}\nkafka: {sasl: {mechanism: plain, user: joe, password_file: secret}}\nproduce: {delivery_timeout: 1s, grace: 1s}\n")
	writeFile(t, dir, ".env", "DISCORD_TOKEN='"+canary+"'\nOTHER="+canary+"\nsomething "+canary+"\nKAFKA_BOOTSTRAP_SERVERS="+kafka+"\n")
	writeFile(t, dir, ".env.prod", "PELTON_NATS__PASSWORD=\""+canary+"\"\n")
	return dir, []string{"NATS_URL=nats://joe:" + canary + "@" + nats, "PELTON_NATS__USER=joe", "PELTON_ENV=prod"}
}

// commandsOf are all commands that can be run, with arguments that lead them as
// far as they come without a broker.
func commandsOf(cmd *cobra.Command) [][]string {
	var out [][]string
	for _, c := range cmd.Commands() {
		out = append(out, commandsOf(c)...)
	}
	if cmd.HasSubCommands() || cmd.Name() == "completion" || cmd.Parent() != nil && cmd.Parent().Name() == "completion" {
		return out
	}
	args := strings.Fields(cmd.CommandPath())[1:]
	switch name := strings.Join(args, " "); {
	case name == "send":
		args = append(args, "print", "1")
	case strings.HasPrefix(name, "task ") || strings.HasPrefix(name, "dead ") && name != "dead ls":
		args = append(args, "default-1")
	case name == "produce":
		args = append(args, "hi")
	case name == "dev":
		args = append(args, "--for", "100ms", "--quiet")
	}
	for name, value := range map[string]string{"log-level": "debug", "output": "json", "timeout": "2s"} {
		if f := cmd.Flags().Lookup(name); f != nil {
			args = append(args, "--"+name, value)
		}
	}
	return append(out, args)
}

// TestSecretsAreNeverTold runs every command with secrets everywhere and looks
// for them in what it writes.
func TestSecretsAreNeverTold(t *testing.T) {
	t.Parallel()
	dir, env := secretsEverywhere(t, "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t))
	root := (&app{}).root()
	root.InitDefaultHelpCmd()
	commands := commandsOf(root)
	if len(commands) < 15 {
		t.Fatalf("only %d commands", len(commands))
	}
	for _, args := range commands {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			if args[0] == "dev" {
				args = append(args, "--nats-port", freePort(t), "--kafka-port", freePort(t))
			}
			// Roles wait for their brokers; by then they have said what they say.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			for _, run := range [][]string{args, append(slices.Clip(args), "--help")} {
				silent(t, runAt(ctx, dir, env, run...))
			}
		})
	}
	for _, wrong := range []string{
		"PELTON_NATS__URL=" + canary + " x", "PELTON_NATS__URL=http://u:" + canary + "@h", "PELTON_KAFKA__BROKERS=u:" + canary + "@h:1",
		"PELTON_NATS__MONITOR_URL=nats://" + canary, "PELTON_DISCORD__TOKEN_FILE=none",
	} {
		for _, args := range [][]string{{"worker"}, {"config", "check"}} {
			got := runAt(testContext(t), dir, append(slices.Clip(env), wrong), args...)
			if silent(t, got); got.code != exitUsage {
				t.Errorf("%v: exit code %d: %s", args, got.code, got.stderr)
			}
		}
	}
}

func silent(t *testing.T, got ended) {
	t.Helper()
	if tells(got) {
		t.Errorf("a secret is told:\n%s%s", got.stdout, got.stderr)
	}
}

func tells(got ended) bool { return strings.Contains(got.stdout+got.stderr, canary) }

// The control: the secrets reach the settings, and one that is told is found.
func TestSecretsThatAreToldAreFound(t *testing.T) {
	t.Parallel()
	dir, env := secretsEverywhere(t, "127.0.0.1:1", "127.0.0.1:1")
	cfg, err := config.Load(config.Options{Environ: env, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for key, s := range map[string]secret.Text{"nats.password": cfg.NATS.Password, "kafka.sasl.password": cfg.Kafka.SASL.Password, "discord.token": cfg.Discord.Token} {
		if s.Reveal() != canary {
			t.Errorf("%s is not set", key)
		}
		var stderr watched
		a := &app{stderr: &stderr}
		logs, err := a.logs(cfg)
		if err != nil {
			t.Fatal(err)
		}
		log := logs.Logger("config")
		log.Info("told", "secret", s)
		if tells(ended{stderr: stderr.String()}) {
			t.Errorf("%s is told by the log", key)
		}
		log.Info("told", "secret", s.Reveal())
		if !tells(ended{stderr: stderr.String()}) {
			t.Errorf("%s is told and not found", key)
		}
	}
	if !strings.Contains(cfg.NATS.URL, canary) || !strings.Contains(cfg.NATS.MonitorURL, canary) {
		t.Error("an address has lost its password")
	}
}
