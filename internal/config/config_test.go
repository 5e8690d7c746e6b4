package config_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"pelton/internal/config"
	"pelton/internal/secret"
)

func load(t *testing.T, opts config.Options) *config.Config {
	t.Helper()
	c, err := config.Load(opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{})
	want := config.Settings{
		Namespace: "pelton",
		NATS:      config.NATS{URL: "nats://127.0.0.1:4222"},
		Kafka:     config.Kafka{ClientID: "pelton", Acks: "all"},
		Setup:     config.Setup{Mode: "verify", Replicas: 1},
		Results:   config.Results{TTL: 24 * time.Hour, Max: 2_000_000},
		Dead:      config.Dead{MaxAge: 336 * time.Hour},
		Worker: config.Worker{
			Grace: 25 * time.Second, Timeout: 30 * time.Minute, MaxAttempts: 5, MaxDeaths: 3,
			Backoff:         config.Backoff{Min: time.Second, Max: 10 * time.Minute},
			UnknownTaskPark: 30 * time.Second, UnknownTaskAfter: 10 * time.Minute,
		},
		Produce: config.Produce{
			Topic: "commands", Every: time.Second, Compression: "snappy", Idempotent: true,
			DeliveryTimeout: 2 * time.Minute, Grace: 10 * time.Second,
		},
		Log: config.Log{Level: "info", Format: "auto"},
	}
	if diff := cmp.Diff(want, c.Settings); diff != "" {
		t.Error(diff)
	}
	if c.Source("worker.grace") != "default" || c.IsSet("worker.grace") || c.Names != nil {
		t.Errorf("source %q, names %q", c.Source("worker.grace"), c.Names)
	}
}

func flagSet(args ...string) *pflag.FlagSet {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	for name, key := range map[string]string{
		"nats-url": "nats.url", "grace": "worker.grace", "slots": "worker.queues", "kafka": "kafka.brokers", "every": "produce.every",
		"topic": "@.topics", "group": "@.group", "ack-wait": "@.ack_wait",
	} {
		flags.String(name, "", "")
		config.Bind(flags, name, key)
	}
	flags.Bool("manage", false, "")
	config.BindSwitch(flags, "manage", "setup.mode", "manage")
	flags.Bool("idempotent", true, "")
	config.Bind(flags, "idempotent", "produce.idempotent")
	flags.String("output", "", "not bound")
	if err := flags.Parse(args); err != nil {
		panic(err)
	}
	return flags
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		environ []string
		args    []string
		key     string
		get     func(*config.Config) any
		want    any
		source  string
	}{
		{
			name: "environment over default", environ: []string{"PELTON_WORKER__GRACE=3s"},
			key: "worker.grace", get: func(c *config.Config) any { return c.Worker.Grace }, want: 3 * time.Second, source: "PELTON_WORKER__GRACE",
		},
		{
			name: "flag over environment", environ: []string{"PELTON_WORKER__GRACE=3s"}, args: []string{"--grace=4s"},
			key: "worker.grace", get: func(c *config.Config) any { return c.Worker.Grace }, want: 4 * time.Second, source: "--grace",
		},
		{
			name: "a flag that is not given says nothing", environ: []string{"PELTON_SETUP__MODE=off"},
			key: "setup.mode", get: func(c *config.Config) any { return c.Setup.Mode }, want: "off", source: "PELTON_SETUP__MODE",
		},
		{
			name: "switch", environ: []string{"PELTON_SETUP__MODE=off"}, args: []string{"--manage"},
			key: "setup.mode", get: func(c *config.Config) any { return c.Setup.Mode }, want: "manage", source: "--manage",
		},
		{
			name: "switch turned off", args: []string{"--manage=false"},
			key: "setup.mode", get: func(c *config.Config) any { return c.Setup.Mode }, want: "verify", source: "default",
		},
		{
			name: "switch for a switch", args: []string{"--idempotent=false"},
			key: "produce.idempotent", get: func(c *config.Config) any { return c.Produce.Idempotent }, want: false, source: "--idempotent",
		},
		{
			name: "a name of others", environ: []string{"NATS_URL=nats://a:1"},
			key: "nats.url", get: func(c *config.Config) any { return c.NATS.URL }, want: "nats://a:1", source: "NATS_URL",
		},
		{
			name: "an own name wins", environ: []string{"PELTON_NATS__URL=nats://b:1", "NATS_URL=nats://a:1"},
			key: "nats.url", get: func(c *config.Config) any { return c.NATS.URL }, want: "nats://b:1", source: "PELTON_NATS__URL",
		},
		{
			name: "an empty variable is not set", environ: []string{"PELTON_NATS__URL=", "NATS_URL=nats://a:1"},
			key: "nats.url", get: func(c *config.Config) any { return c.NATS.URL }, want: "nats://a:1", source: "NATS_URL",
		},
		{
			name: "a list", environ: []string{"KAFKA_BOOTSTRAP_SERVERS=a:1, b:2,"},
			key: "kafka.brokers", get: func(c *config.Config) any { return c.Kafka.Brokers }, want: []string{"a:1", "b:2"}, source: "KAFKA_BOOTSTRAP_SERVERS",
		},
		{
			name: "a list is replaced, not merged", environ: []string{"KAFKA_BOOTSTRAP_SERVERS=a:1,b:2"}, args: []string{"--kafka=c:3"},
			key: "kafka.brokers", get: func(c *config.Config) any { return c.Kafka.Brokers }, want: []string{"c:3"}, source: "--kafka",
		},
		{
			name: "slots", environ: []string{"PELTON_WORKER__QUEUES=default:8,my-mail"},
			key: "worker.queues.default", get: func(c *config.Config) any { return c.Worker.Queues }, want: map[string]int{"default": 8, "my-mail": 0}, source: "PELTON_WORKER__QUEUES",
		},
		{
			name: "slots by queue", environ: []string{"PELTON_WORKER__QUEUES__MY_MAIL=2", "PELTON_WORKER__QUEUES__DEFAULT=1"},
			key: "worker.queues.my-mail", get: func(c *config.Config) any { return c.Worker.Queues }, want: map[string]int{"default": 1, "my-mail": 2}, source: "PELTON_WORKER__QUEUES__MY_MAIL",
		},
		{
			name: "slots are replaced, not merged", environ: []string{"PELTON_WORKER__QUEUES__MAIL=2"}, args: []string{"--slots=default:8"},
			key: "worker.queues.mail", get: func(c *config.Config) any { return c.Worker.Queues }, want: map[string]int{"default": 8}, source: "--slots",
		},
		{
			name: "an = within the value", environ: []string{"PELTON_PRODUCE__KEY=abc="},
			key: "produce.key", get: func(c *config.Config) any { return c.Produce.Key }, want: "abc=", source: "PELTON_PRODUCE__KEY",
		},
		{
			name: "a queue", environ: []string{"PELTON_QUEUES__MY_MAIL__MAX_BYTES=4GiB", "PELTON_QUEUES__MY_MAIL__ACK_WAIT=5s"},
			key: "queues.my-mail.ack_wait", get: func(c *config.Config) any { return c.Queues },
			want: map[string]config.Queue{"my-mail": {MaxBytes: 4 << 30, AckWait: 5 * time.Second}}, source: "PELTON_QUEUES__MY_MAIL__ACK_WAIT",
		},
		{
			name: "Kubernetes announces services", environ: []string{
				"PELTON_SERVICE_HOST=10.0.0.1", "PELTON_PORT=tcp://10.0.0.1:80", "PELTON_PORT_80_TCP_ADDR=10.0.0.1",
				"PELTON_DASHBOARD_SERVICE_PORT_HTTP=80", "PELTON_DASHBOARD_PORT_80_TCP=tcp://10.0.0.1:80", "OTHER=1", "PATH=/bin",
			},
			key: "namespace", get: func(c *config.Config) any { return c.Namespace }, want: "pelton", source: "default",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := load(t, config.Options{Environ: tc.environ, Flags: flagSet(tc.args...)})
			if diff := cmp.Diff(tc.want, tc.get(c)); diff != "" {
				t.Error(diff)
			}
			if got := c.Source(tc.key); got != tc.source {
				t.Errorf("source %q, want %q", got, tc.source)
			}
		})
	}
}

func TestParts(t *testing.T) {
	t.Parallel()
	ingest := func(c *config.Config) any { return c.Edges.Ingest }
	route := func(topics ...string) config.Ingest {
		return config.Ingest{Topics: topics, Queue: "default", Task: "print"}
	}
	type routes = map[string]config.Ingest
	for _, tc := range []struct {
		name    string
		part    config.Part
		names   []string
		environ []string
		args    []string
		get     func(*config.Config) any
		want    any
		started string // the names
	}{
		{
			name: "produce writes COMMANDS_TOPIC", part: config.PartProduce, environ: []string{"COMMANDS_TOPIC=orders"},
			get: func(c *config.Config) any { return c.Produce.Topic }, want: "orders",
		},
		{
			name: "others do not", environ: []string{"COMMANDS_TOPIC=orders"},
			get: func(c *config.Config) any { return c.Produce.Topic }, want: "commands",
		},
		{
			name: "ingest reads commands", part: config.PartIngest,
			get: ingest, want: routes{"commands": route("commands")}, started: "commands",
		},
		{
			name: "ingest reads COMMANDS_TOPIC", part: config.PartIngest, environ: []string{"COMMANDS_TOPIC=orders"},
			get: ingest, want: routes{"orders": route("orders")}, started: "orders",
		},
		{
			name: "a name for what the topic cannot name", part: config.PartIngest, names: []string{"orders"}, environ: []string{"COMMANDS_TOPIC=Orders.v1"},
			get: ingest, want: routes{"orders": route("Orders.v1")}, started: "orders",
		},
		{
			name: "an own name wins", part: config.PartIngest,
			environ: []string{"COMMANDS_TOPIC=orders", "PELTON_EDGES__INGEST__A__TOPICS=b"},
			get:     ingest, want: routes{"a": route("b")}, started: "a",
		},
		{
			name: "the one route reads COMMANDS_TOPIC", part: config.PartIngest,
			environ: []string{"COMMANDS_TOPIC=orders", "PELTON_EDGES__INGEST__A_B__GROUP=g", "PELTON_EDGES__INGEST__A_B__TASK=run"},
			get:     ingest, want: routes{"a-b": {Topics: []string{"orders"}, Group: "g", Queue: "default", Task: "run"}}, started: "a-b",
		},
		{
			name: "several routes have their topics", part: config.PartIngest,
			environ: []string{"COMMANDS_TOPIC=orders", "PELTON_EDGES__INGEST__A__GROUP=g", "PELTON_EDGES__INGEST__B__QUEUE=mail"},
			get:     ingest, want: routes{
				"a": {Topics: []string{"a"}, Group: "g", Queue: "default", Task: "print"},
				"b": {Topics: []string{"b"}, Queue: "mail", Task: "print"},
			}, started: "a b",
		},
		{
			name: "a flag names the topic", part: config.PartIngest, environ: []string{"COMMANDS_TOPIC=orders"}, args: []string{"--topic=x", "--group=g"},
			get: ingest, want: routes{"x": {Topics: []string{"x"}, Group: "g", Queue: "default", Task: "print"}}, started: "x",
		},
		{
			name: "an argument names the route", part: config.PartIngest, names: []string{"r"}, args: []string{"--topic=x"},
			get: ingest, want: routes{"r": route("x")}, started: "r",
		},
		{
			name: "one of those configured", part: config.PartIngest, names: []string{"b"},
			environ: []string{"PELTON_EDGES__INGEST__A__GROUP=g", "PELTON_EDGES__INGEST__B__QUEUE=mail"}, args: []string{"--group=h"},
			get: func(c *config.Config) any { return c.Edges.Ingest["b"] }, want: config.Ingest{Topics: []string{"b"}, Group: "h", Queue: "mail", Task: "print"}, started: "b",
		},
		{
			name: "emit", part: config.PartEmit,
			get: func(c *config.Config) any { return c.Edges.Emit }, want: map[string]config.Emit{"results": {Queues: []string{"default"}, Topic: "results"}}, started: "results",
		},
		{
			name: "queues", part: config.PartQueues, names: []string{"default", "mail"}, args: []string{"--ack-wait=5s"},
			get: func(c *config.Config) any { return c.Queues }, want: map[string]config.Queue{"default": {AckWait: 5 * time.Second}, "mail": {AckWait: 5 * time.Second}}, started: "default mail",
		},
		{
			name: "queues that are configured", part: config.PartQueues, environ: []string{"PELTON_QUEUES__MAIL__MAX_PENDING=5"},
			get: func(c *config.Config) any { return c.Queues }, want: map[string]config.Queue{"mail": {MaxPending: 5}}, started: "mail",
		},
		{
			name: "the default queue", part: config.PartQueues,
			get: func(c *config.Config) any { return c.Queues }, want: map[string]config.Queue{"default": {}}, started: "default",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := load(t, config.Options{Part: tc.part, Names: tc.names, Environ: tc.environ, Flags: flagSet(tc.args...)})
			if diff := cmp.Diff(tc.want, tc.get(c)); diff != "" {
				t.Error(diff)
			}
			if got := strings.Join(c.Names, " "); got != tc.started {
				t.Errorf("names %q, want %q", got, tc.started)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		part    config.Part
		names   []string
		environ []string
		args    []string
		want    string
	}{
		{environ: []string{"PELTON_WORKER__GRASE=1s"}, want: "PELTON_WORKER__GRASE: worker.grase is unknown, did you mean PELTON_WORKER__GRACE?"},
		{environ: []string{"PELTON_WORKER_GRACE=1s"}, want: "PELTON_WORKER_GRACE: worker_grace is unknown, did you mean PELTON_WORKER__GRACE?"},
		{environ: []string{"PELTON_QUEUES__MY_MAIL__MAX_PENDIN=1"}, want: "PELTON_QUEUES__MY_MAIL__MAX_PENDIN: queues.my_mail.max_pendin is unknown, did you mean PELTON_QUEUES__MY_MAIL__MAX_PENDING?"},
		{environ: []string{"PELTON_FOO=1"}, want: "PELTON_FOO: foo is unknown"},
		{environ: []string{"PELTON_=1"}, want: "PELTON_: is unknown"},
		{environ: []string{"PELTON_WORKER=1"}, want: "PELTON_WORKER: worker is unknown"},
		{environ: []string{"PELTON_WORKER__GRACE=soon"}, want: "PELTON_WORKER__GRACE: worker.grace must be a duration such as 500ms, 25s or 1h30m, got soon"},
		{environ: []string{"PELTON_WORKER__GRACE=very soon"}, want: `PELTON_WORKER__GRACE: worker.grace must be a duration such as 500ms, 25s or 1h30m, got "very soon"`},
		{args: []string{"--grace=-1s"}, want: "--grace: worker.grace must be from 0s to 8760h0m0s, got -1s"},
		{environ: []string{"PELTON_SETUP__MODE=mange"}, want: "PELTON_SETUP__MODE: setup.mode must be verify, manage or off, got mange"},
		{environ: []string{"PELTON_SETUP__REPLICAS=0"}, want: "PELTON_SETUP__REPLICAS: setup.replicas must be from 1 to 5, got 0"},
		{environ: []string{"PELTON_SETUP__REPLICAS=1.5"}, want: "PELTON_SETUP__REPLICAS: setup.replicas must be a whole number, got 1.5"},
		{environ: []string{"PELTON_NAMESPACE=Pelton"}, want: "PELTON_NAMESPACE: namespace must match [a-z0-9][a-z0-9-]{0,31}, got Pelton"},
		{environ: []string{"PELTON_PRODUCE__IDEMPOTENT=maybe"}, want: "PELTON_PRODUCE__IDEMPOTENT: produce.idempotent must be true or false, got maybe"},
		{environ: []string{"PELTON_QUEUES__MAIL__MAX_BYTES=4 apples"}, want: `PELTON_QUEUES__MAIL__MAX_BYTES: queues.mail.max_bytes must be a size such as 500MB, 4GiB or 1000, got "4 apples"`},
		{environ: []string{"PELTON_QUEUES__MAIL__PRIORITIES=high,urgent"}, want: `PELTON_QUEUES__MAIL__PRIORITIES: queues.mail.priorities must be high and low, each at most once, got high,urgent`},
		{environ: []string{"PELTON_QUEUES__MAIL__PRIORITIES=high,high"}, want: `PELTON_QUEUES__MAIL__PRIORITIES: queues.mail.priorities must be high and low, each at most once, got high,high`},
		{environ: []string{"PELTON_QUEUES__MAIL__POLL=fair"}, want: `PELTON_QUEUES__MAIL__POLL: queues.mail.poll must be strict or weighted, got fair`},
		{environ: []string{"PELTON_QUEUES__MAIL__MAX_BYTES=0"}, want: "PELTON_QUEUES__MAIL__MAX_BYTES: queues.mail.max_bytes must be at least 1, or -1 for no limit, got 0"},
		{environ: []string{"PELTON_QUEUES__MÜLL__MAX_PENDING=1"}, want: `PELTON_QUEUES__MÜLL__MAX_PENDING: queues.müll.max_pending is no key, a queue must match [a-z0-9][a-z0-9-]{0,63}, got "müll"`},
		{environ: []string{"PELTON_WORKER__QUEUES=default:many"}, want: "PELTON_WORKER__QUEUES: worker.queues must be queues with their slots, such as default:8,mail:2, got default:many"},
		{environ: []string{"PELTON_WORKER__QUEUES=a:1,a:2"}, want: "PELTON_WORKER__QUEUES: worker.queues must be queues with their slots, such as default:8,mail:2, got a:1,a:2"},
		{environ: []string{"PELTON_WORKER__QUEUES=Mail:1"}, want: `PELTON_WORKER__QUEUES: worker.queues queue "Mail" must match [a-z0-9][a-z0-9-]{0,63}, got Mail:1`},
		{args: []string{"--slots=a:99999"}, want: "--slots: worker.queues.a must be from 0 to 10000, got 99999"},
		{environ: []string{"PELTON_WORKER__QUEUES=a:1", "PELTON_WORKER__QUEUES__B=2"}, want: "PELTON_WORKER__QUEUES__B: worker.queues.b must not stand beside PELTON_WORKER__QUEUES"},
		{environ: []string{"KAFKA_BOOTSTRAP_SERVERS=kafka"}, want: "KAFKA_BOOTSTRAP_SERVERS: kafka.brokers must be host:port, several by comma, got kafka"},
		{environ: []string{"KAFKA_BOOTSTRAP_SERVERS=,"}, want: "KAFKA_BOOTSTRAP_SERVERS: kafka.brokers must be host:port, several by comma"},
		{environ: []string{"NATS_URL=http://x"}, want: `NATS_URL: nats.url must be nats://host:port, several by comma, got ***`},
		{environ: []string{"NATS_URL=nats://joe:pass word@host"}, want: `NATS_URL: nats.url must be nats://host:port, several by comma, got ***`},
		{environ: []string{"NATS_URL=nats://joe:secret@host:1,nats://"}, want: `NATS_URL: nats.url must be nats://host:port, several by comma, got nats://joe:***@host:1,***`},
		{part: config.PartIngest, environ: []string{"COMMANDS_TOPIC=Orders.v1"}, want: "COMMANDS_TOPIC: does not name its route, which must match [a-z0-9][a-z0-9-]{0,63}; give it a name: pelton edge ingest NAME, got Orders.v1"},
		{part: config.PartIngest, names: []string{"a"}, args: []string{"--topic=b,c"}, want: "--topic: edges.ingest.a.topics must be one, not several, got b,c"},
		{part: config.PartIngest, names: []string{"a-b"}, environ: []string{"COMMANDS_TOPIC=a b"}, want: `COMMANDS_TOPIC: edges.ingest.a-b.topics must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -, got "a b"`},
		{part: config.PartIngest, names: []string{"No Route"}, want: `route: must match [a-z0-9][a-z0-9-]{0,63}, got "No Route"`},
		{part: config.PartQueues, names: []string{"a.b"}, want: `queue: must match [a-z0-9][a-z0-9-]{0,63}, got a.b`},
		{part: config.PartIngest, names: []string{"a", "b"}, args: []string{"--topic=x"}, want: "--topic: is for one edge, name it: a or b"},
		{part: config.PartProduce, args: []string{"--every=-1s"}, want: "--every: produce.every must be at least 0s, got -1s"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{Part: tc.part, Names: tc.names, Environ: tc.environ, Flags: flagSet(tc.args...)})
			if !errors.Is(err, config.ErrInvalid) || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"nats://127.0.0.1:4222":                       "nats://127.0.0.1:4222",
		"localhost:4222":                              "localhost:4222",
		"nats://joe:secret@host:4222":                 "nats://joe:***@host:4222",
		"nats://token@host":                           "nats://***@host",
		"nats://joe:@host":                            "nats://joe:***@host",
		"joe:secret@host:4222":                        "nats://joe:***@host:4222",
		"nats://a:s1@h1:1, nats://b:s2@h2:2":          "nats://a:***@h1:1,nats://b:***@h2:2",
		"nats://joe:se,cret@host:4222":                "***,nats://***@host:4222",
		"nats://joe:se cret@host":                     "***",
		"tls://joe:p%40ss@host:4222":                  "tls://joe:***@host:4222",
		"postgres://joe:secret@host":                  "***",
		"":                                            "***",
		"wss://joe:secret@host/path?jwt=header.claim": "wss://joe:***@host/path",
		"ws://host:80/path?jwt=secret":                "ws://host:80/path",
		"ws://host#secret":                            "ws://host",
		"nats://t?secret@host":                        "***",
		"nats://t#secret@host":                        "***",
	} {
		if got := config.RedactURL(raw); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
		if got := config.RedactURL(raw); strings.Contains(got, "secret") || strings.Contains(got, "cret@") || strings.Contains(got, "claim") {
			t.Errorf("%s: %s tells the secret", raw, got)
		}
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.Bytes{
		"0": 0, "1000": 1000, "-1": -1, "1B": 1, "4GiB": 4 << 30, "4gib": 4 << 30, "2 MiB": 2 << 20, "500MB": 500e6, "1KB": 1000, "3TiB": 3 << 40, "1TB": 1e12,
	} {
		got, err := config.ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		if again, err := config.ParseBytes(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s, read as %d", text, got, again)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "9999999TiB", "1 GB 2", "0x10", "4PB"} {
		if got, err := config.ParseBytes(text); err == nil {
			t.Errorf("%s: taken as %d", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"worker", "produce", "setup", "send"}
	for word, want := range map[string]string{
		"worker": "worker", "wroker": "worker", "Worker": "worker", "prodce": "produce", "sned": "send", "xyzzy": "", "": "",
	} {
		if got, ok := config.Nearest(word, words); got != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

// Every key can be set from the environment, and is then found by its source.
func TestEveryKeyHasItsVariable(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"int": "3", "int64": "3", "bool": "false", "time.Duration": "30s", "config.Bytes": "64KiB", "map[string]int": "a:1",
		"[]string": "a:1", "string": "a", "secret.Text": "a", "map[string]string": "engine:debug", "config.JSON": `{"a":1}`,
	}
	special := map[string]string{
		"nats.url": "nats://a", "nats.monitor_url": "http://a", "kafka.sasl.mechanism": "plain", "telemetry.addr": "127.0.0.1:0", "setup.mode": "off", "kafka.acks": "0", "log.level": "warn", "log.format": "json", "produce.compression": "none",
		"queues.*.priorities": "high,low", "queues.*.poll": "weighted", "edges.ingest.*.topics": "a", "edges.emit.*.queues": "a", "edges.emit.*.reply_topics": "a",
	}
	beside := map[string][]string{
		"nats.user": {"PELTON_NATS__PASSWORD"}, "nats.password": {"PELTON_NATS__USER"},
		"nats.tls.cert_file": {"PELTON_NATS__TLS__KEY_FILE"}, "nats.tls.key_file": {"PELTON_NATS__TLS__CERT_FILE"},
		"kafka.tls.cert_file": {"PELTON_KAFKA__TLS__KEY_FILE"}, "kafka.tls.key_file": {"PELTON_KAFKA__TLS__CERT_FILE"},
		"kafka.sasl.user":      {"PELTON_KAFKA__SASL__PASSWORD", "PELTON_KAFKA__SASL__MECHANISM"},
		"kafka.sasl.password":  {"PELTON_KAFKA__SASL__USER", "PELTON_KAFKA__SASL__MECHANISM"},
		"kafka.sasl.mechanism": {"PELTON_KAFKA__SASL__USER", "PELTON_KAFKA__SASL__PASSWORD"},
	}
	seen := 0
	var walk func(typ reflect.Type, path []string)
	walk = func(typ reflect.Type, path []string) {
		switch {
		case typ.Kind() == reflect.Struct && typ != reflect.TypeFor[secret.Text]():
			for f := range typ.Fields() {
				tag := f.Tag.Get("koanf")
				if tag == "" {
					t.Fatalf("%s.%s has no key", typ, f.Name)
				}
				walk(f.Type, append(slices.Clone(path), tag))
			}
			return
		case typ.Kind() == reflect.Map && typ.Elem().Kind() == reflect.Struct:
			walk(typ.Elem(), append(slices.Clone(path), "*"))
			return
		}
		pattern := strings.Join(path, ".")
		value, ok := special[pattern]
		if !ok {
			value = values[typ.String()]
		}
		key := strings.ReplaceAll(pattern, "*", "some-name")
		variable := "PELTON_" + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(key))
		environ := []string{variable + "=" + value}
		for _, needed := range beside[pattern] {
			environ = append(environ, needed+"=plain")
		}
		c, err := config.Load(config.Options{Environ: environ})
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
		} else if c.Source(key) != variable {
			t.Errorf("%s: source %q", pattern, c.Source(key))
		}
		seen++
	}
	walk(reflect.TypeFor[config.Settings](), nil)
	if seen < 40 {
		t.Errorf("only %d keys", seen)
	}
}
