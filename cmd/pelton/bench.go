package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
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

	cpuProfile string
}

func (a *app) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bench",
		GroupID: groupClients,
		Short:   "Measure Pelton against a bare loop on the NATS client",
		Example: `  pelton bench enqueue
  pelton bench eta --paths due-1000`,
	}
	makeGroup(cmd, a.benchEnqueue(), a.benchETA())
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

func (a *app) benchETA() *cobra.Command {
	cmd := a.benchOf("eta", bench.Later())
	cmd.Short = "Measure tasks with a time ahead: how fast they are sent, how late they run"
	cmd.Long = `Measure tasks with a time ahead: how fast they are sent, how late they run.

The first paths send tasks that are due tomorrow; raw publishes the same
schedules, with the same headers. The due paths send tasks that are due within
seconds and run them: Pelton by a worker of 16 slots that keeps records, raw by
a bare loop that holds each task with a timer and acks it. Lateness counts from
the time a task was sent for to the start of its handler, and its ratio is that
of the 99th percentiles; the measurement ends with an error if Pelton runs a
task before its time. See pelton bench enqueue --help for the rest.`
	cmd.Example = `  pelton bench eta
  pelton bench eta --paths due-400,due-1000,due-at-once
  pelton bench eta --paths many --rounds 5 --cpu-profile many.pprof`
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
	cmd.Flags().StringVar(&f.cpuProfile, "cpu-profile", "", "`FILE` to write a processor profile to; its samples are labelled with path and side (go tool pprof -tagfocus side=pelton FILE)")
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
		Report: func(r bench.Round) { a.say("%s, round %d of %d: %s", r.Path, r.Round, r.Rounds, outcome(r)) },
	}
	rounds, err := measured(cmd.Context(), f, cfg, paths)
	if err != nil {
		return err
	}
	if show.format != formatTable {
		return list(a.stdout, show, rounds, func(r bench.Round) string { return r.Path }, nil)
	}
	return a.showBench(show, rounds)
}

// measured are the rounds, with a profile of them where one is asked for.
func measured(ctx context.Context, f benchFlags, cfg bench.Config, paths []bench.Path) (rounds []bench.Round, err error) {
	if f.cpuProfile == "" {
		return bench.Measure(ctx, cfg, paths)
	}
	file, err := os.Create(f.cpuProfile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	defer pprof.StopCPUProfile()
	return bench.Measure(ctx, cfg, paths)
}

// outcome of a round, in a few words.
func outcome(r bench.Round) string {
	if r.Pelton.Late != nil {
		return fmt.Sprintf("pelton %s ms late, raw %s ms, %.2f", lateness(r.Pelton.Late), lateness(r.Raw.Late), r.Ratio)
	}
	return fmt.Sprintf("pelton %.0f/s, raw %.0f/s, %.2f", r.Pelton.Rate, r.Raw.Rate, r.Ratio)
}

// showBench writes a table of rates and one of lateness, each under the
// conditions it was measured in.
func (a *app) showBench(show *output, rounds []bench.Round) error {
	for _, kind := range []struct {
		late    bool
		columns []column[bench.Summary]
	}{{false, benchColumns}, {true, lateColumns}} {
		of := slices.DeleteFunc(slices.Clone(rounds), func(r bench.Round) bool { return (r.Pelton.Late != nil) != kind.late })
		if len(of) == 0 {
			continue
		}
		if _, err := fmt.Fprintln(a.stdout, of[0].Conditions); err != nil {
			return err
		}
		if err := list(a.stdout, show, bench.Summarize(of), func(s bench.Summary) string { return s.Path }, kind.columns); err != nil {
			return err
		}
	}
	return nil
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

var lateColumns = []column[bench.Summary]{
	{"PATH", false, func(s bench.Summary) string { return s.Path }},
	{"TASKS", true, func(s bench.Summary) string { return strconv.Itoa(s.Tasks) }},
	{"PELTON p50/p99/max ms", true, func(s bench.Summary) string { return lateness(s.Pelton.Late) }},
	{"RAW", true, func(s bench.Summary) string { return lateness(s.Raw.Late) }},
	{"RATIO p50", true, func(s bench.Summary) string { return fmt.Sprintf("%.2f", s.RatioP50) }},
	{"p99", true, func(s bench.Summary) string { return fmt.Sprintf("%.2f", s.Ratio) }},
	{"MIN–MAX", true, func(s bench.Summary) string { return fmt.Sprintf("%.2f–%.2f", s.Lowest, s.Highest) }},
	{"CPU/TASK worker+broker", true, func(s bench.Summary) string {
		return fmt.Sprintf("%.1f+%.1fµs", s.Pelton.SenderCPU, s.Pelton.BrokerCPU)
	}},
	{"RAW CPU/TASK", true, func(s bench.Summary) string { return fmt.Sprintf("%.1f+%.1fµs", s.Raw.SenderCPU, s.Raw.BrokerCPU) }},
	{"ALLOCS", true, func(s bench.Summary) string { return fmt.Sprintf("%.1f", s.Pelton.Allocations) }},
	{"B/TASK", true, func(s bench.Summary) string { return fmt.Sprintf("%.0f", s.Pelton.Bytes) }},
}

func lateness(l *bench.Lateness) string { return fmt.Sprintf("%.1f/%.1f/%.1f", l.P50, l.P99, l.Most) }

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
