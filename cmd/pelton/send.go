package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/config"
)

// sendFlags is what send reads of its command line.
type sendFlags struct {
	queue       string
	id          string
	maxAttempts int
	headers     []string
	count       int
	lines       bool
	atomic      bool
	noIDs       bool
	waitForRoom bool
	show        *output
	timeout     *time.Duration
	time        *timeFlags
}

func (a *app) send() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:     "send TASK [BODY]",
		Aliases: []string{"enqueue"},
		GroupID: groupClients,
		Short:   "Send a task, or many, and print their ids",
		Long: `Send a task and print its id once the broker has stored it.

BODY is JSON: as it stands, of a file with @FILE, or of standard input with -.
An id of your own makes sending safe to repeat: while a task with that id waits
or runs in its queue, another is refused with exit code 7; while the first waits
for its next attempt, or its record lives, another is taken and dropped.

With --lines each line of standard input, or of BODY, is a task. Lines are sent
as they come; a line that is refused is told on standard error and keeps no
other. With --atomic all are stored, at most a thousand, or none.`,
		Example: `  pelton send print '{"message":"hi"}'
  pelton send add '{"a":2,"b":3}' --queue mail --id sum-1
  pelton send resize @job.json -H customer=42 --max-attempts 3
  pelton send print '{"message":"hi"}' --in 5m --expires 1h
  pelton send resize --lines < jobs.jsonl`,
		Annotations: map[string]string{natsEquivalent: `  nats pub -J pelton.task.default.print '{"message":"hi"}'
  nats pub -J pelton.task.mail.add.sum-1 '{"a":2,"b":3}' -H Nats-Expected-Last-Subject-Sequence:0
  nats pub -J --send-on newline pelton.task.default.resize < jobs.jsonl`},
		Args: func(cmd *cobra.Command, args []string) error {
			if f.lines && len(args) == 1 {
				return nil
			}
			return takes("TASK", "BODY")(cmd, args)
		},
	}
	cmd.Flags().StringVar(&f.queue, "queue", engine.DefaultQueue, "`QUEUE` to send to")
	cmd.Flags().StringVar(&f.id, "id", "", "`ID` of the task")
	cmd.Flags().IntVar(&f.maxAttempts, "max-attempts", 0, "`NUMBER` of attempts, the first included")
	cmd.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "header `NAME=VALUE` for the handler")
	cmd.Flags().IntVar(&f.count, "count", 1, "`NUMBER` of times to send it")
	cmd.Flags().BoolVar(&f.lines, "lines", false, "send each line as a task")
	cmd.Flags().BoolVar(&f.atomic, "atomic", false, "store all tasks or none, at most 1000")
	cmd.Flags().BoolVar(&f.noIDs, "no-ids", false, "print nothing: many are sent about twice as fast")
	cmd.Flags().BoolVar(&f.waitForRoom, "wait-for-room", false, "wait where the queue is full, as long as --timeout")
	f.show = outputFlags(cmd)
	f.timeout = timeoutFlag(cmd, 10*time.Second, "`DURATION` in which the broker must answer")
	f.time = addTimeFlags(cmd)
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runSend(cmd, f, args) }
	return cmd
}

func (a *app) runSend(cmd *cobra.Command, f sendFlags, args []string) error {
	cfg, err := a.settings(cmd, config.PartNone)
	if err != nil {
		return err
	}
	opts, err := f.options(cmd)
	if err != nil {
		return &usageError{err: err, help: cmd.CommandPath() + " --help"}
	}
	if f.lines {
		return a.sendLines(cmd, cfg, f, args, opts)
	}
	body, err := a.body(args[1])
	if err != nil {
		return &usageError{err: err}
	}
	return a.ask(cmd, cfg, *f.timeout, func(ctx context.Context, c *engine.Client) error {
		out := a.sentOutput(f)
		if f.count == 1 && !f.atomic {
			r, err := c.SendRaw(ctx, f.queue, args[0], body, opts...)
			if err != nil {
				return err
			}
			return errors.Join(out.add(sent{Line: 1, ID: r.ID()}), out.end())
		}
		return a.sendCount(ctx, c, f, args[0], body, opts, out)
	})
}

func (f sendFlags) options(cmd *cobra.Command) ([]engine.SendOption, error) {
	opts, err := f.time.options(cmd, time.Now())
	named := cmd.Flags().Changed("id") // an empty one too: a script's variable may not be set
	switch {
	case err != nil:
		return nil, err
	case f.count < 1:
		return nil, fmt.Errorf("--count must be at least 1, got %d", f.count)
	case f.lines && cmd.Flags().Changed("count"):
		return nil, errors.New("--count and --lines exclude each other")
	case f.atomic && f.count > 1000:
		return nil, fmt.Errorf("--atomic takes at most 1000 tasks, got --count %d", f.count)
	case named && (f.lines || f.atomic):
		return nil, errors.New("--id is for one task, --lines and --atomic for several")
	case named && f.count > 1:
		return nil, errors.New("--id is for one task, --count for several")
	case named:
		opts = append(opts, engine.WithID(f.id))
	}
	if f.waitForRoom {
		opts = append(opts, engine.WithWaitForRoom())
	}
	switch {
	case f.atomic:
		opts = append(opts, engine.WithAtomic())
	case !f.noIDs && (f.lines || f.count > 1):
		opts = append(opts, engine.WithAllIDs())
	}
	if cmd.Flags().Changed("max-attempts") {
		opts = append(opts, engine.WithMaxAttempts(f.maxAttempts))
	}
	for _, header := range f.headers {
		name, value, err := parseHeader(header)
		if err != nil {
			return nil, err
		}
		opts = append(opts, engine.WithHeader(name, value))
	}
	return opts, nil
}

// body reads an argument that is JSON, @FILE or -.
func (a *app) body(arg string) ([]byte, error) {
	body := []byte(arg)
	var err error
	if name, isFile := strings.CutPrefix(arg, "@"); isFile || arg == "-" {
		body, err = a.file(name)
	}
	if err != nil {
		return nil, err
	}
	body = bytes.TrimSpace(body)
	err = wire.DefaultLimits.CheckJSON(body)
	if err != nil && len(body) > 0 && len(body) < 200 && !json.Valid(body) {
		err = fmt.Errorf("%w; a text needs quotes: '%s'", err, quoted(string(body)))
	}
	return body, err
}

// file reads a file, or standard input where it is -.
func (a *app) file(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.stdin)
	}
	return os.ReadFile(name)
}

// quoted is a text as JSON.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}
