package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"pelton/internal/bench"
)

// benchFlags is what a measurement reads of its command line.
type benchFlags struct {
	paths  []string
	rounds int
	tasks  int
	body   int
}

func (a *app) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bench",
		GroupID: groupClients,
		Short:   "Measure Pelton against a bare loop on the NATS client",
		Example: `  pelton bench enqueue
  pelton bench enqueue --paths many`,
	}
	makeGroup(cmd, a.benchEnqueue())
	return cmd
}

func (a *app) benchEnqueue() *cobra.Command {
	cmd := a.benchOf("enqueue", bench.Enqueue())
	cmd.Short = "Measure how fast tasks get into a queue"
	cmd.Long = `Measure how fast tasks get into a queue.

The broker is a process of its own on the loopback, with its files in a
temporary folder; no other broker is touched. In each round a bare loop on
nats.go and Pelton send the same tasks to new queues, one after the other. The
ratio is the median of the ratios of the rounds; figures hold for this machine,
in the state it is in now.`
	cmd.Example = `  pelton bench enqueue
  pelton bench enqueue --paths one,many --rounds 5
  pelton bench enqueue -o jsonl > today.jsonl`
	return cmd
}

// benchOf is a measurement of some paths.
func (a *app) benchOf(name string, paths []bench.Path) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{Use: name, Args: takes()}
	var known []string
	for _, p := range paths {
		known = append(known, p.Name)
	}
	cmd.Flags().StringSliceVar(&f.paths, "paths", nil, "`PATHS` to measure, of "+strings.Join(known, ", ")+"; all unless given")
	cmd.Flags().IntVar(&f.rounds, "rounds", 7, "`NUMBER` of rounds, after one to warm up")
	cmd.Flags().IntVar(&f.tasks, "tasks", 0, "`NUMBER` of tasks in each run; what suits the path unless given")
	cmd.Flags().IntVar(&f.body, "body", 256, "`BYTES` of a task's body")
	show := outputFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runBench(cmd, f, show, paths) }
	return cmd
}

func (a *app) runBench(cmd *cobra.Command, f benchFlags, show *output, paths []bench.Path) error {
	if err := f.check(); err != nil {
		return &usageError{err: err, help: cmd.CommandPath() + " --help"}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg := bench.Config{
		Broker: func(ctx context.Context, folder string, syncAlways bool) *exec.Cmd {
			broker := exec.CommandContext(ctx, self, "bench-broker", "--store", folder, fmt.Sprintf("--sync-always=%v", syncAlways)) //nolint:gosec // this program
			broker.Stderr = a.stderr
			return broker
		},
		Paths: f.paths, Rounds: f.rounds, Tasks: f.tasks, Body: f.body, Version: thisBuild().Version,
		Report: func(r bench.Round) {
			a.say("%s, round %d of %d: pelton %.0f/s, raw %.0f/s, %.2f", r.Path, r.Round, r.Rounds, r.Pelton.Rate, r.Raw.Rate, r.Ratio)
		},
	}
	rounds, err := bench.Measure(cmd.Context(), cfg, paths)
	if err != nil {
		return err
	}
	if show.format != formatTable {
		return list(a.stdout, show, rounds, func(r bench.Round) string { return r.Path }, nil)
	}
	if _, err := fmt.Fprintln(a.stdout, rounds[0].Conditions); err != nil {
		return err
	}
	return list(a.stdout, show, bench.Summarize(rounds), func(s bench.Summary) string { return s.Path }, benchColumns)
}

func (f benchFlags) check() error {
	switch {
	case f.rounds < 1:
		return fmt.Errorf("--rounds must be at least 1, got %d", f.rounds)
	case f.tasks < 0:
		return fmt.Errorf("--tasks must not be negative, got %d", f.tasks)
	case f.body < 2 || f.body > 512<<10:
		return fmt.Errorf("--body must be from 2 to 524288, got %d", f.body)
	}
	return nil
}

var benchColumns = []column[bench.Summary]{
	{"PATH", false, func(s bench.Summary) string { return s.Path }},
	{"PELTON", true, func(s bench.Summary) string { return fmt.Sprintf("%.0f/s", s.Pelton.Rate) }},
	{"RAW", true, func(s bench.Summary) string { return fmt.Sprintf("%.0f/s", s.Raw.Rate) }},
	{"RATIO", true, func(s bench.Summary) string { return fmt.Sprintf("%.2f", s.Ratio) }},
	{"MIN–MAX", true, func(s bench.Summary) string { return fmt.Sprintf("%.2f–%.2f", s.Lowest, s.Highest) }},
	{"CPU/TASK sender+broker", true, func(s bench.Summary) string {
		return fmt.Sprintf("%.1f+%.1fµs", s.Pelton.SenderCPU, s.Pelton.BrokerCPU)
	}},
	{"RAW CPU/TASK", true, func(s bench.Summary) string { return fmt.Sprintf("%.1f+%.1fµs", s.Raw.SenderCPU, s.Raw.BrokerCPU) }},
	{"ALLOCS", true, func(s bench.Summary) string { return fmt.Sprintf("%.1f", s.Pelton.Allocations) }},
	{"B/TASK", true, func(s bench.Summary) string { return fmt.Sprintf("%.0f", s.Pelton.Bytes) }},
}

// benchBroker is the process of the broker that a measurement starts.
func (a *app) benchBroker() *cobra.Command {
	var folder string
	var syncAlways bool
	cmd := &cobra.Command{
		Use:    "bench-broker",
		Hidden: true,
		Args:   takes(),
		Short:  "Serve a measurement as its broker, until standard input ends",
		Example: `  pelton bench-broker --store /tmp/bench
  pelton bench-broker --store /tmp/bench --sync-always`,
	}
	cmd.Flags().StringVar(&folder, "store", "", "`FOLDER` of the broker's files")
	cmd.Flags().BoolVar(&syncAlways, "sync-always", false, "force every write to disk")
	cmd.RunE = func(*cobra.Command, []string) error {
		return bench.ServeBroker(a.stdin, a.stdout, folder, syncAlways)
	}
	return cmd
}
