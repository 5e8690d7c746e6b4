package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/config"
)

// connect opens a connection to the broker and never tells the secrets in its
// URL.
func connect(cfg *config.Config, log *slog.Logger, opts ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(cfg.NATS.URL, append(engine.ConnectOptions(log), opts...)...)
	if err != nil {
		return nil, unreachable(cfg, err)
	}
	return nc, nil
}

func unreachable(cfg *config.Config, err error) error {
	return fmt.Errorf("nats %s: %w: %w", config.RedactURL(cfg.NATS.URL), engine.ErrUnreachable, err)
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
	log, err := a.logger(cfg)
	if err != nil {
		return err
	}
	var opts []nats.Option
	if timeout > 0 {
		opts = append(opts, nats.Timeout(min(timeout, 2*time.Second)))
	}
	nc, err := connect(cfg, log, opts...)
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := engine.NewClient(nc, engine.ClientConfig{Namespace: wire.Namespace(cfg.Namespace), Logger: log})
	if err != nil {
		return err
	}
	defer client.Close()
	return what(ctx, client)
}

// role runs a part that lives until it is told to end. The broker may come
// later than the role, and may go and come back; only credentials that it
// refuses end the role.
func (a *app) role(ctx context.Context, cfg *config.Config, run func(context.Context, *nats.Conn, *slog.Logger) error) error {
	log, err := a.logger(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endHealth, err := a.tellHealth(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer endHealth() // last, so that probes see the whole drain
	nc, err := connect(cfg, log, nats.RetryOnFailedConnect(true), nats.ClosedHandler(func(*nats.Conn) { cancel() }))
	if err != nil {
		return err
	}
	defer nc.Close()
	err = run(ctx, nc, log)
	if nc.IsClosed() && (err == nil || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, engine.ErrClosed)) {
		return unreachable(cfg, errors.Join(nats.ErrConnectionClosed, nc.LastError()))
	}
	return err
}

// kafkaOf is the settings of Kafka as the edges take them.
func kafkaOf(cfg *config.Config, log *slog.Logger) produce.Kafka {
	return produce.Kafka{Brokers: cfg.Kafka.Brokers, ClientID: cfg.Kafka.ClientID, Logger: log}
}
