package main

import (
	"time"

	"github.com/spf13/cobra"

	"pelton/internal/config"
)

// text is a flag that a key's own rules read.
type text string

func (t *text) String() string     { return string(*t) }
func (t *text) Set(s string) error { *t = text(s); return nil }
func (*text) Type() string         { return "text" }

// bind gives a command a flag that sets a key. The usage names its value in
// backquotes; otherwise is the default as the help shows it.
func bind(cmd *cobra.Command, name, key, usage, otherwise string) {
	cmd.Flags().Var(new(text), name, usage)
	cmd.Flags().Lookup(name).DefValue = otherwise
	config.Bind(cmd.Flags(), name, key)
}

func natsFlags(cmd *cobra.Command) {
	bind(cmd, "nats-url", "nats.url", "`URL` of NATS, several by comma; also NATS_URL", "nats://127.0.0.1:4222")
	bind(cmd, "creds", "nats.creds_file", "`FILE` of credentials for NATS", "")
	bind(cmd, "context", "nats.context", "`NAME` of a context of the nats command line; also NATS_CONTEXT", "")
	bind(cmd, "namespace", "namespace", "`NAME` that begins all subjects", "pelton")
}

func kafkaFlags(cmd *cobra.Command) {
	bind(cmd, "kafka", "kafka.brokers", "`BROKERS` of Kafka, host:port by comma; also KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
}

func logFlags(cmd *cobra.Command) {
	bind(cmd, "log-level", "log.level", "`LEVEL` from which on to log: debug, info, warn or error", "info")
	bind(cmd, "log-format", "log.format", "`FORMAT` of the log: console, json, or auto for what suits standard error", "auto")
	bind(cmd, "logging-config", "log.import", "`FILE` of Python's logging.config to go by", "logging_config.json, if there is one")
}

// timeoutFlag bounds what a client asks.
func timeoutFlag(cmd *cobra.Command, otherwise time.Duration, usage string) *time.Duration {
	return cmd.Flags().Duration("timeout", otherwise, usage)
}
