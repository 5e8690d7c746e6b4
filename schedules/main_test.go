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
	goleak.VerifyTestMain(m)
}
