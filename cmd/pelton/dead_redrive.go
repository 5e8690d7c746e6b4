package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/internal/config"
)

func (a *app) deadRedrive() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "redrive [ID...]",
		Aliases: []string{"retry"},
		Short:   "Have dead letters run again",
		Long: `Have dead letters run again: the same id, its next run, the attempts anew, at
once. The janitor does it, and goes on when this command is interrupted; asked
again, it goes on with what is left. Letters that come meanwhile stay.

A letter stays whose task has not failed, or of whose body a part is missing:
then the exit code is 7.`,
		Example: `  pelton dead redrive job-77 --queue mail
  pelton dead redrive --task send --queue mail
  pelton dead redrive --all -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats req pelton.ctl.janitor.redrive.mail '{"queue":"mail","id":"job-77"}'`},
	}
	queue := queueFlag(cmd)
	task := cmd.Flags().String("task", "", "all letters of a `TASK` of the queue")
	all := cmd.Flags().Bool("all", false, "all letters of the queue")
	show := outputFlags(cmd)
	timeout := timeoutFlag(cmd, time.Minute, "`DURATION` for all of it")
	natsFlags(cmd)
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if (len(args) > 0) == (*all || *task != "") || *all && *task != "" {
			return errors.New("one of ID, --task and --all must be given")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			done, err := redrive(ctx, c, redrives(*queue, *task, args))
			for _, r := range done.Why {
				a.say("%s stays: %s", r.ID, r.Why)
			}
			if err == nil && done.Refused > 0 {
				err = fmt.Errorf("%w: %d dead letters stay", errRefused, done.Refused)
			}
			return errors.Join(list(a.stdout, show, []engine.Redriven{done}, func(d engine.Redriven) string { return strconv.Itoa(d.Again) }, []column[engine.Redriven]{
				{"AGAIN", true, func(d engine.Redriven) string { return strconv.Itoa(d.Again) }},
				{"REMOVED", true, func(d engine.Redriven) string { return strconv.Itoa(d.Removed) }},
				{"REFUSED", true, func(d engine.Redriven) string { return strconv.Itoa(d.Refused) }},
			}), err)
		})
	}
	return cmd
}

// redrives are the requests for what was named: one for each id, else one.
func redrives(queue, task string, ids []string) []engine.Redrive {
	if len(ids) == 0 {
		return []engine.Redrive{{Queue: likelyQueue(queue, ""), Task: task}}
	}
	var all []engine.Redrive
	for _, id := range ids {
		all = append(all, engine.Redrive{Queue: likelyQueue(queue, id), ID: id})
	}
	return all
}

// redrive asks for one after the other, and adds up what came of them.
func redrive(ctx context.Context, c *engine.Client, all []engine.Redrive) (sum engine.Redriven, err error) {
	for _, r := range all {
		done, errOne := c.Redrive(ctx, r)
		if errOne == nil && r.ID != "" && done.Again+done.Removed+done.Refused == 0 {
			errOne = fmt.Errorf("dead letter %s in queue %s: %w", r.ID, r.Queue, engine.ErrNotFound)
		}
		sum.Again += done.Again
		sum.Removed += done.Removed
		sum.Refused += done.Refused
		sum.Why = append(sum.Why, done.Why...)
		err = errors.Join(err, errOne)
	}
	return sum, err
}
