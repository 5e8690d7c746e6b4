package ledger

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	ignored := []goleak.Option{
		// A server that is stopped while a batch is open may forget its store.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
	goleak.VerifyTestMain(patient{m, ignored}, ignored...)
}

// patient gives what is on its way to its end more time than goleak does, half a
// second.
type patient struct {
	*testing.M
	ignored []goleak.Option
}

func (p patient) Run() int {
	code := p.M.Run()
	for range 40 {
		if goleak.Find(p.ignored...) == nil {
			break
		}
	}
	return code
}
