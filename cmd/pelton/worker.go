package main

import (
	"context"
	"log/slog"
	"maps"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/builtin"
	"pelton/internal/config"
)

func (a *app) worker() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "worker",
		GroupID: groupRoles,
		Short:   "Run the built-in tasks print, echo and add",
		Long: `Run tasks of one or several queues: the built-in print, echo and add. Handlers
written in Go run in a program of their own, made with package engine.

What print prints is written to standard output. SIGTERM lets running tasks end
for the grace period; a second one does not, but hands them back.`,
		Example: `  pelton worker
  pelton worker --queues default:8,mail:2 --grace 40s
  pelton worker --manage --nats-url nats://nats:4222`,
		Annotations: map[string]string{natsEquivalent: `  nats consumer info PELTON_TASKS_default workers   # what it works`},
		Args:        takes(),
		RunE:        a.runWorker,
	}
	bind(cmd, "queues", "worker.queues", "`QUEUES` to work with their slots, default:8,mail:2; without slots, as many as CPUs", "default")
	bind(cmd, "grace", "worker.grace", "`DURATION` for which running tasks may go on after SIGTERM", "25s")
	bind(cmd, "instance", "worker.name", "`NAME` of this worker in records and logs; also --name", "host and a random part")
	cmd.Flags().Bool("manage", false, "make missing streams and consumers, and mend those that differ")
	config.BindSwitch(cmd.Flags(), "manage", "setup.mode", string(engine.SetupManage))
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "name" {
			name = "instance"
		}
		return pflag.NormalizedName(name)
	})
	natsFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	return cmd
}

func (a *app) runWorker(cmd *cobra.Command, _ []string) error {
	cfg, err := a.settings(cmd, config.PartNone)
	if err != nil {
		return err
	}
	// A reader of standard output that goes away fails the attempts of print; it
	// must not end the worker.
	signal.Ignore(syscall.SIGPIPE)
	return a.role(cmd.Context(), cfg, func(ctx context.Context, p part) error {
		client, err := engine.NewClient(p.nc, clientConfig(cfg, p.logs.Logger("engine")))
		if err != nil {
			return err
		}
		defer client.Close()
		w := engine.NewWorker(client, workerConfig(cfg, p.logs.Logger("worker")))
		builtin.Register(w, a.stdout)
		a.board.Watch("worker", w.Health)
		a.hurry.by(w.Abort)
		return w.Run(ctx)
	})
}

func workerConfig(cfg *config.Config, log *slog.Logger) engine.WorkerConfig {
	out := engine.WorkerConfig{
		Name:             cfg.Worker.Name,
		Grace:            cfg.Worker.Grace,
		Timeout:          cfg.Worker.Timeout,
		MaxAttempts:      cfg.Worker.MaxAttempts,
		Backoff:          wire.Backoff(cfg.Worker.Backoff),
		StuckAfter:       cfg.Worker.StuckAfter,
		MaxDeaths:        cfg.Worker.MaxDeaths,
		UnknownTaskPark:  cfg.Worker.UnknownTaskPark,
		UnknownTaskAfter: cfg.Worker.UnknownTaskAfter,
		Setup:            engine.SetupMode(cfg.Setup.Mode),
		Topology:         topologyConfig(cfg, slices.Sorted(maps.Keys(cfg.Queues))),
		Logger:           log,
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Worker.Queues)) {
		q := cfg.Queues[name]
		out.Queues = append(out.Queues, engine.Queue{
			Name: name, Slots: cfg.Worker.Queues[name], Priorities: prioritiesOf(q), Poll: engine.Poll(q.Poll),
		})
	}
	return out
}
