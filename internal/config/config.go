// Package config is the settings of a process: their names, their rules, and
// where each value came from.
//
// It stands before the path: a command loads its settings once, at the start,
// and hands each part its own. Nothing else in the project reads the
// environment.
//
// # Places
//
// A setting has one key, worker.grace, and may be set in several places. A later
// place wins:
//
//	defaults < pelton.yaml < .env < .env.<environment> < environment < flags
//
// pelton.yaml and the .env files stand in the working folder; another file in
// place of pelton.yaml is named by --config or PELTON_CONFIG, the environment by
// --env or PELTON_ENV. Lists and maps in one piece replace those of weaker
// places.
//
// In the environment and in .env a key is written in capitals with the prefix
// PELTON_ and two underscores for each dot, PELTON_WORKER__GRACE. Lists are
// separated by commas. In the names of queues and edges, which have no
// underscores, _ stands for -. In pelton.yaml names stand as they are. What is
// empty counts as not set. What begins with PELTON_ and is no key is an error,
// but for the variables by which Kubernetes announces services.
//
// These names of others are understood in both, too. A PELTON_ name wins over
// them where it stands in the same place or in a stronger one:
//
//	NATS_URL                  nats.url
//	NATS_CONTEXT              nats.context
//	KAFKA_BOOTSTRAP_SERVERS   kafka.brokers
//	COMMANDS_TOPIC            the topic of the part that is started, see [Part]
//	DISCORD_TOKEN             discord.token
//	ANNOUNCEMENT_CHANNEL_ID   edges.speak.channel
//
// Every other name in a .env file is left alone.
//
// # Secrets
//
// A key that holds a secret has a second form that names a file which holds it:
// password_file in pelton.yaml, PELTON_NATS__PASSWORD_FILE and DISCORD_TOKEN_FILE
// elsewhere. No flag sets a secret. Relative paths start at the file that names
// them, or else in the working folder.
//
// Flags are bound to keys by the commands that have them, see [Bind].
package config

import (
	"time"

	"pelton/internal/secret"
)

// Settings are all settings. Zero values of what has no default are left to the
// part that uses them.
type Settings struct {
	Namespace string           `koanf:"namespace" doc:"Name that begins all subjects."`
	NATS      NATS             `koanf:"nats" doc:"The broker, and as whom to speak to it."`
	Kafka     Kafka            `koanf:"kafka" doc:"The broker of the edges and of produce."`
	Setup     Setup            `koanf:"setup" doc:"What may be done to streams and consumers."`
	Queues    map[string]Queue `koanf:"queues" names:"queue" doc:"Limits of queues, by name."`
	Results   Results          `koanf:"results" doc:"How long records of tasks are kept, and how many."`
	Dead      Dead             `koanf:"dead" doc:"How long dead letters are kept."`
	Worker    Worker           `koanf:"worker" doc:"What a worker works, and how."`
	Janitor   Janitor          `koanf:"janitor" doc:"How often streams are put in order."`
	Beat      Beat             `koanf:"beat" doc:"What is sent at which times."`
	Edges     Edges            `koanf:"edges" doc:"What ties topics and channels to queues."`
	Produce   Produce          `koanf:"produce" doc:"What pelton produce writes to Kafka."`
	Discord   Discord          `koanf:"discord" doc:"The bot."`
	Telemetry Telemetry        `koanf:"telemetry" doc:"What the process tells of itself."`
	Log       Log              `koanf:"log" doc:"How the process logs."`
}

// NATS is the broker, and as whom to speak to it.
type NATS struct {
	URL             string      `koanf:"url" doc:"Servers, nats://host:port, several by comma; tls://, ws:// and wss:// too."`
	Context         string      `koanf:"context" doc:"Context of the nats command line by name, in place of url."`
	CredsFile       string      `koanf:"creds_file" doc:"File of credentials, as nsc makes it."`
	NKeyFile        string      `koanf:"nkey_file" doc:"File that holds the seed of an NKey."`
	User            string      `koanf:"user" doc:"User, with a password."`
	Password        secret.Text `koanf:"password" doc:"Password of the user."`
	Token           secret.Text `koanf:"token" doc:"Token, in place of a user."`
	InboxPrefix     string      `koanf:"inbox_prefix" doc:"Subject below which answers are received."`
	JetStreamDomain string      `koanf:"jetstream_domain" doc:"Domain of JetStream."`
	MonitorURL      string      `koanf:"monitor_url" doc:"Address of the server's HTTP port, http://host:port, for pelton doctor."`
	TLS             TLS         `koanf:"tls" doc:"Encryption of the connection to NATS."`
}

// TLS is how a connection is encrypted. The files are PEM.
type TLS struct {
	Enabled    bool   `koanf:"enabled" doc:"Encrypt; a file or a name below means it, too."`
	CAFile     string `koanf:"ca_file" doc:"Certificates to trust, PEM, in place of the system's."`
	CertFile   string `koanf:"cert_file" doc:"Certificate to show, PEM, with a key."`
	KeyFile    string `koanf:"key_file" doc:"Key of the certificate, PEM."`
	ServerName string `koanf:"server_name" doc:"Name that the server's certificate must have, in place of the host's."`
}

// SASL is the credentials shown to Kafka.
type SASL struct {
	Mechanism string      `koanf:"mechanism" doc:"How to log in: plain, scram-sha-256 or scram-sha-512."`
	User      string      `koanf:"user" doc:"User, with a password."`
	Password  secret.Text `koanf:"password" doc:"Password of the user."`
}

// Kafka is the other broker, and what is asked of it when it is written to.
type Kafka struct {
	Brokers  []string `koanf:"brokers" doc:"Brokers, host:port, several by comma."`
	ClientID string   `koanf:"client_id" doc:"Name by which the brokers' logs know the process."`
	Acks     string   `koanf:"acks" doc:"Who confirms what pelton produce writes: all, 1 (the leader) or 0 (nobody)."`
	Retries  int      `koanf:"retries" doc:"How often pelton produce tries a message again; 0 leaves it to produce.delivery_timeout."`
	TLS      TLS      `koanf:"tls" doc:"Encryption of the connection to Kafka."`
	SASL     SASL     `koanf:"sasl" doc:"Credentials shown to Kafka."`
}

// Setup says what may be done to streams and consumers.
type Setup struct {
	Mode     string `koanf:"mode" doc:"What a role does at its start: verify what is there, manage it, or off."`
	Replicas int    `koanf:"replicas" doc:"Copies of every stream, 1 to 5."`
}

// Queue is the limits of one queue.
type Queue struct {
	MaxPending    int64         `koanf:"max_pending" doc:"Tasks that a queue takes; -1 is no limit."`
	MaxBytes      Bytes         `koanf:"max_bytes" doc:"Size that a queue takes; -1 is no limit."`
	AckWait       time.Duration `koanf:"ack_wait" doc:"Lease of a task, which a worker extends while it runs."`
	MaxAckPending int           `koanf:"max_ack_pending" doc:"Tasks that all workers may have at once; 16 times as many of those with a time, which are taken ahead of it."`
	Priorities    []string      `koanf:"priorities" doc:"Lanes beside the plain one: high, low."`
	Poll          string        `koanf:"poll" doc:"How the lanes share the slots: strict or weighted."`
}

// Results says how long records are kept, and how many of a queue.
type Results struct {
	TTL time.Duration `koanf:"ttl" doc:"How long a record is kept after its task has ended."`
	Max int64         `koanf:"max" doc:"Records kept of a queue."`
}

// Dead says how long dead letters are kept.
type Dead struct {
	MaxAge time.Duration `koanf:"max_age" doc:"How long a dead letter is kept."`
}

// Worker is what a worker works, and how.
type Worker struct {
	Name             string         `koanf:"name" doc:"Name of this process in records and logs."`
	Queues           map[string]int `koanf:"queues" names:"queue" doc:"Queues to work, with their slots: default:8,mail:2. 0 slots are as many as there are CPUs."`
	Grace            time.Duration  `koanf:"grace" doc:"How long running tasks may go on after SIGTERM."`
	Timeout          time.Duration  `koanf:"timeout" doc:"How long a run may take."`
	MaxAttempts      int            `koanf:"max_attempts" doc:"Attempts of a task that names no number."`
	Backoff          Backoff        `koanf:"backoff" doc:"The wait between attempts."`
	MaxDeaths        int            `koanf:"max_deaths" doc:"Workers that a task may take with it before it is buried."`
	UnknownTaskPark  time.Duration  `koanf:"unknown_task_park" doc:"How long a task that this worker does not know waits for another one."`
	StuckAfter       time.Duration  `koanf:"stuck_after" doc:"How long a handler may ignore that its context has ended before it is left behind and its slot is replaced."`
	UnknownTaskAfter time.Duration  `koanf:"unknown_task_after" doc:"After which time an unknown task is a dead letter."`
}

// Janitor is how often streams are put in order.
type Janitor struct {
	Every time.Duration `koanf:"every" doc:"From one round to the next."`
}

// Backoff bounds the wait between attempts.
type Backoff struct {
	Min time.Duration `koanf:"min" doc:"Wait before the second attempt."`
	Max time.Duration `koanf:"max" doc:"Longest wait."`
}

// Beat is what is sent at which times.
type Beat struct {
	Entries  map[string]Entry `koanf:"entries" names:"entry" doc:"Entries by name, beside those of the bucket. The name is part of the ids of their tasks. Each has one of every, cron and at."`
	Instance string           `koanf:"instance" doc:"Name of this process in logs and in the ledgers."`
}

// Entry is a task with its times. What it means, and what it must be, is known
// to package schedules; here it has only its types.
type Entry struct {
	Every   time.Duration     `koanf:"every" doc:"Interval, from start on; 10s."`
	Cron    string            `koanf:"cron" doc:"Cron line of five fields, or six with seconds first, or @daily and the like."`
	At      string            `koanf:"at" doc:"Time at which it is sent once, 2026-11-22T22:29:10Z."`
	Zone    string            `koanf:"zone" doc:"Time zone of cron, Europe/Berlin; UTC by default."`
	Start   string            `koanf:"start" doc:"Time from which it is due, and from which every counts."`
	End     string            `koanf:"end" doc:"Time after which it is due no more."`
	Jitter  time.Duration     `koanf:"jitter" doc:"Up to how much later the task runs, another wait for each occurrence."`
	CatchUp string            `koanf:"catch_up" doc:"What is sent that was due while no beat ran: none, one (the newest; the default), all, or all(10,1h), at most ten of the last hour."`
	Overlap string            `koanf:"overlap" doc:"What becomes of an occurrence while the one before waits or runs: skip, queue (the default) or replace."`
	Paused  bool              `koanf:"paused" doc:"Skip what is due."`
	Task    string            `koanf:"task" doc:"Task to send."`
	Queue   string            `koanf:"queue" doc:"Queue to send to; default by default."`
	Body    JSON              `koanf:"body" doc:"What the task is given: JSON, or YAML in pelton.yaml."`
	Headers map[string]string `koanf:"headers" names:"header" doc:"Headers for the handler, name:value by comma."`
	Expires time.Duration     `koanf:"expires" doc:"How long after it was due, or moved to by jitter, a task may still begin."`
}

// Edges are the edges by name.
type Edges struct {
	Ingest map[string]Ingest `koanf:"ingest" names:"route" doc:"Routes from Kafka into queues, by name. The name is part of the ids of its tasks."`
	Emit   map[string]Emit   `koanf:"emit" names:"route" doc:"Edges from results to Kafka, by name."`
	Speak  Speak             `koanf:"speak" doc:"The edge that writes to Discord."`
}

// Speak is the edge that writes to Discord.
type Speak struct {
	Channel string `koanf:"channel" doc:"Channel to write to, by id."`
}

// Ingest is a route from Kafka into a queue. Its name is part of the ids of its
// tasks.
type Ingest struct {
	Topics           []string      `koanf:"topics" doc:"Topic to read, exactly one; the name of the route by default."`
	Group            string        `koanf:"group" doc:"Consumer group; pelton-<route> by default."`
	Queue            string        `koanf:"queue" doc:"Queue to fill; default by default."`
	Task             string        `koanf:"task" doc:"Task that gets the records; print by default."`
	Instance         string        `koanf:"instance" doc:"Name of this process in logs and in the ledger."`
	MaxBatch         int           `koanf:"max_batch" doc:"Records in one batch, up to 999."`
	MaxBatchBytes    Bytes         `koanf:"max_batch_bytes" doc:"Size of one batch."`
	SessionTimeout   time.Duration `koanf:"session_timeout" doc:"After which time a silent edge loses its partitions."`
	RebalanceTimeout time.Duration `koanf:"rebalance_timeout" doc:"How long a rebalance may wait for an edge."`
}

// Emit is an edge from results to Kafka.
type Emit struct {
	Queues             []string      `koanf:"queues" doc:"Queues whose results are written; default by default."`
	Topic              string        `koanf:"topic" doc:"Topic to write to; results by default."`
	ReplyTopics        []string      `koanf:"reply_topics" doc:"Topics that a task may ask for its result."`
	LedgerTopic        string        `koanf:"ledger_topic" doc:"Topic that holds the positions; <namespace>.ledger by default."`
	Shards             int           `koanf:"shards" doc:"Parts into which the queues are divided among emitters."`
	Instance           string        `koanf:"instance" doc:"Name of this process in logs and in the ledger."`
	MaxBatch           int           `koanf:"max_batch" doc:"Records in one transaction."`
	MaxRecordBytes     Bytes         `koanf:"max_record_bytes" doc:"Size of one record."`
	TransactionTimeout time.Duration `koanf:"transaction_timeout" doc:"After which time Kafka aborts a transaction."`
	SessionTimeout     time.Duration `koanf:"session_timeout" doc:"After which time a silent emitter loses its part."`
	Grace              time.Duration `koanf:"grace" doc:"How long the last transaction may take after SIGTERM."`
}

// Produce is what is written to Kafka by hand.
type Produce struct {
	Topic           string        `koanf:"topic" doc:"Topic to write to."`
	Key             string        `koanf:"key" doc:"Key of every record."`
	Message         string        `koanf:"message" doc:"Text to write again and again."`
	Every           time.Duration `koanf:"every" doc:"Wait from one message to the next; 0s writes as fast as it goes."`
	Count           int           `koanf:"count" doc:"Messages to write; 0 is no limit."`
	Linger          time.Duration `koanf:"linger" doc:"How long a message may wait for others."`
	Compression     string        `koanf:"compression" doc:"Codec: none, gzip, snappy, lz4 or zstd."`
	Idempotent      bool          `koanf:"idempotent" doc:"Do not write a message twice where the client tries again; needs acks: all."`
	DeliveryTimeout time.Duration `koanf:"delivery_timeout" doc:"How long a message is tried."`
	MaxMessageBytes Bytes         `koanf:"max_message_bytes" doc:"Size of one message."`
	Grace           time.Duration `koanf:"grace" doc:"How long messages under way may take after SIGTERM."`
}

// Discord is the bot.
type Discord struct {
	Token secret.Text `koanf:"token" doc:"Token of the bot."`
}

// Telemetry is what the process tells of itself.
type Telemetry struct {
	Addr string `koanf:"addr" doc:"Where /livez and /readyz are served, host:port; empty serves nothing."`
}

// Log is how the process logs.
type Log struct {
	Level  string            `koanf:"level" doc:"Level from which on to log: debug, info, warn or error."`
	Format string            `koanf:"format" doc:"console, json, or auto for what suits standard error."`
	Levels map[string]string `koanf:"levels" names:"component" doc:"Levels of components, kafka:warn,nats:error."`
	Import string            `koanf:"import" doc:"A logging_config.json of Python's."`
}

// defaults are the weakest place. What is not here is left to the parts.
func defaults() map[string]any {
	return map[string]any{
		"namespace":                 "pelton",
		"nats.url":                  "nats://127.0.0.1:4222",
		"kafka.client_id":           "pelton",
		"kafka.acks":                "all",
		"kafka.retries":             0,
		"setup.mode":                "verify",
		"setup.replicas":            1,
		"results.ttl":               24 * time.Hour,
		"results.max":               int64(2_000_000),
		"dead.max_age":              14 * 24 * time.Hour,
		"worker.grace":              25 * time.Second,
		"worker.timeout":            30 * time.Minute,
		"worker.max_attempts":       5,
		"worker.backoff.min":        time.Second,
		"worker.backoff.max":        10 * time.Minute,
		"worker.max_deaths":         3,
		"worker.unknown_task_park":  30 * time.Second,
		"worker.stuck_after":        10 * time.Second,
		"worker.unknown_task_after": 10 * time.Minute,
		"janitor.every":             30 * time.Second,
		"produce.topic":             "commands",
		"produce.every":             time.Second,
		"produce.compression":       "snappy",
		"produce.idempotent":        true,
		"produce.delivery_timeout":  2 * time.Minute,
		"produce.grace":             10 * time.Second,
		"log.level":                 "info",
		"log.format":                "auto",
	}
}

// entryDefaults are those of an edge that is named and says nothing else.
var entryDefaults = map[string]func(name string) any{
	"edges.ingest.*.topics": func(name string) any { return []string{name} },
	"edges.ingest.*.queue":  func(string) any { return "default" },
	"edges.ingest.*.task":   func(string) any { return "print" },
	"edges.emit.*.queues":   func(string) any { return []string{"default"} },
	"edges.emit.*.topic":    func(string) any { return "results" },
}
