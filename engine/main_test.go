package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the main of the processes that tests start.
func TestMain(m *testing.M) {
	if url := os.Getenv("PELTON_TEST_WORKER"); url != "" {
		deaths := 1000 // workers are killed here, not by their tasks
		if os.Getenv("PELTON_TEST_POISON") != "" {
			deaths = 2
		}
		os.Exit(workerProcess(url, os.Getenv("PELTON_TEST_ACK_FIRST") != "", deaths))
	}
	if folder := os.Getenv("PELTON_TEST_BROKER"); folder != "" {
		os.Exit(brokerProcess(folder))
	}
	goleak.VerifyTestMain(m)
}

// workerProcess works the default queue until SIGTERM.
func workerProcess(url string, ackFirst bool, deaths int) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := Connect(ctx, url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	defer c.Close()
	w := NewWorker(c, WorkerConfig{
		Queues:      []Queue{{Name: DefaultQueue, Slots: 8}},
		MaxAttempts: 20,
		MaxDeaths:   deaths,
	})
	w.ackFirst = ackFirst
	HandleRaw(w, "toil", func(_ context.Context, m *Message) ([]byte, error) {
		<-time.After(time.Duration(rand.Int64N(int64(30 * time.Millisecond)))) // the work
		if rand.IntN(20) == 0 {
			return nil, RetryIn(time.Duration(rand.Int64N(int64(200*time.Millisecond))), errors.New("bad luck"))
		}
		return m.Body, nil
	})
	HandleRaw(w, "kill", func(context.Context, *Message) ([]byte, error) {
		os.Exit(3)
		return nil, nil
	})
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
