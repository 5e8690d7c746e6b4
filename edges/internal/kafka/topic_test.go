package kafka

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka/kafkatest"
)

func TestCheckTopic(t *testing.T) {
	for _, name := range []string{"a", "commands.dead", "A_b-9", strings.Repeat("x", 249), "..."} {
		if err := CheckTopic(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "a b", "a/b", "é", "a\x00", strings.Repeat("x", 250)} {
		if err := CheckTopic(name); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	if got, want := CheckTopic("a b").Error(), `"a b": must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTopicPartitions(t *testing.T) {
	// Asking must not make the topic, even where the brokers would.
	cluster := kafkatest.Start(t, kfake.SeedTopics(3, "there"), kfake.AllowAutoTopicCreation())
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	if n, err := TopicPartitions(t.Context(), cl, "there"); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for range 2 {
		_, err := TopicPartitions(t.Context(), cl, "x")
		if !errors.Is(err, ErrNoTopic) || err.Error() != `kafka topic "x" does not exist` {
			t.Errorf("got %v", err)
		}
	}
}

func TestTopicErrors(t *testing.T) {
	cluster := kafkatest.Start(t, kfake.SeedTopics(1, "t"))
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Metadata}, Topic: "t", Err: kerr.TopicAuthorizationFailed,
	})
	if _, err := TopicPartitions(t.Context(), cl, "t"); !errors.Is(err, ErrRefused) {
		t.Errorf("%v is not ErrRefused", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	absent := newClient(t, Config{Brokers: []string{freeAddress(t)}})
	if _, err := TopicPartitions(ctx, absent, "t"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v is not ErrUnreachable", err)
	}
	if _, err := EnsureTopic(ctx, absent, TopicSpec{Name: "t"}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v is not ErrUnreachable", err)
	}
}

func TestEnsureTopic(t *testing.T) {
	cluster := kafkatest.Start(t)
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	ledger := TopicSpec{
		Name: "pelton.ledger", Partitions: 4,
		Configs: map[string]string{"cleanup.policy": "compact", "segment.bytes": "1048576"},
	}
	for i, want := range []bool{true, false} {
		created, err := EnsureTopic(t.Context(), cl, ledger)
		if err != nil || created != want {
			t.Fatalf("call %d: created %v, %v", i, created, err)
		}
	}
	if got := len(cluster.PartitionInfos("pelton.ledger")); got != 4 {
		t.Fatalf("%d partitions", got)
	}
	for name, want := range ledger.Configs {
		if got, err := topicConfig(t.Context(), cl, ledger.Name, name); err != nil || got != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if _, err := EnsureTopic(t.Context(), cl, TopicSpec{Name: "plain"}); err != nil {
		t.Fatal(err)
	}
	if n, err := TopicPartitions(t.Context(), cl, "plain"); n != 1 || err != nil {
		t.Errorf("by default %d partitions, %v", n, err)
	}
}

func TestEnsureTopicNamesDifferences(t *testing.T) {
	cluster := kafkatest.Start(t)
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	have := TopicSpec{
		Name: "l", Partitions: 2,
		Configs: map[string]string{"cleanup.policy": "delete", "segment.bytes": "1048576"},
	}
	if _, err := EnsureTopic(t.Context(), cl, have); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		partitions int32
		configs    map[string]string
		want       string
	}{
		{"same", 2, nil, ""},
		{"tuning differs", 2, map[string]string{"segment.bytes": "2097152"}, ""},
		{"policy unnamed", 2, map[string]string{"retention.ms": "1"}, ""},
		{
			"partitions", 3, nil,
			`kafka topic "l" is not as needed: partitions must be 3, got 2`,
		},
		{
			"policy", 2,
			map[string]string{"cleanup.policy": "compact"},
			`kafka topic "l" is not as needed: cleanup.policy must be "compact", got "delete"`,
		},
		{
			"both", 1,
			map[string]string{"cleanup.policy": "compact"},
			`kafka topic "l" is not as needed: partitions must be 1, got 2; cleanup.policy must be "compact", got "delete"`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := TopicSpec{Name: "l", Partitions: tt.partitions, Configs: maps.Clone(tt.configs)}
			created, err := EnsureTopic(t.Context(), cl, spec)
			if created {
				t.Error("created")
			}
			switch {
			case tt.want == "":
				if err != nil {
					t.Error(err)
				}
			case !errors.Is(err, ErrTopicDiffers) || err.Error() != tt.want:
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if n, err := TopicPartitions(t.Context(), cl, "l"); n != 2 || err != nil {
		t.Errorf("changed to %d partitions, %v", n, err)
	}
}

func TestSamePolicies(t *testing.T) {
	if !samePolicies("compact,delete", "delete, compact") {
		t.Error("order matters")
	}
	if samePolicies("compact", "compact,delete") {
		t.Error("a policy more does not matter")
	}
}

// Of several that start at once, one makes the topic and all may use it.
func TestEnsureTopicRace(t *testing.T) {
	cluster := kafkatest.Start(t)
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		created int
	)
	for range 8 {
		wg.Go(func() {
			made, err := EnsureTopic(t.Context(), cl, TopicSpec{Name: "l", Partitions: 2})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if made {
				created++
			}
		})
	}
	wg.Wait()
	if created != 1 {
		t.Errorf("%d say that they made it", created)
	}
}

func TestEnsureTopicRefused(t *testing.T) {
	cluster := kafkatest.Start(t)
	cl := newClient(t, Config{Brokers: cluster.ListenAddrs()})
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if _, err := EnsureTopic(t.Context(), cl, TopicSpec{Name: "l"}); !errors.Is(err, ErrRefused) {
		t.Errorf("%v is not ErrRefused", err)
	}
}

func TestEnsureTopicChecksSpec(t *testing.T) {
	for want, spec := range map[string]TopicSpec{
		`topic: "a b": must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -`: {Name: "a b"},
		`topic "l": partitions: must be at least 1, got -1`:                 {Name: "l", Partitions: -1},
		`topic "l": replication: must be at least 1, got -2`:                {Name: "l", Replication: -2},
	} {
		if _, err := EnsureTopic(t.Context(), nil, spec); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
