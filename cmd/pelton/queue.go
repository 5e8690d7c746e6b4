package main

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"pelton/engine"
	"pelton/internal/config"
)

func (a *app) queue() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "queue",
		GroupID: groupClients,
		Short:   "Look at queues",
		Example: `  pelton queue ls
  pelton queue ls -o jsonl`,
	}
	makeGroup(cmd, a.queueList())
	return cmd
}

func (a *app) queueList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the queues and how they stand",
		Long: `List the queues: what waits, what workers hold, what waits for its time, what
died, and how old the oldest task is that is ready to run.

STATE is ok, NO WORKER (tasks wait and nobody asks for them), PAUSED, FULL, or
NO CONSUMER (pelton setup apply makes it).`,
		Example: `  pelton queue ls
  pelton queue ls -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats consumer report PELTON_TASKS_default`},
		Args:        takes(),
	}
	show := outputFlags(cmd)
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` in which the broker must answer")
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			queues, err := lookAtQueues(ctx, c)
			if err != nil {
				return err
			}
			return list(a.stdout, show, queues, func(q engine.QueueStatus) string { return q.Queue }, queueColumns(time.Now()))
		})
	}
	return cmd
}

// queuesAtOnce is how many queues are asked about at a time.
const queuesAtOnce = 8

func lookAtQueues(ctx context.Context, c *engine.Client) ([]engine.QueueStatus, error) {
	names, err := c.Queues(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]engine.QueueStatus, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(queuesAtOnce)
	for i, name := range names {
		group.Go(func() (err error) {
			found[i], err = c.QueueStatus(ctx, name)
			return err
		})
	}
	return found, group.Wait()
}

func queueColumns(now time.Time) []column[engine.QueueStatus] {
	type q = engine.QueueStatus
	return []column[q]{
		{"QUEUE", false, func(s q) string { return s.Queue }},
		{"PENDING", true, func(s q) string { return strconv.FormatUint(s.Pending, 10) }},
		{"RUNNING", true, func(s q) string { return strconv.FormatUint(s.Running, 10) }},
		{"LATER", true, func(s q) string { return strconv.FormatUint(s.Later, 10) }},
		{"DEAD", true, func(s q) string { return strconv.FormatUint(s.Dead, 10) }},
		{"OLDEST", true, func(s q) string { return age(s.Oldest, now) }},
		{"STATE", false, func(s q) string { return string(s.State) }},
	}
}

func (a *app) dead() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dead",
		GroupID: groupClients,
		Short:   "Look at dead letters, and have them run again",
		Example: `  pelton dead ls
  pelton dead ls --queue mail -o jsonl
  pelton dead redrive --all --queue mail`,
	}
	makeGroup(cmd, a.deadList(), a.deadRedrive())
	return cmd
}

func (a *app) deadList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List dead letters, the newest first",
		Example: `  pelton dead ls
  pelton dead ls --queue mail --limit 0 -o jsonl`,
		Annotations: map[string]string{natsEquivalent: `  nats stream subjects PELTON_DEAD`},
		Args:        takes(),
	}
	queue := cmd.Flags().String("queue", "", "only those of a `QUEUE`")
	limit := cmd.Flags().Int("limit", 100, "`NUMBER` to list at most; 0 is all")
	show := outputFlags(cmd)
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` in which the broker must answer")
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		if *limit < 0 {
			return &usageError{err: errors.New("--limit must be at least 0, got " + strconv.Itoa(*limit)), help: cmd.CommandPath() + " --help"}
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			letters, err := c.DeadLetters(ctx, *queue, *limit)
			if err != nil {
				return err
			}
			if len(letters) == *limit && len(letters) > 0 {
				a.say("the newest %d are shown, --limit shows more", *limit)
			}
			return list(a.stdout, show, letters, func(d engine.DeadLetter) string { return d.ID }, deadColumns())
		})
	}
	return cmd
}

func deadColumns() []column[engine.DeadLetter] {
	type d = engine.DeadLetter
	return []column[d]{
		{"ID", false, func(l d) string { return l.ID }},
		{"TASK", false, func(l d) string { return l.Task }},
		{"QUEUE", false, func(l d) string { return l.Queue }},
		{"ERROR", false, func(l d) string { return shorten(l.ErrorType+": "+l.Error, 60) }},
		{"ATTEMPTS", true, func(l d) string { return strconv.Itoa(l.Attempt) }},
		{"DIED", false, func(l d) string { return when(l.DiedAt) }},
	}
}
