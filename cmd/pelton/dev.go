package main

import (
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"pelton/edges/produce"
	"pelton/internal/config"
	"pelton/internal/dev"
	"pelton/internal/logging"
)

func (a *app) dev() *cobra.Command {
	var cfg dev.Config
	var rate string
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: groupRoles,
		Short:   "Run the whole system in this process",
		Long: `Run the whole system in one process: nats-server, an imitation of Kafka, the
producer, ingest, a worker and emit. It listens on the loopback alone and never
connects to a server that it did not start, whatever the environment says.

Each line is a step of a message: the record in Kafka, its task, what the task
prints, its outcome, and the record of its result in Kafka.`,
		Example: `  pelton dev
  pelton dev --rate 20/s --store ./data
  pelton dev --for 10s --assert
  pelton dev --brokers-only   # and paste its two lines into another terminal`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			interval, err := produce.ParseRate(rate)
			if err != nil {
				return &usageError{err: fmt.Errorf("--rate: %w", err), help: "pelton dev --help"}
			}
			cfg.Interval = interval
			return a.runDev(cmd, cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.StoreDir, "store", "", "`FOLDER` that keeps the brokers' files; temporary unless given")
	flags.StringVar(&rate, "rate", "1/s", "`RATE` of the producer: 20/s, 100/m, 5/h")
	flags.DurationVar(&cfg.For, "for", 0, "`DURATION` after which to end; 0 runs until a signal")
	flags.BoolVar(&cfg.Assert, "assert", false, "end with exit code 5 unless produced = ingested = finished = emitted")
	flags.BoolVar(&cfg.Quiet, "quiet", false, "leave out the lines of the steps")
	flags.BoolVar(&cfg.BrokersOnly, "brokers-only", false, "start the brokers, print two export lines, and wait")
	flags.IntVar(&cfg.NATSPort, "nats-port", 0, "`PORT` of NATS; 4222 unless given, or a free one")
	flags.IntVar(&cfg.KafkaPort, "kafka-port", 0, "`PORT` of Kafka; 9092 unless given, or a free one")
	logFlags(cmd)
	telemetryFlags(cmd)
	return cmd
}

func (a *app) runDev(cmd *cobra.Command, cfg dev.Config) error {
	// A reader of standard output that goes away ends the run in order, with its
	// temporary files removed.
	signal.Ignore(syscall.SIGPIPE)
	switch {
	case cfg.For < 0:
		return &usageError{err: fmt.Errorf("--for must be at least 0, got %s", cfg.For), help: "pelton dev --help"}
	case cfg.BrokersOnly && (cfg.Assert || cfg.For > 0):
		return &usageError{err: errors.New("--brokers-only has no messages to run --for or to --assert"), help: "pelton dev --help"}
	}
	// Where other brokers are is nothing to it.
	opts := a.options(cmd, config.PartNone)
	opts.Without = []string{"nats", "kafka"}
	settings, err := a.load(opts)
	if err != nil {
		return err
	}
	if settings.Log.Level == "info" && !cmd.Flags().Changed("log-level") {
		settings.Log.Level = "warn" // the lines of the steps say what is usual
	}
	cfg.Stdout, cfg.Terminal = a.stdout, logging.IsTerminal(a.stdout)
	if cfg.Terminal && logging.IsTerminal(a.stderr) {
		// The log shares the terminal with a line that is written anew.
		if settings.Log.Format == string(logging.Auto) {
			settings.Log.Format = string(logging.Console)
		}
		a.stderr = lineStart{a.stderr}
	}
	logs, err := a.roleLogs(settings)
	if err != nil {
		return err
	}
	defer logs.Close() //nolint:errcheck // nothing is left to write
	cfg.Logger, cfg.Watch = logs.Logger, a.board.Watch
	endHealth, err := a.tellHealth(cmd.Context(), settings, logs.Logger("health"))
	if err != nil {
		return err
	}
	defer endHealth()
	return dev.Run(cmd.Context(), cfg)
}

// lineStart writes each line over what stands in the terminal's last one.
type lineStart struct{ w io.Writer }

func (l lineStart) Write(b []byte) (int, error) {
	if _, err := io.WriteString(l.w, "\r\x1b[K"); err != nil {
		return 0, err
	}
	return l.w.Write(b)
}
