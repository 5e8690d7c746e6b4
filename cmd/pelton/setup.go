package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"pelton/edges/emit"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/config"
)

func (a *app) setup() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "setup",
		GroupID: groupSetup,
		Short:   "Make the streams, consumers and topics that queues need",
		Example: `  pelton setup plan
  pelton setup apply`,
	}
	makeGroup(cmd, a.setupPlan(), a.setupApply(), a.setupPermissions())
	return cmd
}

// setupFlags is what plan and apply read of their command lines.
type setupFlags struct {
	queues  *[]string
	timeout *time.Duration
	show    *output
}

func addSetupFlags(cmd *cobra.Command) setupFlags {
	var f setupFlags
	f.queues = cmd.Flags().StringSlice("queues", nil, "`QUEUES` by comma; those that are configured, else default, unless given")
	bind(cmd, "ack-wait", "@.ack_wait", "`DURATION` of a lease", "30s")
	bind(cmd, "max-pending", "@.max_pending", "`NUMBER` of tasks a queue takes; -1 is no limit", "1000000")
	bind(cmd, "replicas", "setup.replicas", "`NUMBER` of copies of every stream", "1")
	f.timeout = timeoutFlag(cmd, time.Minute, "`DURATION` for all of it")
	f.show = outputFlags(cmd)
	natsFlags(cmd)
	kafkaFlags(cmd)
	cmd.Flags().Lookup("kafka").DefValue = ""
	return f
}

func (a *app) setupPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what setup apply would do",
		Long: `Show, field by field, how the broker differs from what the queues need. Nothing
is changed. Of a field that is marked contract the guarantees depend; others are
settings.

Where Kafka is configured, the ledger topic of the emit edges is part of it.`,
		Example: `  pelton setup plan
  pelton setup plan --queues default,mail --exit-code
  pelton setup plan --kafka kafka:9092 -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats stream info PELTON_TASKS_default`},
		Args:        takes(),
	}
	f := addSetupFlags(cmd)
	exit := cmd.Flags().Bool("exit-code", false, "end with exit code 9 where something differs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runSetup(cmd, f, func(ctx context.Context, s *setup) error {
			changes, err := topology.Plan(ctx, s.client.JetStream(), s.topology)
			if err != nil {
				return err
			}
			topics, err := s.planTopics(ctx)
			if err != nil {
				return err
			}
			changes = append(changes, topics...)
			if err := a.showChanges(f.show, changes); err != nil {
				return err
			}
			if *exit && len(changes) > 0 {
				return errDifference
			}
			return nil
		})
	}
	return cmd
}

func (a *app) setupApply() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make what is missing, mend what differs, and show it",
		Long: `Make the streams and consumers that are missing, mend those that differ, and
show what was done. Nothing is ever deleted; where something cannot be changed
in place, nothing at all is changed.

Where Kafka is configured, the ledger topic of the emit edges is made, too.`,
		Example: `  pelton setup apply
  pelton setup apply --queues default,mail --ack-wait 1m
  pelton setup apply --kafka kafka:9092`,
		Annotations: map[string]string{natsEquivalent: `  nats stream add PELTON_TASKS_default --config stream.json`},
		Args:        takes(),
	}
	f := addSetupFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runSetup(cmd, f, func(ctx context.Context, s *setup) error {
			done, err := topology.Apply(ctx, s.client.JetStream(), s.topology)
			if err == nil {
				var topics []topology.Change
				topics, err = s.applyTopics(ctx)
				done = append(done, topics...)
			}
			// What was done is shown also where the rest could not be.
			return errors.Join(err, a.showChanges(f.show, done))
		})
	}
	return cmd
}

// setup is what is to stand in the brokers.
type setup struct {
	client   *engine.Client
	topology topology.Topology
	ledgers  []emit.Config // of the emit edges, the one with most shards first
}

func (a *app) runSetup(cmd *cobra.Command, f setupFlags, run func(context.Context, *setup) error) error {
	cfg, err := a.settings(cmd, config.PartQueues, *f.queues...)
	if err != nil {
		return err
	}
	topo, err := topology.New(topologyConfig(cfg, cfg.Names))
	if err != nil {
		return &usageError{err: err}
	}
	kafka, err := a.kafkaOf(cfg, quiet)
	if err != nil {
		return err
	}
	return a.ask(cmd, cfg, *f.timeout, func(ctx context.Context, c *engine.Client) error {
		return c.AskAPI(ctx, func(ctx context.Context) error {
			return run(ctx, &setup{client: c, topology: topo, ledgers: ledgersOf(cfg, kafka)})
		})
	})
}

// topologyConfig is the settings of queues.
func topologyConfig(cfg *config.Config, queues []string) topology.Config {
	out := topology.Config{
		Namespace:  wire.Namespace(cfg.Namespace),
		Replicas:   cfg.Setup.Replicas,
		DeadMaxAge: cfg.Dead.MaxAge,
	}
	for _, name := range queues {
		q := cfg.Queues[name]
		out.Queues = append(out.Queues, topology.Queue{
			Name:          name,
			MaxPending:    q.MaxPending,
			MaxBytes:      int64(q.MaxBytes),
			AckWait:       q.AckWait,
			MaxAckPending: q.MaxAckPending,
			Priorities:    prioritiesOf(q),
			ResultsTTL:    cfg.Results.TTL,
			ResultsMax:    cfg.Results.Max,
		})
	}
	return out
}

// prioritiesOf are the lanes of a queue beside its plain one.
func prioritiesOf(q config.Queue) []wire.Priority {
	var out []wire.Priority
	for _, p := range q.Priorities {
		out = append(out, wire.Priority(p))
	}
	return out
}

// ledgersOf are the emit edges whose ledger topics are to be made: none where
// nobody has named a Kafka.
func ledgersOf(cfg *config.Config, kafka produce.Kafka) []emit.Config {
	if len(cfg.Kafka.Brokers) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(cfg.Edges.Emit))
	if len(names) == 0 {
		names = []string{"results"}
	}
	var out []emit.Config
	for _, name := range names {
		out = append(out, emitConfig(cfg, name, kafka, quiet("emit")))
	}
	slices.SortStableFunc(out, func(a, b emit.Config) int { return b.Shards - a.Shards })
	return out
}

// planTopics finds the ledger topics that are missing. Those that are there are
// verified: one that is not as needed is an error.
func (s *setup) planTopics(ctx context.Context) ([]topology.Change, error) {
	var changes []topology.Change
	planned := map[string]bool{}
	for _, edge := range s.ledgers {
		spec := emit.LedgerTopicSpec(edge)
		missing, err := topicMissing(ctx, edge.Kafka, spec.Name)
		if err != nil {
			return nil, err
		}
		if !missing {
			if _, err := emit.EnsureLedger(ctx, edge); err != nil {
				return nil, err
			}
		} else if !planned[spec.Name] {
			planned[spec.Name] = true
			changes = append(changes, ledgerChange(edge))
		}
	}
	return changes, nil
}

func topicMissing(ctx context.Context, kafka produce.Kafka, topic string) (bool, error) {
	err := produce.FindTopic(ctx, kafka, topic)
	if errors.Is(err, produce.ErrNoTopic) {
		return true, nil
	}
	return false, err
}

func (s *setup) applyTopics(ctx context.Context) ([]topology.Change, error) {
	var done []topology.Change
	for _, edge := range s.ledgers {
		// Asked first because it says at once where no broker answers.
		if _, err := topicMissing(ctx, edge.Kafka, emit.LedgerTopicSpec(edge).Name); err != nil {
			return done, err
		}
		created, err := emit.EnsureLedger(ctx, edge)
		if err != nil {
			return done, err
		}
		if created {
			done = append(done, ledgerChange(edge))
		}
	}
	return done, nil
}

// ledgerChange is the making of a ledger topic.
func ledgerChange(edge emit.Config) topology.Change {
	spec := emit.LedgerTopicSpec(edge)
	change := topology.Change{Object: "topic " + spec.Name, Action: topology.Create}
	add := func(name, value string) {
		change.Fields = append(change.Fields, topology.Field{Name: name, Want: value, Have: "none", Contract: name == "cleanup.policy" || name == "partitions"})
	}
	add("partitions", fmt.Sprint(spec.Partitions))
	for _, name := range slices.Sorted(maps.Keys(spec.Configs)) {
		add(name, spec.Configs[name])
	}
	return change
}

// changeLine is one field that differs, or an object that is made.
type changeLine struct {
	action, object, field, have, want, kind string
}

// shownChange is a change in JSON.
type shownChange struct {
	Action topology.Action `json:"action"`
	Object string          `json:"object"`
	Fields []shownField    `json:"fields,omitempty"`
}

type shownField struct {
	Name     string `json:"name"`
	Have     string `json:"have"`
	Want     string `json:"want"`
	Contract bool   `json:"contract"`
}

func (a *app) showChanges(show *output, changes []topology.Change) error {
	if show.format != formatTable || show.quiet {
		shown := make([]shownChange, len(changes))
		for i, c := range changes {
			shown[i] = shownChange{Action: c.Action, Object: c.Object}
			for _, f := range c.Fields {
				shown[i].Fields = append(shown[i].Fields, shownField{f.Name, f.Have, f.Want, f.Contract})
			}
		}
		return list(a.stdout, show, shown, func(c shownChange) string { return c.Object }, nil)
	}
	if len(changes) == 0 {
		a.say("nothing to do")
		return nil
	}
	return table(a.stdout, changeLines(changes), []column[changeLine]{
		{"ACTION", false, func(l changeLine) string { return l.action }},
		{"OBJECT", false, func(l changeLine) string { return l.object }},
		{"FIELD", false, func(l changeLine) string { return l.field }},
		{"HAVE", false, func(l changeLine) string { return shorten(l.have, 60) }},
		{"WANT", false, func(l changeLine) string { return shorten(l.want, 60) }},
		{"KIND", false, func(l changeLine) string { return l.kind }},
	})
}

func changeLines(changes []topology.Change) []changeLine {
	var lines []changeLine
	for _, c := range changes {
		if len(c.Fields) == 0 {
			lines = append(lines, changeLine{string(c.Action), c.Object, "-", "-", "-", "-"})
		}
		for _, f := range c.Fields {
			kind := "setting"
			if f.Contract {
				kind = "contract"
			}
			lines = append(lines, changeLine{string(c.Action), c.Object, f.Name, f.Have, f.Want, kind})
		}
	}
	return lines
}
