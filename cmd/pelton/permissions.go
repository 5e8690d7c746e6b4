package main

import (
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
  pelton setup permissions --queues default,mail --routes commands,orders`,
		Args: takes(),
	}
	queues := cmd.Flags().StringSlice("queues", nil, "`QUEUES` by comma; those that are configured, else default, unless given")
	routes := cmd.Flags().StringSlice("routes", nil, "`ROUTES` of ingest by comma; those that are configured, else commands, unless given")
	bind(cmd, "namespace", "namespace", "`NAME` that begins all subjects", "pelton")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartQueues, *queues...)
		if err != nil {
			return err
		}
		rights := permissions.Config{Namespace: wire.Namespace(cfg.Namespace), Queues: cfg.Names, Routes: *routes}
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
	add("routes", "commands", rights.Routes...)
	return b.String()
}
