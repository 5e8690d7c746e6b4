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

func TestEveryPathOfLater(t *testing.T) {
	for _, p := range Later() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			rounds, err := Measure(ctx, Config{Broker: testBroker, Rounds: 1, Tasks: 70, Body: 64}, []Path{p})
			if err != nil {
				t.Fatal(err)
			}
			if len(rounds) != 1 {
				t.Fatalf("%d rounds", len(rounds))
			}
			r := rounds[0]
			if r.Pelton.Rate <= 0 || r.Raw.Rate <= 0 || r.Pelton.Allocations <= 0 || r.Raw.Bytes <= 0 || r.Ratio <= 0 {
				t.Errorf("%+v", r)
			}
			for _, late := range []*Lateness{r.Pelton.Late, r.Raw.Late} {
				if (late != nil) != p.Due {
					t.Errorf("lateness: %+v", late)
				}
				if late != nil && (late.Least > late.P50 || late.P50 > late.P99 || late.P99 > late.Most || late.Most <= 0) {
					t.Errorf("lateness: %+v", *late)
				}
			}
		})
	}
}

// TestTimetableFindsWhatIsWrong has tasks that run early, twice, and that nobody
// has sent.
func TestTimetableFindsWhatIsWrong(t *testing.T) {
	r := &Run{Tasks: 2, Body: []byte(`"x"`)}
	ran := func(late ...time.Duration) *timetable {
		table := newTimetable(r, 1000)
		for i, by := range late {
			if err := table.runs(table.body(r, i%2), table.due(i%2).Add(by)); err != nil {
				t.Fatal(err)
			}
		}
		return table
	}
	if table := ran(time.Second, 0); table.early() != nil || table.lateness(r) != nil || r.late.Most != 1000 || r.late.Least != 0 {
		t.Errorf("%v, %+v", table.early(), r.late)
	}
	if ran(time.Second, -1).early() == nil {
		t.Error("nobody noticed that a task ran early")
	}
	if ran(0, 0, 0).lateness(r) == nil {
		t.Error("nobody noticed that a task ran twice")
	}
	for _, body := range []string{`""`, `"00000002"`, `"-0000001"`, `"xxxxxxxx"`} {
		if newTimetable(r, 0).runs([]byte(body), time.Now()) == nil {
			t.Errorf("task %s was taken", body)
		}
	}
}

// TestLostTasksAreNoResult has a path that sends less than it says.
func TestLostTasksAreNoResult(t *testing.T) {
	short := func(ctx context.Context, r *Run) error {
		fewer := *r
		fewer.Tasks--
		return sendOne(ctx, &fewer)
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
