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
//	defaults < environment < flags
//
// In the environment a key is written in capitals with the prefix PELTON_ and
// two underscores for each dot, PELTON_WORKER__GRACE. Lists are separated by
// commas. In the names of queues and edges, which have no underscores, _ stands
// for -. An empty variable counts as not set. What begins with PELTON_ and is no
// key is an error, but for the variables by which Kubernetes announces services.
//
// These names of others are understood too; a PELTON_ name wins over them:
//
//	NATS_URL                  nats.url
//	KAFKA_BOOTSTRAP_SERVERS   kafka.brokers
//	COMMANDS_TOPIC            the topic of the part that is started, see [Part]
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
	// Namespace is the first token of all subjects.
	Namespace string           `koanf:"namespace"`
	NATS      NATS             `koanf:"nats"`
	Kafka     Kafka            `koanf:"kafka"`
	Setup     Setup            `koanf:"setup"`
	Queues    map[string]Queue `koanf:"queues" names:"queue"`
	Results   Results          `koanf:"results"`
	Dead      Dead             `koanf:"dead"`
	Worker    Worker           `koanf:"worker"`
	Edges     Edges            `koanf:"edges"`
	Produce   Produce          `koanf:"produce"`
	Discord   Discord          `koanf:"discord"`
	Telemetry Telemetry        `koanf:"telemetry"`
	Log       Log              `koanf:"log"`
}

// NATS is the broker, and as whom to speak to it.
type NATS struct {
	URL             string      `koanf:"url"`     // several by comma; may hold a password, see RedactURL
	Context         string      `koanf:"context"` // of the nats command line, by name
	CredsFile       string      `koanf:"creds_file"`
	NKeyFile        string      `koanf:"nkey_file"` // a seed
	User            string      `koanf:"user"`
	Password        secret.Text `koanf:"password"`
	Token           secret.Text `koanf:"token"`
	InboxPrefix     string      `koanf:"inbox_prefix"`
	JetStreamDomain string      `koanf:"jetstream_domain"`
	MonitorURL      string      `koanf:"monitor_url"` // of the server's HTTP port, for doctor
	TLS             TLS         `koanf:"tls"`
}

// TLS is how a connection is encrypted. The files are PEM.
type TLS struct {
	Enabled    bool   `koanf:"enabled"` // also where a file or a name is given
	CAFile     string `koanf:"ca_file"` // in place of the system's
	CertFile   string `koanf:"cert_file"`
	KeyFile    string `koanf:"key_file"`
	ServerName string `koanf:"server_name"` // in place of the host's name
}

// SASL is the credentials shown to Kafka.
type SASL struct {
	Mechanism string      `koanf:"mechanism"` // plain, scram-sha-256 or scram-sha-512; empty for none
	User      string      `koanf:"user"`
	Password  secret.Text `koanf:"password"`
}

// Kafka is the other broker, and what is asked of it when it is written to.
type Kafka struct {
	Brokers  []string `koanf:"brokers"` // host:port each; empty means that nobody named any
	ClientID string   `koanf:"client_id"`
	Acks     string   `koanf:"acks"`
	Retries  int      `koanf:"retries"`
	TLS      TLS      `koanf:"tls"`
	SASL     SASL     `koanf:"sasl"`
}

// Setup says what may be done to streams and consumers.
type Setup struct {
	Mode     string `koanf:"mode"` // verify, manage or off
	Replicas int    `koanf:"replicas"`
}

// Queue is the limits of one queue.
type Queue struct {
	MaxPending    int64         `koanf:"max_pending"`
	MaxBytes      Bytes         `koanf:"max_bytes"`
	AckWait       time.Duration `koanf:"ack_wait"`
	MaxAckPending int           `koanf:"max_ack_pending"`
	Priorities    []string      `koanf:"priorities"` // lanes beside the plain one: high, low
	Poll          string        `koanf:"poll"`       // how the lanes share the slots: strict or weighted
}

// Results says how long records are kept, and how many of a queue.
type Results struct {
	TTL time.Duration `koanf:"ttl"`
	Max int64         `koanf:"max"`
}

// Dead says how long dead letters are kept.
type Dead struct {
	MaxAge time.Duration `koanf:"max_age"`
}

// Worker is what a worker works, and how.
type Worker struct {
	Name             string         `koanf:"name"`                 // of this process
	Queues           map[string]int `koanf:"queues" names:"queue"` // tasks at once; 0 is as many as there are CPUs
	Grace            time.Duration  `koanf:"grace"`
	Timeout          time.Duration  `koanf:"timeout"`
	MaxAttempts      int            `koanf:"max_attempts"`
	Backoff          Backoff        `koanf:"backoff"`
	MaxDeaths        int            `koanf:"max_deaths"`
	UnknownTaskPark  time.Duration  `koanf:"unknown_task_park"`
	UnknownTaskAfter time.Duration  `koanf:"unknown_task_after"`
}

// Backoff bounds the wait between attempts.
type Backoff struct {
	Min time.Duration `koanf:"min"`
	Max time.Duration `koanf:"max"`
}

// Edges are the edges by name.
type Edges struct {
	Ingest map[string]Ingest `koanf:"ingest" names:"route"`
	Emit   map[string]Emit   `koanf:"emit" names:"route"`
	Speak  Speak             `koanf:"speak"`
}

// Speak is the edge that writes to Discord.
type Speak struct {
	Channel string `koanf:"channel"`
}

// Ingest is a route from Kafka into a queue. Its name is part of the ids of its
// tasks.
type Ingest struct {
	Topics           []string      `koanf:"topics"` // exactly one
	Group            string        `koanf:"group"`
	Queue            string        `koanf:"queue"`
	Task             string        `koanf:"task"`
	Instance         string        `koanf:"instance"` // of this process
	MaxBatch         int           `koanf:"max_batch"`
	MaxBatchBytes    Bytes         `koanf:"max_batch_bytes"`
	SessionTimeout   time.Duration `koanf:"session_timeout"`
	RebalanceTimeout time.Duration `koanf:"rebalance_timeout"`
}

// Emit is an edge from results to Kafka.
type Emit struct {
	Queues             []string      `koanf:"queues"`
	Topic              string        `koanf:"topic"`
	ReplyTopics        []string      `koanf:"reply_topics"`
	LedgerTopic        string        `koanf:"ledger_topic"`
	Shards             int           `koanf:"shards"`
	Instance           string        `koanf:"instance"` // of this process
	MaxBatch           int           `koanf:"max_batch"`
	MaxRecordBytes     Bytes         `koanf:"max_record_bytes"`
	TransactionTimeout time.Duration `koanf:"transaction_timeout"`
	SessionTimeout     time.Duration `koanf:"session_timeout"`
	Grace              time.Duration `koanf:"grace"`
}

// Produce is what is written to Kafka by hand.
type Produce struct {
	Topic           string        `koanf:"topic"`
	Key             string        `koanf:"key"`
	Message         string        `koanf:"message"`
	Every           time.Duration `koanf:"every"`
	Count           int           `koanf:"count"`
	Linger          time.Duration `koanf:"linger"`
	Compression     string        `koanf:"compression"`
	Idempotent      bool          `koanf:"idempotent"`
	DeliveryTimeout time.Duration `koanf:"delivery_timeout"`
	MaxMessageBytes Bytes         `koanf:"max_message_bytes"`
	Grace           time.Duration `koanf:"grace"`
}

// Discord is the bot.
type Discord struct {
	Token secret.Text `koanf:"token"`
}

// Telemetry is what the process tells of itself.
type Telemetry struct {
	Addr string `koanf:"addr"` // host:port of /livez and /readyz; empty for none
}

// Log is how the process logs.
type Log struct {
	Level  string            `koanf:"level"`
	Format string            `koanf:"format"`
	Levels map[string]string `koanf:"levels" names:"component"` // by component: engine, kafka, nats, …
	Import string            `koanf:"import"`                   // a logging_config.json of Python's
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
		"worker.unknown_task_after": 10 * time.Minute,
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
