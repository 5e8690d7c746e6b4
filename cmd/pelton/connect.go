package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/config"
	"pelton/internal/connect"
	"pelton/internal/logging"
)

// dial opens a connection to the broker. Its errors never tell the secrets in
// its URL.
func dial(to *connect.NATS, log *slog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	all := append(engine.ConnectOptions(log), to.Options()...)
	nc, err := nats.Connect(to.URL, append(all, opts...)...)
	if err != nil {
		return nil, unreachable(to, err)
	}
	return nc, nil
}

func unreachable(to *connect.NATS, err error) error {
	_, err = connect.Explain(err)
	return fmt.Errorf("nats %s: %w: %w", to.Name, engine.ErrUnreachable, err)
}

// clientConfig is how a client of the engine is made on a connection.
func clientConfig(cfg *config.Config, log *slog.Logger) engine.ClientConfig {
	return engine.ClientConfig{Namespace: wire.Namespace(cfg.Namespace), Logger: log}
}

// ask runs what a client asks of the broker, for as long as timeout, if there
// is one. A broker that is absent is an error at once.
func (a *app) ask(cmd *cobra.Command, cfg *config.Config, timeout time.Duration, what func(context.Context, *engine.Client) error) error {
	ctx := cmd.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := a.askWithin(ctx, cfg, timeout, what)
	if err != nil && cmd.Context().Err() != nil {
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	return err
}

func (a *app) askWithin(ctx context.Context, cfg *config.Config, timeout time.Duration, what func(context.Context, *engine.Client) error) error {
	logs, err := a.logs(cfg)
	if err != nil {
		return err
	}
	defer logs.Close() //nolint:errcheck // nothing is left to write
	to, err := connect.FromSettings(cfg, a.env, connect.Client)
	if err != nil {
		return err
	}
	var opts []nats.Option
	if timeout > 0 {
		opts = append(opts, nats.Timeout(min(timeout, 2*time.Second)))
	}
	nc, err := dial(to, logs.Logger("nats"), opts...)
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := engine.NewClient(nc, clientConfig(cfg, logs.Logger("engine")))
	if err != nil {
		return err
	}
	defer client.Close()
	return what(ctx, client)
}

// part is what a role works with.
type part struct {
	nc   *nats.Conn
	logs *logging.Logs
}

// role runs a part that lives until it is told to end. The broker may come
// later than the role, and may go and come back; only one that is there and
// refuses the role, its credentials or its certificate, ends it.
func (a *app) role(ctx context.Context, cfg *config.Config, run func(context.Context, part) error) error {
	logs, err := a.roleLogs(cfg)
	if err != nil {
		return err
	}
	defer logs.Close() //nolint:errcheck // nothing is left to write
	to, err := connect.FromSettings(cfg, a.env, connect.Role)
	if err != nil {
		return err
	}
	a.certificates.add(to.Certificates)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endHealth, err := a.tellHealth(ctx, cfg, logs.Logger("health"))
	if err != nil {
		return err
	}
	defer endHealth() // last, so that probes see the whole drain
	nc, err := dialPatiently(to, logs.Logger("nats"), cancel)
	if err != nil {
		return err
	}
	defer nc.Close()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { tellRefusals(ctx, nc, logs.Logger("nats")) })
	defer a.reloading(ctx, cfg, logs)()
	err = run(ctx, part{nc, logs})
	if nc.IsClosed() && (err == nil || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, engine.ErrClosed)) {
		return unreachable(to, errors.Join(nats.ErrConnectionClosed, nc.LastError()))
	}
	return err
}

// dialPatiently waits for a broker that is not there. One that is and refuses
// the very first connection will do so again, so that is an error; later it may
// be at work on its certificates, and is asked again.
func dialPatiently(to *connect.NATS, log *slog.Logger, closed func()) (*nats.Conn, error) {
	gone := nats.ClosedHandler(func(*nats.Conn) { closed() })
	nc, err := dial(to, log, gone)
	if err == nil {
		return nc, nil
	}
	if final, _ := connect.Explain(err); final {
		return nil, err
	}
	return dial(to, log, gone, nats.RetryOnFailedConnect(true))
}

// tellRefusals says once in a row why a broker that is there does not let us
// in, until ctx is done. The library tells nobody of a handshake that fails
// while it reconnects, so it is asked.
func tellRefusals(ctx context.Context, nc *nats.Conn, log *slog.Logger) {
	ticker := time.NewTicker(refusalsEvery)
	defer ticker.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		final, err := connect.Explain(nc.LastError())
		switch {
		case nc.IsConnected():
			last = ""
		case final && err.Error() != last:
			last = err.Error()
			log.Warn("nats refuses the connection", "err", err)
		}
	}
}

// refusalsEvery is how often it is asked; an attempt takes longer.
const refusalsEvery = 200 * time.Millisecond

// kafkaOf is the settings of Kafka as the edges take them. Its certificates are
// reloaded with those of NATS.
func (a *app) kafkaOf(cfg *config.Config, log loggers) (produce.Kafka, error) {
	kafka, certificates, err := connect.Kafka(cfg, log("kafka"))
	if err == nil {
		a.certificates.add(certificates)
	}
	return kafka, err
}
