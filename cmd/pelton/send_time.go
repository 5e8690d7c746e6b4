package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/wire"
)

// timeFlags are what send reads of its command line about when a task runs.
type timeFlags struct {
	in, at, expires string
	priority        string
	backoff         string
	attemptTimeout  string
	tracked         bool
}

func addTimeFlags(cmd *cobra.Command) *timeFlags {
	f := &timeFlags{}
	cmd.Flags().StringVar(&f.in, "in", "", "`DURATION` before which it does not run, as 5m")
	cmd.Flags().StringVar(&f.at, "at", "", "`TIME` before which it does not run, as 2026-11-22T22:29:10Z")
	cmd.Flags().StringVar(&f.expires, "expires", "", "`TIME` or duration after which it does not run any more")
	cmd.Flags().StringVar(&f.priority, "priority", "", "`LANE` of the queue: high or low")
	cmd.Flags().StringVar(&f.backoff, "backoff", "", "`WAITS` between attempts: 1s..10m, 5s, or 1s,5s,1m")
	cmd.Flags().StringVar(&f.attemptTimeout, "attempt-timeout", "", "`DURATION` of one attempt at most")
	cmd.Flags().BoolVar(&f.tracked, "tracked", false, "write a record at once for a task that waits for its time")
	return f
}

// options are those that were given. The times count from now.
func (f *timeFlags) options(cmd *cobra.Command, now time.Time) ([]engine.SendOption, error) {
	given := cmd.Flags().Changed
	if given("in") && given("at") {
		return nil, errors.New("--in and --at are two ways to say one thing: give one")
	}
	var opts []engine.SendOption
	for _, flag := range []struct {
		name string
		read func() (engine.SendOption, error)
	}{
		{"in", func() (engine.SendOption, error) {
			d, err := wire.ParseDuration("--in", f.in)
			return engine.WithCountdown(d), err
		}},
		{"at", func() (engine.SendOption, error) {
			t, err := wire.ParseTime("--at", f.at, now)
			return engine.WithETA(t), err
		}},
		{"expires", func() (engine.SendOption, error) {
			t, err := wire.ParseInstant("--expires", f.expires, now)
			return engine.WithExpires(t), err
		}},
		{"priority", func() (engine.SendOption, error) {
			if f.priority != string(wire.PriorityHigh) && f.priority != string(wire.PriorityLow) {
				return nil, &wire.NameError{Field: "--priority", Value: f.priority, Rule: "must be high or low"}
			}
			return engine.WithPriority(wire.Priority(f.priority)), nil
		}},
		{"backoff", func() (engine.SendOption, error) { return backoffOption(f.backoff) }},
		{"attempt-timeout", func() (engine.SendOption, error) {
			d, err := wire.ParseDuration("--attempt-timeout", f.attemptTimeout)
			return engine.WithTimeout(d), err
		}},
	} {
		if !given(flag.name) {
			continue
		}
		opt, err := flag.read()
		if err != nil {
			return nil, err
		}
		opts = append(opts, opt)
	}
	if f.tracked {
		opts = append(opts, engine.WithTracked())
	}
	return opts, nil
}

func backoffOption(text string) (engine.SendOption, error) {
	bounds, waits, err := wire.ParseRetry(text)
	if err != nil {
		return nil, fmt.Errorf("--backoff: %w", err)
	}
	if waits != "" {
		return engine.WithRetryWaits(waits.All()...), nil
	}
	return engine.WithBackoff(bounds.Min, bounds.Max), nil
}
