package main

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/enginetest"
)

// TestMain is also the main of the example, run as the process it is.
func TestMain(m *testing.M) {
	if os.Getenv("PELTON_EXAMPLE") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestHello(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.Setup("default")
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), "PELTON_EXAMPLE=1", "NATS_URL="+broker.URL())
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	c, err := engine.Connect(ctx, broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	greeting, err := Greet.Send(ctx, c, "world")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := greeting.Wait(ctx); err != nil || got != "hello, world" {
		t.Errorf("%q, %v", got, err)
	}
}
