package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"pelton/engine"
)

func TestClosedConnectionEndsTheWorker(t *testing.T) {
	s := newSystem(t)
	c := s.connect()
	w := engine.NewWorker(c, engine.WorkerConfig{})
	running := make(chan struct{})
	engine.HandleRaw(w, "wait", func(ctx context.Context, _ *engine.Message) ([]byte, error) {
		close(running)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ended := make(chan error, 1)
	go func() { ended <- w.Run(s.ctx()) }()
	if _, err := s.client.SendRaw(s.ctx(), "default", "wait", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	<-running
	c.Conn().Close()
	if err := <-ended; !errors.Is(err, engine.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestConnectErrorsKeepSecrets(t *testing.T) {
	for _, url := range []string{
		"nats://canary@127.0.0.1:1", "nats://user:canary@127.0.0.1:1", "nats://canary@127.0.0.1:1,nats://u:canary@127.0.0.1:2", "nats://canary@[::1:x",
	} {
		_, err := engine.Connect(t.Context(), url)
		if !errors.Is(err, engine.ErrUnreachable) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v", err)
		}
	}
}
