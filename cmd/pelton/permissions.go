package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pelton/engine/wire"
	"pelton/internal/config"
	"pelton/internal/permissions"
)

func (a *app) setupPermissions() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "permissions",
		Short: "Write the users of NATS, a role each, with just their rights",
		Long: `Write the part of the configuration of nats-server that has a user for each
role, with just the rights that it needs. No broker is asked.

The passwords are variables of the environment of nats-server, such as
NATS_WORKER_PASSWORD; each user hears answers only below _INBOX_<user>.`,
		Example: `  pelton setup permissions > permissions.conf
  pelton setup permissions --queues default,mail --lanes mail_high --routes orders`,
		Args: takes(),
	}
	queues := cmd.Flags().StringSlice("queues", nil, "`QUEUES` by comma; those that are configured, else default, unless given")
	lanes := cmd.Flags().StringSlice("lanes", nil, "`LANES` of these queues by comma, such as mail_high; those that are configured unless given")
	routes := cmd.Flags().StringSlice("routes", nil, "`ROUTES` of ingest by comma; those that are configured, else commands, unless given")
	bind(cmd, "namespace", "namespace", "`NAME` that begins all subjects", "pelton")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartQueues, *queues...)
		if err != nil {
			return err
		}
		rights := permissions.Config{Namespace: wire.Namespace(cfg.Namespace), Queues: cfg.Names, Routes: *routes}
		if rights.Lanes, err = lanesOf(cfg, *lanes); err != nil {
			return &usageError{err: err, help: cmd.CommandPath() + " --help"}
		}
		if len(rights.Routes) == 0 {
			rights.Routes = slices.Sorted(maps.Keys(cfg.Edges.Ingest))
		}
		roles, err := permissions.Roles(rights)
		if err != nil {
			return &usageError{err: err, help: cmd.CommandPath() + " --help"}
		}
		return permissions.Write(a.stdout, roles, repeated(rights))
	}
	return cmd
}

// lanesOf are the lanes that were given, else those that the queues declare.
func lanesOf(cfg *config.Config, given []string) ([]wire.Lane, error) {
	var lanes []wire.Lane
	for _, name := range given {
		lane, err := wire.ParseLane(name)
		if err != nil {
			return nil, fmt.Errorf("--lanes: %w", err)
		}
		lanes = append(lanes, lane)
	}
	if len(given) > 0 {
		return lanes, nil
	}
	for _, queue := range cfg.Names {
		for _, priority := range prioritiesOf(cfg.Queues[queue]) {
			lanes = append(lanes, wire.Lane{Queue: queue, Priority: priority})
		}
	}
	return lanes, nil
}

// repeated is the arguments by which the same rights are written again.
func repeated(rights permissions.Config) string {
	var b strings.Builder
	add := func(flag, otherwise string, values ...string) {
		if given := strings.Join(values, ","); given != "" && given != otherwise {
			b.WriteString(" --" + flag + " " + given)
		}
	}
	add("namespace", string(wire.DefaultNamespace), string(rights.Namespace))
	add("queues", "default", rights.Queues...)
	lanes := make([]string, len(rights.Lanes))
	for i, lane := range rights.Lanes {
		lanes[i] = lane.String()
	}
	add("lanes", "", lanes...)
	add("routes", "commands", rights.Routes...)
	return b.String()
}
