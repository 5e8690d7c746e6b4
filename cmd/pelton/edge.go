package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/pulse"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/config"
)

func (a *app) edge() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "edge",
		GroupID: groupRoles,
		Short:   "Move records of Kafka into queues, and results to Kafka",
		Example: `  pelton edge ingest
  pelton edge emit`,
	}
	makeGroup(cmd, a.ingest(), a.emit())
	return cmd
}

// runner is an edge that is built.
type runner interface {
	Run(ctx context.Context) error
	Health() pulse.Health
}

// runEdges runs edges side by side. The first that fails ends the others.
func (a *app) runEdges(cmd *cobra.Command, cfg *config.Config, uses streams, build func(name string, p part, kafka produce.Kafka) (runner, error)) error {
	return a.role(cmd.Context(), cfg, func(ctx context.Context, p part) error {
		kafka, err := a.kafkaOf(cfg, p.logs.Logger)
		if err != nil {
			return err
		}
		edges := make([]runner, 0, len(cfg.Names))
		for _, name := range cfg.Names {
			edge, err := build(name, p, kafka)
			if err != nil {
				return &usageError{err: err}
			}
			edges = append(edges, edge)
			a.board.Watch(name, edge.Health)
		}
		if err := uses.ensure(ctx, cfg, p); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to end before the broker was there
			}
			return err
		}
		group, ctx := errgroup.WithContext(ctx)
		for _, edge := range edges {
			group.Go(func() error { return edge.Run(ctx) })
		}
		return group.Wait()
	})
}

// streams is what an edge needs of the broker.
type streams struct {
	kind   topology.Kind
	queues []string
}

// ensure verifies them, or makes them where the setup mode is manage. Edges use
// no lane but the plain one, and may see no other.
func (s streams) ensure(ctx context.Context, cfg *config.Config, p part) error {
	client, err := engine.NewClient(p.nc, clientConfig(cfg, p.logs.Logger("engine")))
	if err != nil {
		return err
	}
	defer client.Close()
	slices.Sort(s.queues)
	topo, err := topology.New(topologyConfig(cfg, slices.Compact(s.queues)))
	if err != nil {
		return &usageError{err: err}
	}
	uses := func(stream topology.Stream) bool {
		return stream.Kind == s.kind && stream.Priority == wire.PriorityNone
	}
	return client.Ensure(ctx, engine.SetupMode(cfg.Setup.Mode), topo.Only(uses))
}

func (a *app) ingest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ingest [ROUTE…]",
		Short: "Make a task of each record of a Kafka topic, exactly once",
		Long: `Make a task of each record of a Kafka topic, exactly once.

A route reads one topic and fills one queue. Its name stands in the ids of the
tasks, <route>-<partition>-<offset>; it is the topic's unless given. Without
ROUTE all configured routes run, or one that reads COMMANDS_TOPIC.

Exit code 8 means that going on would be a guess: the message says what an
operator can do.`,
		Example: `  pelton edge ingest
  pelton edge ingest --topic commands --queue default --task print
  pelton edge ingest orders --topic Orders.v1 --kafka kafka:9092`,
	}
	bind(cmd, "topic", "@.topics", "`TOPIC` to read; also COMMANDS_TOPIC", "commands")
	bind(cmd, "group", "@.group", "consumer `GROUP`", "pelton-<route>")
	bind(cmd, "queue", "@.queue", "`QUEUE` to fill", "default")
	bind(cmd, "task", "@.task", "`TASK` that gets the records", "print")
	bind(cmd, "session-timeout", "@.session_timeout", "`DURATION` after which a silent edge loses its partitions", "10s")
	bind(cmd, "instance", "@.instance", "`NAME` of this edge in logs and in the ledger", "host and process")
	from := cmd.Flags().Int64("from-offset", -1, "`OFFSET` for partitions without a ledger, or stopped by theirs")
	cmd.Flags().Lookup("from-offset").DefValue = "the oldest"
	natsFlags(cmd)
	kafkaFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartIngest, args...)
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("from-offset") {
			from = nil
		} else if len(cfg.Names) > 1 {
			return &usageError{err: errors.New("--from-offset is for one route, name it"), help: cmd.CommandPath() + " --help"}
		}
		uses := streams{kind: topology.Tasks}
		for _, name := range cfg.Names {
			uses.queues = append(uses.queues, cfg.Edges.Ingest[name].Queue)
		}
		return a.runEdges(cmd, cfg, uses, func(name string, p part, kafka produce.Kafka) (runner, error) {
			out := ingestConfig(cfg, name, p, kafka)
			out.FromOffset = from
			return ingest.New(out)
		})
	}
	return cmd
}

func ingestConfig(cfg *config.Config, name string, p part, kafka produce.Kafka) ingest.Config {
	route := cfg.Edges.Ingest[name]
	out := ingest.Config{
		Kafka:     kafka,
		NATS:      p.nc,
		Namespace: wire.Namespace(cfg.Namespace),
		Route: ingest.Route{
			Name: name, Topic: route.Topics[0], Group: route.Group, Queue: route.Queue, Task: route.Task,
		},
		MaxBatch:         route.MaxBatch,
		MaxBatchBytes:    int(route.MaxBatchBytes),
		SessionTimeout:   route.SessionTimeout,
		RebalanceTimeout: route.RebalanceTimeout,
		Logger:           p.logs.Logger("ingest"),
	}
	if route.Instance != "" {
		// The ledger must tell this start from the one before.
		out.Instance = route.Instance + "-" + strconv.FormatInt(time.Now().UnixMilli(), 36)
	}
	return out
}

func (a *app) emit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emit [NAME…]",
		Short: "Write each result to a Kafka topic, exactly once",
		Long: `Write each result to a Kafka topic, exactly once for those who read committed
records.

How far it has come stands in a ledger topic, which pelton setup apply --kafka
makes. Any number of emitters may run; they share the work.

Exit code 8 means that going on could lose or repeat results: the message says
what an operator can do.`,
		Example: `  pelton edge emit
  pelton edge emit --queues default,mail --topic results --kafka kafka:9092`,
		Annotations: map[string]string{natsEquivalent: `  nats kv watch PELTON_RESULTS_default   # what it writes`},
	}
	bind(cmd, "queues", "@.queues", "`QUEUES` whose results are written", "default")
	bind(cmd, "topic", "@.topic", "`TOPIC` to write to", "results")
	bind(cmd, "ledger-topic", "@.ledger_topic", "`TOPIC` that holds the positions", "<namespace>.ledger")
	bind(cmd, "session-timeout", "@.session_timeout", "`DURATION` after which a silent emitter loses its part", "10s")
	bind(cmd, "transaction-timeout", "@.transaction_timeout", "`DURATION` after which Kafka aborts a transaction", "30s")
	bind(cmd, "instance", "@.instance", "`NAME` of this emitter in logs and in the ledger", "host and process")
	from := cmd.Flags().StringArray("from", nil, "`QUEUE=SEQUENCE` of the results from which to go on, an answer to exit code 8")
	natsFlags(cmd)
	kafkaFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartEmit, args...)
		if err != nil {
			return err
		}
		sequences, err := parseFrom(*from)
		if err != nil {
			return &usageError{err: err, help: cmd.CommandPath() + " --help"}
		}
		uses := streams{kind: topology.Results}
		for _, name := range cfg.Names {
			uses.queues = append(uses.queues, cfg.Edges.Emit[name].Queues...)
		}
		return a.runEdges(cmd, cfg, uses, func(name string, p part, kafka produce.Kafka) (runner, error) {
			out := emitConfig(cfg, name, kafka, p.logs.Logger("emit"))
			out.NATS, out.From = p.nc, maps.Clone(sequences)
			return emit.New(out)
		})
	}
	return cmd
}

func emitConfig(cfg *config.Config, name string, kafka produce.Kafka, log *slog.Logger) emit.Config {
	edge := cfg.Edges.Emit[name]
	return emit.Config{
		Kafka:              kafka,
		Namespace:          wire.Namespace(cfg.Namespace),
		Name:               name,
		Queues:             edge.Queues,
		Shards:             edge.Shards,
		Topic:              edge.Topic,
		ReplyTopics:        edge.ReplyTopics,
		LedgerTopic:        edge.LedgerTopic,
		MaxBatch:           edge.MaxBatch,
		MaxRecordBytes:     int(edge.MaxRecordBytes),
		TransactionTimeout: edge.TransactionTimeout,
		SessionTimeout:     edge.SessionTimeout,
		Grace:              edge.Grace,
		Instance:           edge.Instance,
		Logger:             log,
	}
}

func parseFrom(pairs []string) (map[string]uint64, error) {
	out := map[string]uint64{}
	for _, pair := range pairs {
		queue, number, _ := strings.Cut(pair, "=")
		sequence, err := strconv.ParseUint(number, 10, 64)
		if err != nil || wire.CheckQueue(queue) != nil {
			return nil, fmt.Errorf("--from %q must be QUEUE=SEQUENCE, such as default=41", pair)
		}
		out[queue] = sequence
	}
	return out, nil
}
