package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"pelton/internal/config"
	"pelton/internal/health"
)

// telemetryFlags are those of a role.
func telemetryFlags(cmd *cobra.Command) {
	bind(cmd, "telemetry-addr", "telemetry.addr", "`HOST:PORT` of /livez and /readyz, such as 127.0.0.1:8581; none unless given", "")
}

// tellHealth answers probes where an address is set, and tells systemd where it
// has started the process. From the moment ctx is done on, the role drains. The
// function returned ends all of it; it comes last.
func (a *app) tellHealth(ctx context.Context, cfg *config.Config, log *slog.Logger) (end func(), err error) {
	var server *health.Server
	if cfg.Telemetry.Addr != "" {
		if server, err = health.Listen(ctx, cfg.Telemetry.Addr, &a.board); err != nil {
			return nil, err
		}
		log.InfoContext(ctx, "probes are answered", "address", server.Addr())
	}
	telling, stop := context.WithCancel(context.WithoutCancel(ctx))
	var systemd sync.WaitGroup
	whom := health.FindSystemd(a.env)
	systemd.Go(func() { a.board.Notify(telling, whom) })
	undrain := context.AfterFunc(ctx, a.board.Drain)
	return func() {
		undrain()
		a.board.Drain() // a role may end by itself
		stop()
		systemd.Wait()
		if server != nil {
			server.Close(telling)
		}
	}, nil
}

func (a *app) health() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "health",
		GroupID: groupClients,
		Short:   "Ask a role on this machine whether it lives, or is ready",
		Long: `Ask a role whether its loops make progress, or with --ready whether it takes
work: connected, its consumers bound, not draining. It is for the health check
of a container, where the role's own settings say where to ask.

The exit code is 0 where all is well, 1 where the role says no, with its
reasons, 6 where nobody answers, and 2 where no address is known.`,
		Example: `  pelton health
  pelton health --ready --addr 127.0.0.1:8581`,
		Args: takes(),
	}
	bind(cmd, "addr", "telemetry.addr", "`HOST:PORT` of the role", "telemetry.addr of the settings")
	ready := cmd.Flags().Bool("ready", false, "ask whether it takes work")
	timeout := timeoutFlag(cmd, 5*time.Second, "`DURATION` in which it must answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		if err := canAsk(cfg.Telemetry.Addr); err != nil {
			return &usageError{err: err, help: "pelton health --help"}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		return health.Ask(ctx, cfg.Telemetry.Addr, *ready)
	}
	return cmd
}

func canAsk(addr string) error {
	if addr == "" {
		return errors.New("telemetry.addr must be set, or --addr given")
	}
	if _, port, err := net.SplitHostPort(addr); err == nil && port == "0" {
		return errors.New("telemetry.addr " + addr + ": port 0 is a free one, the role's log says which: give it with --addr")
	}
	return nil
}
