package main

import (
	"context"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/config"
)

func (a *app) janitor() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "janitor",
		GroupID: groupRoles,
		Short:   "Keep the streams of queues in order",
		Long: `Keep the streams of queues in order: remove the old positions of ingest, which
count against a queue's limit, and put right the tasks that a broker has
forgotten after it was killed, so that no worker would ever be given them. One
whose task is done with is removed; any other runs, under its id.

It holds rights that nobody else needs, because with them a queue can be
emptied. One is enough; while none runs nothing is lost.`,
		Example: `  pelton janitor
  pelton janitor --once --queues default,mail`,
		Annotations: map[string]string{natsEquivalent: `  nats stream purge PELTON_TASKS_default --subject pelton.ledger.default.commands.commands.0 --keep 1`},
		Args:        takes(),
	}
	queues := cmd.Flags().StringSlice("queues", nil, "`QUEUES` by comma; those that are configured, else default, unless given")
	bind(cmd, "every", "janitor.every", "`DURATION` from one round to the next", "30s")
	once := cmd.Flags().Bool("once", false, "end when everything is in order, after twice the lease where a task is found")
	natsFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartQueues, *queues...)
		if err != nil {
			return err
		}
		lanes, err := janitorLanes(cfg)
		if err != nil {
			return err
		}
		return a.role(cmd.Context(), cfg, func(ctx context.Context, p part) error {
			client, err := engine.NewClient(p.nc, clientConfig(cfg, p.logs.Logger("engine")))
			if err != nil {
				return err
			}
			defer client.Close()
			j := engine.NewJanitor(client, engine.JanitorConfig{Lanes: lanes, Every: cfg.Janitor.Every, Logger: p.logs.Logger("janitor")})
			a.board.Watch("janitor", j.Health)
			if *once {
				return j.Once(ctx)
			}
			return j.Run(ctx)
		})
	}
	return cmd
}

// janitorLanes are the lanes of the queues that the command is about.
func janitorLanes(cfg *config.Config) ([]wire.Lane, error) {
	topo, err := topology.New(topologyConfig(cfg, cfg.Names))
	if err != nil {
		return nil, &usageError{err: err}
	}
	var lanes []wire.Lane
	for _, s := range topo.Streams {
		if s.Kind == topology.Tasks {
			lanes = append(lanes, s.Lane())
		}
	}
	return lanes, nil
}
