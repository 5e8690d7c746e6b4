package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/internal/config"
)

func (a *app) taskCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel ID...",
		Short: "Revoke tasks, wherever they are",
		Long: `Revoke tasks: those that wait, in their queue or for their time, do not run, and
the context of those that run is cancelled. Their records say revoked.

A task that has ended otherwise is shown as it is, and the exit code is 7; an id
that nobody has seen ends with exit code 3. The others are revoked all the same.`,
		Example: `  pelton task cancel default-41
  pelton task cancel job-77 job-78 --queue mail`,
		Annotations: map[string]string{natsEquivalent: `  nats kv put PELTON_REVOKED mail.job-77 '{}'`},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return takes("ID")(cmd, args)
			}
			return nil
		},
	}
	queue := queueFlag(cmd)
	show := outputFlags(cmd)
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` in which the broker must answer")
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			records, err := cancelAll(ctx, c, *queue, args)
			// What was revoked is shown also where the rest could not be.
			return errors.Join(err, list(a.stdout, show, records, func(r *engine.Record) string { return r.ID }, []column[*engine.Record]{
				{"ID", false, func(r *engine.Record) string { return r.ID }},
				{"STATE", false, func(r *engine.Record) string { return string(r.State) }},
			}))
		})
	}
	return cmd
}

// cancelAll revokes each task that can be, and tells of the others.
func cancelAll(ctx context.Context, c *engine.Client, queue string, ids []string) (records []*engine.Record, err error) {
	for _, id := range ids {
		found, lookErr := lookup(ctx, c, queue, id)
		if lookErr != nil {
			err = errors.Join(err, lookErr)
			continue
		}
		r, cancelErr := c.Cancel(ctx, found.Queue, id)
		if r != nil {
			records = append(records, r)
		}
		err = errors.Join(err, cancelErr)
	}
	return records, err
}
