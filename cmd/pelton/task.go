package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/config"
)

func (a *app) task() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "task",
		GroupID: groupClients,
		Short:   "Look at tasks, wait for them, and cancel them",
		Example: `  pelton task show default-41
  pelton task wait default-41 --timeout 30s
  pelton task cancel default-41`,
	}
	makeGroup(cmd, a.taskShow(), a.taskWait(), a.taskCancel())
	return cmd
}

func queueFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("queue", "", "`QUEUE` of the task; an id without one of its own is looked for in default")
}

func (a *app) taskShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show what is known of a task",
		Long: `Show what is known of a task: its record with the attempts so far, or that it
waits. An id that nobody has seen ends with exit code 3.`,
		Example: `  pelton task show default-41
  pelton task show job-77 --queue mail -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats kv get PELTON_RESULTS_default default-41 --raw
  nats stream get PELTON_TASKS_default 41   # while it waits`},
		Args: takes("ID"),
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
			r, err := lookup(ctx, c, *queue, args[0])
			if err != nil {
				return err
			}
			return showRecord(a.stdout, show, r)
		})
	}
	return cmd
}

func (a *app) taskWait() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait for a task and print its result",
		Long: `Wait until a task has ended and print its result as JSON.

Exit code 5 is a task that ended failed, revoked or expired, 3 an id that nobody
has seen, and 4 a wait that ended first: the task goes on.`,
		Example: `  pelton task wait default-41
  pelton task wait "$(pelton send add '{"a":2,"b":3}')" --timeout 30s`,
		Annotations: map[string]string{natsEquivalent: `  nats kv watch PELTON_RESULTS_default default-41`},
		Args:        takes("ID"),
	}
	queue := queueFlag(cmd)
	timeout := timeoutFlag(cmd, 0, "`DURATION` to wait at most; 0 is until the task ends")
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			of := likelyQueue(*queue, args[0])
			r, err := lookup(ctx, c, *queue, args[0])
			switch {
			case err == nil:
				of = r.Queue
			case !errors.Is(err, engine.ErrForbidden): // who may not look may still wait
				return err
			}
			result, err := c.Result(of, args[0]).Wait(ctx)
			if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && c.Conn().IsConnected() {
				return &timeoutError{id: args[0]}
			}
			if err != nil {
				return err
			}
			return writeJSON(a.stdout, orNull(result), "")
		})
	}
	return cmd
}

// lookup finds a task by its id. Where no queue is given, it is looked for in
// the one that a free id begins with, and then in the default queue: job-1 may
// be the first task of queue job, or have been given by somebody.
func lookup(ctx context.Context, c *engine.Client, queue, id string) (*engine.Record, error) {
	if queue != "" {
		return c.Lookup(ctx, queue, id)
	}
	if lane, _, free := wire.ParseFreeID(id); free && lane.Queue != engine.DefaultQueue {
		r, err := c.Lookup(ctx, lane.Queue, id)
		if !errors.Is(err, engine.ErrNotFound) && !errors.Is(err, engine.ErrNoQueue) {
			return r, err
		}
	}
	return c.Lookup(ctx, engine.DefaultQueue, id)
}

// likelyQueue is where a task is that cannot be looked for.
func likelyQueue(queue, id string) string {
	if queue != "" {
		return queue
	}
	if lane, _, free := wire.ParseFreeID(id); free {
		return lane.Queue
	}
	return engine.DefaultQueue
}

func orNull(result json.RawMessage) json.RawMessage {
	if len(result) == 0 {
		return json.RawMessage("null")
	}
	return result
}

// showRecord writes one task; in a table, a line for each thing known of it and
// a line for each attempt that failed.
func showRecord(w io.Writer, show *output, r *engine.Record) error {
	if show.quiet || show.format == formatLines {
		return list(w, show, []*engine.Record{r}, func(r *engine.Record) string { return r.ID }, nil)
	}
	if show.format == formatJSON {
		return writeJSON(w, r, "  ")
	}
	if err := table(w, recordLines(r), []column[[2]string]{
		{"ID", false, func(line [2]string) string { return line[0] }},
		{r.ID, false, func(line [2]string) string { return line[1] }},
	}); err != nil || len(r.Attempts) == 0 {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return table(w, r.Attempts, []column[wire.Attempt]{
		{"ATTEMPT", true, func(at wire.Attempt) string { return strconv.Itoa(at.Attempt) }},
		{"STARTED", false, func(at wire.Attempt) string { return when(at.StartedAt) }},
		{"TOOK", true, func(at wire.Attempt) string { return took(at.StartedAt, at.FinishedAt) }},
		{"WORKER", false, func(at wire.Attempt) string { return orDash(at.Worker) }},
		{"ERROR", false, func(at wire.Attempt) string { return shorten(failureText(at.Error), 100) }},
	})
}

// recordLines are the names and values of a record that it has.
func recordLines(r *engine.Record) [][2]string {
	lines := [][2]string{
		{"TASK", r.Task},
		{"QUEUE", r.Queue},
		{"STATE", string(r.State)},
		{"RUN", strconv.Itoa(r.Run)},
		{"ATTEMPT", strconv.Itoa(r.Attempt)},
	}
	add := func(name, value string) {
		if value != "" && value != "-" {
			lines = append(lines, [2]string{name, value})
		}
	}
	add("PRIORITY", string(r.Priority))
	add("WORKER", r.Worker)
	add("ORIGIN", r.Origin)
	add("PARENT", r.Parent)
	add("ROOT", r.Root)
	add("QUEUED", when(r.QueuedAt))
	add("DUE", when(r.ETA))
	add("STARTED", when(r.StartedAt))
	add("FINISHED", when(r.FinishedAt))
	add("TOOK", took(r.StartedAt, r.FinishedAt))
	add("PROGRESS", string(r.Progress))
	add("RESULT", string(r.Result))
	add("ERROR", failureText(r.Error))
	return lines
}

func failureText(f *wire.Failure) string {
	if f == nil {
		return ""
	}
	return f.Type + ": " + f.Message
}

// took is how long something lasted.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() || to.Before(from) {
		return "-"
	}
	d := to.Sub(from)
	switch {
	case d >= time.Minute:
		return age(from, to)
	case d >= time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%dµs", d.Microseconds())
}
