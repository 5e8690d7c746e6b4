package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// visibleWithin bounds the wait until a topic just made is known to every
// broker; a cluster under load takes seconds.
const visibleWithin = 15 * time.Second

// cleanupPolicy is the one setting of a topic that decides whether records are
// lost, so the one that is verified.
const cleanupPolicy = "cleanup.policy"

// CheckTopic reports whether name may be the name of a topic: 1 to 249 of the
// characters a-z, A-Z, 0-9, dot, underscore and hyphen, but not . or .. alone.
// The error holds the value and the rule; the caller adds the key.
func CheckTopic(name string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	illegal := strings.IndexFunc(name, func(r rune) bool { return !legal(r) }) >= 0
	if name == "" || len(name) > 249 || name == "." || name == ".." || illegal {
		return fmt.Errorf("%q: must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -", name)
	}
	return nil
}

// TopicPartitions returns how many partitions the topic has. The error wraps
// [ErrNoTopic] where there is none; the topic is not created by asking, whatever
// the brokers allow.
func TopicPartitions(ctx context.Context, cl *kgo.Client, topic string) (int, error) {
	req := kmsg.NewPtrMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = &topic
	req.Topics = append(req.Topics, asked)

	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, explain(cl, err)
	}
	for _, got := range resp.Topics {
		if got.Topic == nil || *got.Topic != topic {
			continue
		}
		if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
			return 0, topicError(topic, err)
		}
		return len(got.Partitions), nil
	}
	return 0, topicError(topic, kerr.UnknownTopicOrPartition)
}

func topicError(topic string, err error) error {
	switch Classify(err) {
	case NoTopic:
		return fmt.Errorf("kafka topic %q %w", topic, ErrNoTopic)
	case Auth:
		return fmt.Errorf("kafka topic %q: %w: %w", topic, ErrRefused, err)
	default:
		return fmt.Errorf("kafka topic %q: %w", topic, err)
	}
}

// TopicSpec describes a topic that an edge owns.
type TopicSpec struct {
	Name string
	// Partitions is 1 unless set.
	Partitions int32
	// Replication is how many copies are kept; the cluster's default unless
	// set.
	Replication int16
	// Configs are the topic's settings by Kafka's names, such as
	// cleanup.policy. They apply when the topic is made. Of a topic that
	// exists, only cleanup.policy is compared; the others are tuning, and the
	// operator's.
	Configs map[string]string
}

// EnsureTopic makes the topic, or verifies the one that exists: the same number
// of partitions, and the same cleanup.policy where spec names one. It changes no
// existing topic. A difference wraps [ErrTopicDiffers] and names the field with
// the wanted and the actual value. After it has returned without an error, the
// topic can be used; created says whether this call made it.
func EnsureTopic(ctx context.Context, cl *kgo.Client, spec TopicSpec) (created bool, err error) {
	if err := CheckTopic(spec.Name); err != nil {
		return false, fmt.Errorf("topic: %w", err)
	}
	if spec.Partitions < 0 {
		return false, fmt.Errorf("topic %q: partitions: must be at least 1, got %d", spec.Name, spec.Partitions)
	}
	if spec.Replication < 0 {
		return false, fmt.Errorf("topic %q: replication: must be at least 1, got %d", spec.Name, spec.Replication)
	}
	if spec.Partitions == 0 {
		spec.Partitions = 1
	}

	_, err = TopicPartitions(ctx, cl, spec.Name)
	if errors.Is(err, ErrNoTopic) {
		created, err = createTopic(ctx, cl, spec)
	}
	if err != nil {
		return false, err
	}
	return created, verifyTopic(ctx, cl, spec)
}

// createTopic returns false where another was faster.
func createTopic(ctx context.Context, cl *kgo.Client, spec TopicSpec) (bool, error) {
	replication := spec.Replication
	if replication == 0 {
		replication = -1
	}
	configs := make(map[string]*string, len(spec.Configs))
	for name, value := range spec.Configs {
		configs[name] = &value
	}
	resp, err := kadm.NewClient(cl).CreateTopic(ctx, spec.Partitions, replication, configs, spec.Name)
	created := err == nil
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		if resp.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
		}
		return false, fmt.Errorf("create: %w", topicError(spec.Name, err))
	}
	return created, waitVisible(ctx, cl, spec.Name)
}

// waitVisible waits for the brokers to learn of a topic: one of them has made
// it, and another may be asked next.
func waitVisible(ctx context.Context, cl *kgo.Client, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, visibleWithin)
	defer cancel()
	for failures := 1; ; failures++ {
		_, err := TopicPartitions(ctx, cl, topic)
		if !errors.Is(err, ErrNoTopic) {
			return err
		}
		if stopped := pause(ctx, backoff(failures)); stopped != nil {
			return fmt.Errorf("%w: %w", err, stopped)
		}
	}
}

func verifyTopic(ctx context.Context, cl *kgo.Client, spec TopicSpec) error {
	var differences []string
	partitions, err := TopicPartitions(ctx, cl, spec.Name)
	if err != nil {
		return err
	}
	if partitions != int(spec.Partitions) {
		differences = append(differences, fmt.Sprintf("partitions must be %d, got %d", spec.Partitions, partitions))
	}
	if want, ok := spec.Configs[cleanupPolicy]; ok {
		got, err := topicConfig(ctx, cl, spec.Name, cleanupPolicy)
		if err != nil {
			return err
		}
		if !samePolicies(want, got) {
			differences = append(differences, fmt.Sprintf("%s must be %q, got %q", cleanupPolicy, want, got))
		}
	}
	if len(differences) > 0 {
		return fmt.Errorf("kafka topic %q %w: %s", spec.Name, ErrTopicDiffers, strings.Join(differences, "; "))
	}
	return nil
}

func topicConfig(ctx context.Context, cl *kgo.Client, topic, name string) (string, error) {
	described, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return "", topicError(topic, err)
	}
	resource, err := described.On(topic, nil)
	if err == nil {
		err = resource.Err
	}
	if err != nil {
		return "", topicError(topic, err)
	}
	for _, config := range resource.Configs {
		if config.Key == name {
			return config.MaybeValue(), nil
		}
	}
	return "", fmt.Errorf("kafka topic %q: the broker does not tell %s", topic, name)
}

// samePolicies compares two lists of policies, whose order has no meaning.
func samePolicies(a, b string) bool {
	split := func(s string) []string {
		parts := strings.Split(s, ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		slices.Sort(parts)
		return parts
	}
	return slices.Equal(split(a), split(b))
}
