package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/internal/config"
	"pelton/internal/connect"
	"pelton/internal/doctor"
	"pelton/internal/logging"
)

func (a *app) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: groupSetup,
		Short:   "Say what is wrong with an installation, and what mends it",
		Long: `Look at NATS, streams, durability, clock, rights, queues and, where Kafka is
configured, topics; say what is wrong, and with what it is mended. Nothing is
changed.

The exit code is 9 where there is a FAIL, also where NATS does not answer, and 0
otherwise. Whether acknowledged tasks survive a power cut only the server's HTTP
port tells: name it with --monitor-url.`,
		Example: `  pelton doctor
  pelton doctor --monitor-url http://127.0.0.1:8222 --all
  pelton doctor -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats server check jetstream`},
		Args:        takes(),
	}
	queues := cmd.Flags().StringSlice("queues", nil, "`QUEUES` by comma; those that are configured, else default, unless given")
	bind(cmd, "monitor-url", "nats.monitor_url", "`URL` of the HTTP port of NATS, such as http://127.0.0.1:8222", "")
	all := cmd.Flags().Bool("all", false, "show also what is well")
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` of each check")
	show := outputFlags(cmd)
	natsFlags(cmd)
	kafkaFlags(cmd)
	cmd.Flags().Lookup("kafka").DefValue = ""
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a.warned = true // what the settings warn of is a finding
		cfg, err := a.settings(cmd, config.PartQueues, *queues...)
		if err != nil {
			return err
		}
		return a.runDoctor(cmd.Context(), cfg, *timeout, *all, show)
	}
	return cmd
}

func (a *app) runDoctor(ctx context.Context, cfg *config.Config, timeout time.Duration, all bool, show *output) error {
	topo, err := topology.New(topologyConfig(cfg, cfg.Names))
	if err != nil {
		return &usageError{err: err}
	}
	// What the connections would log is a finding.
	kafka, err := a.kafkaOf(cfg, quiet)
	if err != nil {
		return err
	}
	to, err := connect.FromSettings(cfg, a.env, connect.Client)
	if err != nil {
		return err
	}
	look := doctor.Config{
		Topology: topo, Warnings: cfg.Warnings, MonitorURL: cfg.NATS.MonitorURL, Timeout: timeout, Progress: a.progress(),
		Kafka: kafka, Topics: topicsOf(cfg), Ledgers: ledgersOf(cfg, kafka),
	}
	nc, err := dial(to, quiet("nats"), nats.Timeout(min(timeout, 2*time.Second)))
	if err != nil {
		look.Unreachable = err
	} else {
		defer nc.Close()
		if look.Client, err = engine.NewClient(nc, clientConfig(cfg, quiet("engine"))); err != nil {
			return err
		}
		defer look.Client.Close()
	}
	found := doctor.Run(ctx, look)
	if ctx.Err() != nil {
		return errInterrupted
	}
	return a.showFindings(show, found, all)
}

// progress names the check under way, on a terminal alone.
func (a *app) progress() func(string) {
	if !logging.IsTerminal(a.stderr) {
		return nil
	}
	return func(check string) { _, _ = fmt.Fprintf(a.stderr, "\r\x1b[K%s …\r", check) }
}

// topicsOf are the topics that the edges read and write: none where nobody has
// named a Kafka.
func topicsOf(cfg *config.Config) []string {
	if len(cfg.Kafka.Brokers) == 0 {
		return nil
	}
	topics := map[string]bool{}
	for _, route := range cfg.Edges.Ingest {
		for _, topic := range route.Topics {
			topics[topic] = true
		}
	}
	for _, edge := range cfg.Edges.Emit {
		for _, topic := range append([]string{edge.Topic}, edge.ReplyTopics...) {
			topics[topic] = topic != ""
		}
	}
	maps.DeleteFunc(topics, func(_ string, named bool) bool { return !named })
	return slices.Sorted(maps.Keys(topics))
}

func (a *app) showFindings(show *output, found []doctor.Finding, all bool) error {
	worst, well := doctor.Worst(found), 0
	if !all {
		before := len(found)
		found = slices.DeleteFunc(found, func(f doctor.Finding) bool { return f.Level == doctor.OK })
		well = before - len(found)
	}
	if logging.IsTerminal(a.stderr) {
		_, _ = fmt.Fprint(a.stderr, "\r\x1b[K")
	}
	if len(found) > 0 || show.format != formatTable {
		err := list(a.stdout, show, found, func(f doctor.Finding) string { return f.Check }, []column[doctor.Finding]{
			{"LEVEL", false, func(f doctor.Finding) string { return string(f.Level) }},
			{"CHECK", false, func(f doctor.Finding) string { return f.Check }},
			{"FINDING", false, func(f doctor.Finding) string { return f.Finding }},
			{"FIX", false, func(f doctor.Finding) string { return orDash(f.Fix) }},
		})
		if err != nil {
			return err
		}
	}
	if well > 0 && show.format == formatTable && !show.quiet {
		a.say("%d checks are well, --all shows them", well)
	}
	if worst == doctor.Fail {
		return errFindings
	}
	return nil
}
