package ledger

import (
	"testing"

	"go.uber.org/goleak"

	"pelton/engine/enginetest"
)

func TestMain(m *testing.M) {
	ignored := []goleak.Option{
		// A server that is stopped while a batch is open may forget its store.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
	goleak.VerifyTestMain(enginetest.Patient{M: m, Leaks: func() error { return goleak.Find(ignored...) }}, ignored...)
}
