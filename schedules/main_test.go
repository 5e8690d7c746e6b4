package schedules

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the main of a beat that runs as a process of its own.
func TestMain(m *testing.M) {
	if replica := os.Getenv(replicaVariable); replica != "" {
		runReplica(replica)
		return
	}
	// A server that is stopped while a batch is open may forget its store.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*msgBlock).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}
