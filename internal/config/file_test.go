package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pelton/internal/config"
)

// folder is a working folder with these files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// One key is set in every place; as the strongest is taken away, the next counts.
func TestEachPlaceWinsOverTheWeakerOnes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key        string
		yaml       string
		own, other string // names of variables
		flag       string
		values     [8]string // by place, the weakest first
		get        func(*config.Config) string
		part       config.Part
	}{
		{
			key: "kafka.brokers", yaml: "kafka:\n  brokers: [yaml:1]\n", own: "PELTON_KAFKA__BROKERS", other: "KAFKA_BOOTSTRAP_SERVERS", flag: "kafka",
			values: [8]string{"", "yaml:1", "a:1", "b:1", "c:1", "d:1", "e:1", "f:1"},
			get:    func(c *config.Config) string { return strings.Join(c.Kafka.Brokers, ",") },
		},
		{
			key: "nats.url", yaml: "nats:\n  url: nats://yaml\n", own: "PELTON_NATS__URL", other: "NATS_URL", flag: "nats-url",
			values: [8]string{"nats://127.0.0.1:4222", "nats://yaml", "nats://a", "nats://b", "nats://c", "nats://d", "nats://e", "nats://f"},
			get:    func(c *config.Config) string { return c.NATS.URL },
		},
	} {
		t.Run(tc.key, func(t *testing.T) {
			t.Parallel()
			sources := []string{
				"default", "pelton.yaml:2", ".env:1", ".env:2", ".env.prod:1", ".env.prod:2", tc.other, tc.own, "--" + tc.flag,
			}
			values := append([]string{}, tc.values[:]...)
			values = append(values, strings.Replace(values[7], "f", "g", 1))
			for strongest := range slices.Backward(sources) {
				// set is what a place says if it still speaks.
				set := func(place int, name string) string {
					if place > strongest {
						return "\n"
					}
					return name + "=" + values[place] + "\n"
				}
				files := map[string]string{
					".env":      set(2, tc.other) + set(3, tc.own),
					".env.prod": set(4, tc.other) + set(5, tc.own),
				}
				if strongest >= 1 {
					files["pelton.yaml"] = tc.yaml
				}
				var environ, args []string
				for place, name := range map[int]string{6: tc.other, 7: tc.own} {
					if place <= strongest {
						environ = append(environ, name+"="+values[place])
					}
				}
				if strongest >= 8 {
					args = []string{"--" + tc.flag + "=" + values[8]}
				}
				c := load(t, config.Options{Dir: folder(t, files), Env: "prod", Environ: environ, Flags: flagSet(args...)})
				if got := tc.get(c); got != values[strongest] || c.Source(tc.key) != sources[strongest] {
					t.Errorf("strongest %s: %q from %s, want %q", sources[strongest], got, c.Source(tc.key), values[strongest])
				}
			}
		})
	}
}

func TestYAML(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"etc/pelton.yaml": "\ufeff---\n" + `namespace: 'prod'
nats: {url: "tls://a:1,tls://b:2", creds_file: pelton.creds, tls: true}
kafka:
  brokers: [kafka:9092, 'other:9092']
  tls: {ca_file: /etc/ca.pem}
  sasl: {mechanism: scram-sha-512, user: 12345, password_file: kafka.password}
discord:
  token: "t0ken"
setup:
queues:
  my-mail: {max_bytes: 4GiB, max_pending: 5, ack_wait: 1h30m}
  bare:
worker:
  queues: {default: 8, my-mail: }
  grace: 40s
  name: ""
produce: {idempotent: false}
edges:
  speak: {channel: 1298002000000000001}
  emit:
    results: {queues: "default,my-mail"}
log: {levels: {kafka: warn}, import: logging_config.json}
`,
		"etc/kafka.password": "p4ss word\r\n",
	})
	c := load(t, config.Options{File: "etc/pelton.yaml", Dir: dir})
	for _, got := range []struct{ is, want any }{
		{c.Namespace, "prod"},
		{c.NATS.URL, "tls://a:1,tls://b:2"},
		{c.NATS.CredsFile, filepath.Join(dir, "etc/pelton.creds")},
		{c.NATS.TLS.Enabled, true},
		{c.Kafka.Brokers, []string{"kafka:9092", "other:9092"}},
		{c.Kafka.TLS.CAFile, "/etc/ca.pem"},
		{c.Kafka.SASL.User, "12345"},
		{c.Kafka.SASL.Password.Reveal(), "p4ss word"},
		{c.Discord.Token.Reveal(), "t0ken"},
		{c.Setup.Mode, "verify"},
		{c.Queues, map[string]config.Queue{"my-mail": {MaxBytes: 4 << 30, MaxPending: 5, AckWait: 90 * time.Minute}, "bare": {}}},
		{c.Worker.Queues, map[string]int{"default": 8, "my-mail": 0}},
		{c.Worker.Grace, 40 * time.Second},
		{c.Produce.Idempotent, false},
		{c.Edges.Speak.Channel, "1298002000000000001"},
		{c.Edges.Emit["results"].Queues, []string{"default", "my-mail"}},
		{c.Log.Levels, map[string]string{"kafka": "warn"}},
		{c.Log.Import, filepath.Join(dir, "etc/logging_config.json")},
		{c.Source("kafka.sasl.password"), "etc/pelton.yaml:7"},
		{c.Source("queues.my-mail.ack_wait"), "etc/pelton.yaml:12"},
		{c.Source("worker.queues.my-mail"), "etc/pelton.yaml:15"},
		{c.Source("worker.name"), "default"},
		{len(c.Warnings), 0},
	} {
		if diff := cmp.Diff(got.want, got.is); diff != "" {
			t.Error(diff)
		}
	}
	// The same folder, entries for a part, stronger single entries over weaker ones.
	c = load(t, config.Options{File: "etc/pelton.yaml", Dir: dir, Part: config.PartQueues, Environ: []string{"PELTON_WORKER__QUEUES__MY_MAIL=3", "PELTON_LOG__LEVELS=nats:error"}})
	if diff := cmp.Diff([]string{"bare", "my-mail"}, c.Names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"default": 8, "my-mail": 3}, c.Worker.Queues); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"nats": "error"}, c.Log.Levels); diff != "" {
		t.Error(diff)
	}
}

func TestYAMLErrors(t *testing.T) {
	t.Parallel()
	const at = "pelton.yaml:"
	for _, tc := range []struct{ yaml, want string }{
		{"worker:\n  grase: 1s\n", at + "2: worker.grase is unknown, did you mean worker.grace?"},
		{"wroker:\n  grace: 1s\n", at + "1: wroker is unknown, did you mean worker?"},
		{"worker.grace: 1s\n", at + "1: worker.grace must be written with a level of its own for each name, not with dots"},
		{"a: [\n", at + "1: must be YAML: did not find expected node content"},
		{"namespace: a: b\n", at + "1: must be YAML: mapping values are not allowed in this context"},
		{"\tnamespace: a\n", at + "1: must be YAML: found character that cannot start any token"},
		{"namespace: a\n---\nnamespace: b\n", at + "2: begins a second document, a file must hold one"},
		{"namespace: a\nnamespace: b\n", at + "2: namespace must stand once, it does already in line 1"},
		{"- namespace\n", at + "1: must be keys with their values, got a list"},
		{"just text\n", at + "1: must be keys with their values, got a single value"},
		{"worker: 5\n", at + "1: worker must be keys with their values, got a single value"},
		{"namespace: [a]\n", at + "1: namespace must be one value, got a list"},
		{"namespace: {a: b}\n", at + "1: namespace must be one value, got keys with values"},
		{"kafka: {brokers: {a: 1}}\n", at + "1: kafka.brokers must be one value, got keys with values"},
		{"kafka: {brokers: [[a]]}\n", at + "1: kafka.brokers must be a list of texts, got a list in it"},
		{"kafka:\n  brokers:\n  - nowhere\n", at + "3: kafka.brokers must be host:port, several by comma, got nowhere"},
		{"worker: {grace: 25}\n", at + "1: worker.grace must be a duration such as 500ms, 25s or 1h30m, got 25"},
		{"produce: {idempotent: perhaps}\n", at + "1: produce.idempotent must be true or false, got perhaps"},
		{"setup: {replicas: 1.5}\n", at + "1: setup.replicas must be a whole number, got 1.5"},
		{"queues: {Mail: {max_pending: 1}}\n", at + "1: queues has a queue that must match [a-z0-9][a-z0-9-]{0,63}, got Mail"},
		{"queues: {mail: 5}\n", at + "1: queues.mail must be keys with their values, got a single value"},
		{"queues: {my_mail: {}}\n", at + "1: queues has a queue that must match [a-z0-9][a-z0-9-]{0,63}, got my_mail"},
		{"queues: 5\n", at + "1: queues must be keys with their values, got a single value"},
		{"queues: {mail: {ack_wat: 1s}}\n", at + "1: queues.mail.ack_wat is unknown, did you mean queues.mail.ack_wait?"},
		{"nats: {user: &x a, password: *x}\n", at + "1: nats.password must be one value, got an alias of YAML's, which is not followed"},
		{"nats:\n  password: *secret-canary\n", at + "2: must be YAML: a value that begins with * needs quotes"},
		{"nats:\n  <<: {user: a}\n", at + "2: nats must have names as keys, got a single value"},
		{"nats: {? [a] : b}\n", at + "1: nats must have names as keys, got a list"},
		{"nats: {password: !!binary aGk=}\n", at + "1: nats.password must have no tag of YAML's"},
		{"nats: {password: [secret-canary]}\n", at + "1: nats.password must be one value, got a list"},
		{"nats: {user: a, password: b, password_file: c}\n", at + "1: nats.password_file must not stand beside nats.password"},
		{"nats:\n  pasword_file: c\n", at + "2: nats.pasword_file is unknown, did you mean nats.password_file?"},
		{"kafka: {tls: secret-canary}\n", at + "1: kafka.tls must be keys with their values, got a single value"},
		{strings.Repeat("# much\n", 200_000), "settings: must name a file of at most 1MiB, got pelton.yaml"},
		{"namespace: \"\xff\"\n", at + "1: must be YAML: "},
	} {
		t.Run(tc.want, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{Dir: folder(t, map[string]string{"pelton.yaml": tc.yaml})})
			if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("a secret is told: %v", err)
			}
		})
	}
}

func TestWhichFiles(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"pelton.yaml": "namespace: yaml\n", "other.yaml": "namespace: other\n",
		".env": "PELTON_WORKER__MAX_DEATHS=4\n", ".env.prod": "PELTON_NAMESPACE=prod\n",
	})
	chosen := folder(t, map[string]string{".env": "PELTON_ENV=prod\nPELTON_CONFIG=other.yaml\n", ".env.prod": "PELTON_SETUP__REPLICAS=3\n", "other.yaml": "namespace: other\n"})
	broken := folder(t, map[string]string{".env.x": "PELTON_ENV=prod\n"})
	noFiles, folders := t.TempDir(), t.TempDir()
	for _, name := range []string{".env", "pelton.yaml"} { // .env is a usual name for a virtual environment
		if err := os.Mkdir(filepath.Join(folders, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name      string
		opts      config.Options
		namespace string
		warning   string
		err       string
	}{
		{name: "without a folder nothing is read", namespace: "pelton"},
		{name: "the usual names", opts: config.Options{Dir: dir}, namespace: "yaml"},
		{name: "no files", opts: config.Options{Dir: noFiles}, namespace: "pelton"},
		{name: "folders of these names", opts: config.Options{Dir: folders}, namespace: "pelton"},
		{name: "--config", opts: config.Options{Dir: dir, File: "other.yaml"}, namespace: "other"},
		{name: "--config without a folder", opts: config.Options{File: filepath.Join(dir, "other.yaml")}, namespace: "other"},
		{name: "PELTON_CONFIG", opts: config.Options{Dir: dir, Environ: []string{"PELTON_CONFIG=other.yaml"}}, namespace: "other"},
		{name: "--config wins", opts: config.Options{Dir: dir, File: "pelton.yaml", Environ: []string{"PELTON_CONFIG=other.yaml"}}, namespace: "yaml"},
		{name: "--env", opts: config.Options{Dir: dir, Env: "prod"}, namespace: "prod"},
		{name: "PELTON_ENV", opts: config.Options{Dir: dir, Environ: []string{"PELTON_ENV=prod"}}, namespace: "prod"},
		{name: "chosen by .env", opts: config.Options{Dir: chosen}, namespace: "other"},
		{name: "--env without its file", opts: config.Options{Dir: dir, Env: "prdo"}, err: "--env: must name an environment that has a file .env.prdo in the working folder, there is none, got prdo"},
		{name: "PELTON_ENV without its file", opts: config.Options{Dir: dir, Environ: []string{"PELTON_ENV=prdo"}}, namespace: "yaml", warning: "PELTON_ENV: there is no file .env.prdo, what is only for prdo is not set"},
		{name: "PELTON_ENV where there are no files at all", opts: config.Options{Dir: noFiles, Environ: []string{"PELTON_ENV=prod"}}, namespace: "pelton"},
		{name: "an environment that is a path", opts: config.Options{Dir: dir, Env: "../x"}, err: "--env: must match [A-Za-z0-9]"},
		{name: "chosen too late", opts: config.Options{Dir: broken, Env: "x"}, err: ".env.x:1: PELTON_ENV must stand in the environment or in .env"},
		{name: "--config without a file", opts: config.Options{Dir: dir, File: "no.yaml"}, err: "--config: must name a file, there is none, got no.yaml"},
		{name: "PELTON_CONFIG without a file", opts: config.Options{Dir: dir, Environ: []string{"PELTON_CONFIG=no.yaml"}}, err: "PELTON_CONFIG: must name a file, there is none, got no.yaml"},
		{name: "--config with a folder", opts: config.Options{Dir: filepath.Dir(dir), File: dir}, err: "--config: must name a file, this is a folder, got "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.Load(tc.opts)
			if tc.err != "" {
				if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), tc.err) {
					t.Errorf("got  %v\nwant %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Namespace != tc.namespace || strings.Join(c.Warnings, "\n") != tc.warning {
				t.Errorf("namespace %q, warnings %q", c.Namespace, c.Warnings)
			}
		})
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"good": "s3cret\n", "empty": "\n", "large": strings.Repeat("x", 65<<10), "open": "s3cret", "group": "s3cret", "handed": "s3cret"})
	for name, mode := range map[string]os.FileMode{"open": 0o644, "group": 0o640, "handed": 0o440} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := func(c *config.Config) string { return c.Discord.Token.Reveal() }
	for _, tc := range []struct {
		name    string
		environ []string
		want    string
		source  string
		warning string
		err     string
	}{
		{name: "own", environ: []string{"PELTON_DISCORD__TOKEN_FILE=good"}, want: "s3cret", source: "PELTON_DISCORD__TOKEN_FILE"},
		{name: "foreign", environ: []string{"DISCORD_TOKEN_FILE=good"}, want: "s3cret", source: "DISCORD_TOKEN_FILE"},
		{name: "own over foreign", environ: []string{"DISCORD_TOKEN=other", "PELTON_DISCORD__TOKEN_FILE=good"}, want: "s3cret", source: "PELTON_DISCORD__TOKEN_FILE"},
		{name: "readable by all", environ: []string{"DISCORD_TOKEN_FILE=open"}, want: "s3cret", source: "DISCORD_TOKEN_FILE", warning: "can be read by others than its owner (mode 0644), chmod 600 it"},
		{name: "readable by a group", environ: []string{"DISCORD_TOKEN_FILE=group"}, want: "s3cret", source: "DISCORD_TOKEN_FILE", warning: "can be read by others than its owner (mode 0640), chmod 600 it"},
		{name: "as Kubernetes and systemd hand one over", environ: []string{"DISCORD_TOKEN_FILE=handed"}, want: "s3cret", source: "DISCORD_TOKEN_FILE"},
		{name: "missing", environ: []string{"DISCORD_TOKEN_FILE=none"}, err: "DISCORD_TOKEN_FILE: discord.token_file must name a file, there is none, got " + dir + "/none"},
		{name: "empty", environ: []string{"DISCORD_TOKEN_FILE=empty"}, err: "DISCORD_TOKEN_FILE: discord.token_file must name a file that holds a secret, this one is empty, got " + dir + "/empty"},
		{name: "pipe without a writer", environ: []string{"DISCORD_TOKEN_FILE=pipe"}, err: "DISCORD_TOKEN_FILE: discord.token_file must name a file that holds a secret, this one is empty, got " + dir + "/pipe"},
		{name: "large", environ: []string{"DISCORD_TOKEN_FILE=large"}, err: "DISCORD_TOKEN_FILE: discord.token_file must name a file of at most 64KiB, got "},
		{name: "both", environ: []string{"DISCORD_TOKEN_FILE=good", "DISCORD_TOKEN=other"}, err: "DISCORD_TOKEN: discord.token must not stand beside DISCORD_TOKEN_FILE"},
		{name: "both of our own", environ: []string{"PELTON_DISCORD__TOKEN=other", "PELTON_DISCORD__TOKEN_FILE=good"}, err: "PELTON_DISCORD__TOKEN_FILE: discord.token_file must not stand beside PELTON_DISCORD__TOKEN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, err := config.Load(config.Options{Dir: dir, Environ: tc.environ})
			if tc.err != "" {
				if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), tc.err) {
					t.Errorf("got  %v\nwant %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if token(c) != tc.want || c.Source("discord.token") != tc.source {
				t.Errorf("%q from %s", token(c), c.Source("discord.token"))
			}
			if got := strings.Join(c.Warnings, "\n"); !strings.HasSuffix(got, tc.warning) || (tc.warning == "") != (got == "") {
				t.Errorf("warnings %q", got)
			}
		})
	}
}

func TestContradictions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ yaml, want string }{
		{"nats: {url: nats://a, context: b}", "nats.context must not stand beside nats.url (pelton.yaml:1)"},
		{"nats: {creds_file: a, nkey_file: b}", "nats.nkey_file must not stand beside nats.creds_file"},
		{"nats: {creds_file: a, user: b, password: c}", "nats.user must not stand beside nats.creds_file"},
		{"nats: {token: a, user: b, password: c}", "nats.token must not stand beside nats.user"},
		{"nats: {user: a}", "nats.user must not stand without nats.password"},
		{"nats: {password: a}", "nats.password must not stand without nats.user"},
		{"nats: {tls: {cert_file: a}}", "nats.tls.cert_file must not stand without nats.tls.key_file"},
		{"kafka: {tls: {key_file: a}}", "kafka.tls.key_file must not stand without kafka.tls.cert_file"},
		{"kafka: {sasl: {user: a, password: b}}", "kafka.sasl.user must not stand without kafka.sasl.mechanism"},
		{"kafka: {sasl: {mechanism: plain}}", "kafka.sasl.mechanism must not stand without kafka.sasl.user"},
		{"kafka: {sasl: {mechanism: plain, user: a}}", "kafka.sasl.user must not stand without kafka.sasl.password"},
		{"worker: {backoff: {min: 1h}}", "worker.backoff.min must leave worker.backoff.min (1h0m0s) at most worker.backoff.max (10m0s)"},
		{"worker: {backoff: {max: 1ms}}", "worker.backoff.max must leave"},
		{"edges: {emit: {results: {queues: [a, b, a]}}}", "edges.emit.results.queues must name each queue once, got a"},
		{"edges: {emit: {results: {topic: a, ledger_topic: a}}}", "edges.emit.results.ledger_topic must be a topic of its own, results are written to this one, got a"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{Dir: folder(t, map[string]string{"pelton.yaml": tc.yaml})})
			if !errors.Is(err, config.ErrInvalid) || !strings.HasPrefix(err.Error(), "pelton.yaml:1: "+tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// Of two ways to say a thing the one in the stronger place counts, and the other
// is as if nobody had said it.
func TestAlternatives(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"pelton.yaml": "nats: {context: a, creds_file: b}"})
	c := load(t, config.Options{Dir: dir, Environ: []string{"NATS_URL=nats://env", "PELTON_NATS__USER=joe", "PELTON_NATS__PASSWORD=x"}})
	if c.NATS.URL != "nats://env" || c.NATS.Context != "" || c.IsSet("nats.context") || c.NATS.CredsFile != "" || c.NATS.User != "joe" {
		t.Errorf("%+v", c.NATS)
	}
	c = load(t, config.Options{Dir: folder(t, map[string]string{"pelton.yaml": "nats: {url: nats://yaml}"}), Environ: []string{"NATS_CONTEXT=ctx"}})
	if c.NATS.Context != "ctx" || c.IsSet("nats.url") || c.NATS.URL != "nats://127.0.0.1:4222" {
		t.Errorf("%+v", c.NATS)
	}
}

// What a command does not ask for cannot stop it.
func TestWithout(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"pelton.yaml": "nats: {url: '%%', password_file: none}\nkafka: {brokers: nowhere}\n", ".env": "NATS_URL=%%\nKAFKA_BOOTSTRAP_SERVERS='x\ny'\n",
	})
	opts := config.Options{Dir: dir, Environ: []string{"NATS_URL=%%", "PELTON_KAFKA__RETRIES=many"}}
	if _, err := config.Load(opts); err == nil {
		t.Error("nonsense is taken")
	}
	opts.Without = []string{"nats", "kafka"}
	if c := load(t, opts); c.IsSet("nats.url") || c.IsSet("kafka.brokers") {
		t.Errorf("%+v", c.NATS)
	}
}

// Check tells every mistake of every place, Load the first.
func TestCheck(t *testing.T) {
	t.Parallel()
	opts := config.Options{
		Dir:     folder(t, map[string]string{"pelton.yaml": "worker: {grase: 1s, grace: soon}\n", ".env": "PELTON_FOO=1\nnot a setting\n"}),
		Environ: []string{"PELTON_SETUP__REPLICAS=9"},
	}
	warnings, errs := config.Check(opts)
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	want := []string{
		"pelton.yaml:1: worker.grase is unknown, did you mean worker.grace?",
		"pelton.yaml:1: worker.grace must be a duration such as 500ms, 25s or 1h30m, got soon",
		".env:1: PELTON_FOO: foo is unknown",
		"PELTON_SETUP__REPLICAS: setup.replicas must be from 1 to 5, got 9",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{".env:2: must be NAME=value, the line is passed over"}, warnings); diff != "" {
		t.Error(diff)
	}
	if _, err := config.Load(opts); err == nil || err.Error() != want[0] {
		t.Errorf("the first is %v", err)
	}
}

// The example sets nothing as it stands, and with its comments taken away what
// holds anyway.
func TestExample(t *testing.T) {
	t.Parallel()
	plain := load(t, config.Options{Dir: folder(t, map[string]string{"pelton.yaml": config.Example()})})
	none := load(t, config.Options{})
	if diff := cmp.Diff(none.Settings, plain.Settings); diff != "" {
		t.Errorf("with all commented out:\n%s", diff)
	}
	full := regexp.MustCompile(`(?m)^( *)#([^ ])`).ReplaceAllString(config.Example(), "$1$2")
	got := load(t, config.Options{Dir: folder(t, map[string]string{"pelton.yaml": full})})
	want := none.Settings
	want.Queues = map[string]config.Queue{"default": {}}
	want.Beat.Entries = map[string]config.Entry{"nightly": {}}
	want.Edges.Ingest = map[string]config.Ingest{"commands": {Topics: []string{"commands"}, Queue: "default", Task: "print"}}
	want.Edges.Emit = map[string]config.Emit{"results": {Queues: []string{"default"}, Topic: "results"}}
	if diff := cmp.Diff(want, got.Settings); diff != "" {
		t.Errorf("with nothing commented out:\n%s", diff)
	}
	if got.Source("worker.grace") == "default" {
		t.Error("nothing was taken from the file")
	}
	for _, k := range config.Keys() {
		name := k.Name[strings.LastIndexByte(k.Name, '.')+1:]
		if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("%s: it must have a doc, a sentence, got %q", k.Name, k.Doc)
		}
		if !strings.Contains(config.Example(), "#"+name+":") {
			t.Errorf("%s is not in the example", k.Name)
		}
	}
}

// The values are told with every secret hidden, each key once.
func TestValues(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{
		Dir: folder(t, map[string]string{"pelton.yaml": "queues: {mail: {ack_wait: 90m}}\nworker: {queues: {mail: 2}}\nnats: {monitor_url: 'http://u:canary@h:8222/'}\n"}),
		Environ: []string{
			"NATS_URL=nats://joe:canary@h:1", "DISCORD_TOKEN=canary", "PELTON_KAFKA__SASL__USER=u", "PELTON_KAFKA__SASL__PASSWORD=canary", "PELTON_KAFKA__SASL__MECHANISM=plain",
		},
	})
	got := map[string]config.Value{}
	for _, v := range c.Values() {
		if _, twice := got[v.Key]; twice {
			t.Errorf("%s is told twice", v.Key)
		}
		got[v.Key] = v
		if strings.Contains(v.Value, "canary") {
			t.Errorf("%s tells a secret", v.Key)
		}
	}
	for _, want := range []config.Value{
		{Key: "nats.url", Value: "nats://joe:***@h:1", Source: "NATS_URL"},
		{Key: "nats.monitor_url", Value: "http://u:***@h:8222/", Source: "pelton.yaml:3"},
		{Key: "discord.token", Value: "***", Source: "DISCORD_TOKEN"},
		{Key: "queues.mail.ack_wait", Value: "1h30m", Source: "pelton.yaml:1"},
		{Key: "worker.queues.mail", Value: "2", Source: "pelton.yaml:2"},
		{Key: "results.ttl", Value: "24h", Source: "default"},
		{Key: "nats.password", Value: "", Source: "default"},
	} {
		if diff := cmp.Diff(want, got[want.Key]); diff != "" {
			t.Error(diff)
		}
	}
}
