package kafka

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka/kafkatest"
)

func TestClientLog(t *testing.T) {
	var journal kafkatest.Journal
	watch := &watch{logger: journal.Logger()}
	log := &clientLog{logger: journal.Logger(), watch: watch}

	log.Log(kgo.LogLevelWarn, "unable to commit", "err", errors.New("x"))
	log.Log(kgo.LogLevelError, "a bug", "n", 1)
	log.Log(kgo.LogLevelInfo, "not wanted")
	log.Log(kgo.LogLevelWarn, "connection lost", "broker", 1, "err", io.EOF)

	// While the brokers are away, only the watch speaks.
	watch.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, nil)
	for range goneAfter + 2 {
		watch.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, io.EOF)
		log.Log(kgo.LogLevelError, "group manage loop errored")
	}
	watch.OnBrokerRead(kgo.BrokerMetadata{}, 0, 0, 0, 0, nil)
	log.Log(kgo.LogLevelWarn, "after")

	want := []string{
		"WARN kafka client", "ERROR kafka client",
		"ERROR kafka client", "ERROR kafka client", // before the brokers count as gone
		"WARN kafka unreachable", "INFO kafka reachable again", "WARN kafka client",
	}
	if got := journal.Lines(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// One broker of several that restarts is the cluster's affair.
func TestWatchNeedsFailuresInARow(t *testing.T) {
	var journal kafkatest.Journal
	watch := &watch{logger: journal.Logger()}
	for range 3 * goneAfter { // before the first connection
		watch.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, io.EOF)
	}
	for range 10 {
		for range goneAfter - 1 {
			watch.OnBrokerRead(kgo.BrokerMetadata{NodeID: 1}, 0, 0, 0, 0, nil)
			watch.OnBrokerConnect(kgo.BrokerMetadata{NodeID: 2}, 0, nil, io.EOF)
		}
	}
	for range 2 * goneAfter { // a client that is closed while it connects
		watch.OnBrokerRead(kgo.BrokerMetadata{}, 0, 0, 0, 0, nil)
		watch.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, kgo.ErrClientClosed)
	}
	if got := journal.Lines(); len(got) > 0 {
		t.Errorf("log %q", got)
	}
}
