package kafka

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/internal/kafka/kafkatest"
)

// An edge is to go on within 5 seconds of the brokers' return, however long
// they were away.
func TestResumesAfterOutage(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 30 * time.Second, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { resumesAfter(t, away) })
		})
	}
}

func resumesAfter(t *testing.T, away time.Duration) {
	t.Helper()
	var network kfake.VirtualNetwork
	kafkatest.Start(t, kfake.Ports(9092), kfake.ListenFn(network.Listen), kfake.SeedTopics(2, "in", "out"))
	link := kafkatest.NewLink(network.DialContext)
	var journal kafkatest.Journal

	cl, err := New(Config{Dial: link.Dial, Logger: journal.Logger()},
		kgo.ConsumeTopics("in"), kgo.ConsumerGroup("g"), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	other, err := New(Config{Dial: network.DialContext})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	passThrough(t, cl, other)
	link.Cut()
	<-time.After(away)
	link.Restore()

	start := time.Now()
	passThrough(t, cl, other)
	took := time.Since(start)
	t.Logf("back after %v", took)
	if took > 5*time.Second {
		t.Errorf("back after %v, want at most 5s", took)
	}
	want := []string{"WARN kafka unreachable", "INFO kafka reachable again"}
	if got := journal.Lines(); !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
}

// passThrough lets cl consume a record and produce one.
func passThrough(t *testing.T, cl, other *kgo.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := other.ProduceSync(ctx, &kgo.Record{Topic: "in"}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for received := false; !received; {
		fetches := cl.PollFetches(ctx)
		for _, fe := range fetches.Errors() {
			if class := Classify(fe.Err); class != Unreachable {
				t.Fatalf("poll: %s: %v", class, fe.Err)
			}
		}
		received = fetches.NumRecords() > 0
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "out"}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}
