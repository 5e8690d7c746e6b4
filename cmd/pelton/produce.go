package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pelton/edges/produce"
	"pelton/internal/config"
)

func (a *app) produce() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "produce [MESSAGE… | -]",
		GroupID: groupClients,
		Short:   "Write messages to a Kafka topic",
		Long: `Write messages to a Kafka topic, and where each one stands to standard output.

A message that is a JSON object or array is written as it is; any other text
becomes {"uuid", "content", "timestamp"}. Each MESSAGE is written once, as is
each line of standard input with -. Without any, or with --message, one is
written every second until it is interrupted; then what is under way is
delivered. --every, --rate or --count write each MESSAGE again and again.`,
		Example: `  pelton produce
  pelton produce --message hi --rate 5/s --count 100
  pelton produce '{"to":"joe"}' '{"to":"ann"}' --topic mail --key joe -H kind=test
  cat lines.jsonl | pelton produce - --topic commands`,
		Args: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				if arg == "-" && len(args) > 1 {
					return errors.New("- must be the only argument")
				}
			}
			return nil
		},
	}
	bind(cmd, "topic", "produce.topic", "`TOPIC` to write to; also COMMANDS_TOPIC", "commands")
	bind(cmd, "message", "produce.message", "`TEXT` to write again and again", "")
	bind(cmd, "key", "produce.key", "`KEY` of every record", "")
	bind(cmd, "every", "produce.every", "`DURATION` from one message to the next; 0 writes as fast as it goes", "1s")
	cmd.Flags().Var(new(rate), "rate", "messages per second, minute or hour, `N/s`; in place of --every")
	config.Bind(cmd.Flags(), "rate", "produce.every")
	bind(cmd, "count", "produce.count", "`NUMBER` of messages to write; 0 is no limit", "")
	headers := cmd.Flags().StringArrayP("header", "H", nil, "header `NAME=VALUE` of every record")
	bind(cmd, "acks", "kafka.acks", "`WHO` confirms a record: all, 1 (the leader) or 0 (nobody)", "all")
	bind(cmd, "retries", "kafka.retries", "`NUMBER` of times a message is tried again before it counts as lost; 0 leaves it to the delivery timeout, two minutes", "0")
	bind(cmd, "linger", "produce.linger", "`DURATION` for which a message may wait for others", "0s")
	bind(cmd, "compression", "produce.compression", "`CODEC`: none, gzip, snappy, lz4 or zstd", "snappy")
	cmd.Flags().Bool("idempotent", true, "do not write a message twice where the client tries again; off with --acks 1 or 0")
	config.Bind(cmd.Flags(), "idempotent", "produce.idempotent")
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` in which Kafka must answer at the start")
	show := outputFlags(cmd)
	kafkaFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartProduce)
		if err != nil {
			return err
		}
		out, err := a.produceConfig(cmd, cfg, args, *headers)
		if err != nil {
			return &usageError{err: err, help: cmd.CommandPath() + " --help"}
		}
		return a.runProduce(cmd, cfg, out, *timeout, show)
	}
	return cmd
}

// rate is the value of --rate, which sets an interval.
type rate struct{ interval string }

func (r *rate) String() string { return r.interval }
func (*rate) Type() string     { return "rate" }
func (r *rate) Set(s string) error {
	interval, err := produce.ParseRate(s)
	r.interval = interval.String()
	return err
}

func (a *app) produceConfig(cmd *cobra.Command, cfg *config.Config, args, headers []string) (produce.Config, error) {
	out := produce.Config{
		Topic:              cfg.Produce.Topic,
		Key:                cfg.Produce.Key,
		Count:              cfg.Produce.Count,
		Interval:           cfg.Produce.Every,
		Acks:               cfg.Kafka.Acks,
		DisableIdempotence: !cfg.Produce.Idempotent,
		Retries:            cfg.Kafka.Retries,
		DeliveryTimeout:    cfg.Produce.DeliveryTimeout,
		Grace:              cfg.Produce.Grace,
		Linger:             cfg.Produce.Linger,
		Compression:        cfg.Produce.Compression,
		MaxMessageBytes:    int(cfg.Produce.MaxMessageBytes),
	}
	if out.Acks != "all" && !cfg.IsSet("produce.idempotent") {
		out.DisableIdempotence = true
	}
	for _, header := range headers {
		name, value, err := parseHeader(header)
		if err != nil {
			return out, err
		}
		out.Headers = append(out.Headers, produce.Header{Key: name, Value: value})
	}
	return a.sourceOf(cmd, cfg, args, out)
}

// sourceOf decides what is written, and whether once or again and again.
func (a *app) sourceOf(cmd *cobra.Command, cfg *config.Config, args []string, out produce.Config) (produce.Config, error) {
	paced := cfg.IsSet("produce.every")
	switch {
	case len(args) > 0 && cmd.Flags().Changed("message"):
		return out, errors.New("--message must not stand beside other messages")
	case len(args) == 0:
		out.Source = produce.Default(cfg.Produce.Message)
		return out, nil
	case args[0] == "-":
		out.Source = produce.Lines(a.stdin)
	case paced || cfg.IsSet("produce.count"):
		out.Source = produce.Cycle(args...)
	default:
		out.Source = produce.Literal(args...)
	}
	if !paced {
		out.Interval = 0
	}
	return out, nil
}

// parseHeader reads NAME=VALUE.
func parseHeader(s string) (name, value string, err error) {
	name, value, found := strings.Cut(s, "=")
	if !found || name == "" {
		return "", "", fmt.Errorf("-H %q must be NAME=VALUE", s)
	}
	return name, value, nil
}

func (a *app) runProduce(cmd *cobra.Command, cfg *config.Config, out produce.Config, timeout time.Duration, show *output) error {
	logs, err := a.roleLogs(cfg)
	if err != nil {
		return err
	}
	defer logs.Close() //nolint:errcheck // nothing is left to write
	kafka, err := a.kafkaOf(cfg, logs.Logger)
	if err != nil {
		return err
	}
	defer a.reloading(cmd.Context(), cfg, logs)()
	deliveries := &deliveries{out: a.stdout, say: a.say, show: show, topic: out.Topic}
	out.Kafka, out.Logger, out.ConnectTimeout, out.OnDelivery = kafka, logs.Logger("produce"), timeout, deliveries.write
	p, err := produce.New(out)
	if err != nil {
		return &usageError{err: err, help: cmd.CommandPath() + " --help"}
	}
	a.board.Watch("produce", p.Health)
	endHealth, err := a.tellHealth(cmd.Context(), cfg, logs.Logger("health"))
	if err != nil {
		return err
	}
	defer endHealth()
	err = p.Run(cmd.Context())
	if endErr := deliveries.end(); err == nil {
		err = endErr
	}
	return err
}

// deliveries shows each delivery as it is told.
type deliveries struct {
	out   io.Writer
	say   func(format string, args ...any)
	show  *output
	topic string
	begun bool
	err   error // the first of writing
}

// delivery is one line of -o json.
type delivery struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Key       string `json:"key,omitempty"`
	Bytes     int    `json:"bytes"`
	Error     string `json:"error,omitempty"`
}

func (d *deliveries) write(got produce.Delivery) {
	switch {
	case got.Err != nil && (d.show.quiet || d.show.format == formatTable):
		d.say("message %d: %v", got.Number, got.Err)
	case d.show.quiet:
		d.print("%s/%s@%s\n", got.Topic, number(int64(got.Partition)), number(got.Offset))
	case d.show.format == formatTable:
		d.row(number(int64(got.Partition)), number(got.Offset))
	default:
		d.object(got)
	}
}

// row keeps its columns aligned without knowing the rows to come.
func (d *deliveries) row(partition, offset string) {
	width := max(len(d.topic), len("TOPIC"))
	if !d.begun {
		d.begun = true
		d.print("%-*s  PARTITION      OFFSET\n", width, "TOPIC")
	}
	d.print("%-*s  %9s  %10s\n", width, d.topic, partition, offset)
}

func (d *deliveries) object(got produce.Delivery) {
	line := delivery{Topic: got.Topic, Partition: got.Partition, Offset: got.Offset, Key: got.Key, Bytes: got.Bytes}
	if got.Err != nil {
		line.Error = got.Err.Error()
	}
	b, err := json.Marshal(line)
	switch {
	case err != nil:
		d.err = err
	case d.show.format == formatLines:
		d.print("%s\n", b)
	case d.begun:
		d.print(",\n  %s", b)
	default:
		d.begun = true
		d.print("[\n  %s", b)
	}
}

// end closes what was opened and tells whether all could be written.
func (d *deliveries) end() error {
	if d.show.format == formatJSON && !d.show.quiet {
		if d.begun {
			d.print("\n]\n")
		} else {
			d.print("[]\n")
		}
	}
	return d.err
}

func (d *deliveries) print(format string, args ...any) {
	if _, err := fmt.Fprintf(d.out, format, args...); err != nil && d.err == nil {
		d.err = err
	}
}

// number is a place in a topic; below zero it is not known.
func number(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}
