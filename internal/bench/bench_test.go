package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the main of the broker's process.
func TestMain(m *testing.M) {
	if folder := os.Getenv("PELTON_TEST_BROKER"); folder != "" {
		if err := ServeBroker(os.Stdin, os.Stdout, folder, os.Getenv("PELTON_TEST_SYNC") != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func testBroker(ctx context.Context, folder string, syncAlways bool) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "PELTON_TEST_BROKER="+folder)
	if syncAlways {
		cmd.Env = append(cmd.Env, "PELTON_TEST_SYNC=1")
	}
	cmd.Stderr = os.Stderr
	return cmd
}

func TestEveryPathOfEnqueue(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	reported := 0
	rounds, err := Measure(ctx, Config{Broker: testBroker, Rounds: 2, Tasks: 300, Body: 64, Report: func(Round) { reported++ }}, Enqueue())
	if err != nil {
		t.Fatal(err)
	}
	if reported != 2*len(Enqueue()) || len(rounds) != reported {
		t.Errorf("%d rounds, %d reported", len(rounds), reported)
	}
	for i, r := range rounds {
		if r.Pelton.Rate <= 0 || r.Raw.Rate <= 0 || r.Pelton.Allocations <= 0 || r.Raw.Bytes <= 0 || r.Ratio <= 0 {
			t.Errorf("%+v", r)
		}
		if want := []string{"pelton", "raw"}[i%2]; r.First != want {
			t.Errorf("round %d of %s: %s began, want %s", r.Round, r.Path, r.First, want)
		}
	}
	if lines := Summarize(rounds); len(lines) != len(Enqueue()) {
		t.Errorf("%d lines", len(lines))
	}
}

// TestLostTasksAreNoResult has a path that sends less than it says.
func TestLostTasksAreNoResult(t *testing.T) {
	short := func(ctx context.Context, r *Run) error {
		r.Tasks--
		return sendOne(ctx, r)
	}
	_, err := Measure(t.Context(), Config{Broker: testBroker, Rounds: 1, Tasks: 10, Body: 2}, []Path{{Name: "short", Raw: rawOne, Pelton: short}})
	if err == nil {
		t.Error("nobody noticed")
	}
}

func TestUnknownPath(t *testing.T) {
	if _, err := Measure(t.Context(), Config{Paths: []string{"nope"}}, Enqueue()); !errors.Is(err, ErrNoPath) {
		t.Errorf("%v", err)
	}
}

func TestMedianOfRatios(t *testing.T) {
	for _, test := range []struct {
		ratios []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		var rounds []Round
		for _, ratio := range test.ratios {
			rounds = append(rounds, Round{Path: "p", Ratio: ratio})
		}
		if got := Summarize(rounds); len(got) != 1 || got[0].Ratio != test.want || got[0].Lowest != min(test.ratios[0], 1) && got[0].Lowest != test.want {
			t.Errorf("%v: %+v", test.ratios, got)
		}
	}
}
