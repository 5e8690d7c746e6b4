package topology

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// field is a field of a stream's or a consumer's configuration that Pelton
// manages. Fields without an entry below are the operator's.
type field[C any] struct {
	name     string                   // as the broker's API spells it
	contract func(Kind) bool          // for which kinds of streams it is one, not a setting
	text     func(*C) string          // its value; equal texts are equal values
	copy     func(to, from *C)        // sets it
	fixed    func(have, want *C) bool // the broker refuses this change
}

func always(Kind) bool { return true }
func never(Kind) bool  { return false }

func on(kinds ...Kind) func(Kind) bool {
	return func(k Kind) bool { return slices.Contains(kinds, k) }
}

// at is a field that the broker lets anybody change.
func at[C, T any](name string, contract func(Kind) bool, p func(*C) *T) field[C] {
	return fixedAt(name, contract, p, func(T, T) bool { return false })
}

// fixedAt is a field some of whose changes the broker refuses.
func fixedAt[C, T any](name string, contract func(Kind) bool, p func(*C) *T, fixed func(have, want T) bool) field[C] {
	return field[C]{
		name:     name,
		contract: contract,
		text:     func(c *C) string { return text(*p(c)) },
		copy:     func(to, from *C) { *p(to) = *p(from) },
		fixed:    func(have, want *C) bool { return fixed(*p(have), *p(want)) },
	}
}

func anyChange[T any](T, T) bool     { return true }
func turnedOff(have, want bool) bool { return have && !want }

// toOrFromWorkQueue: the other retention policies change into each other.
func toOrFromWorkQueue(have, want jetstream.RetentionPolicy) bool {
	return have == jetstream.WorkQueuePolicy || want == jetstream.WorkQueuePolicy
}

type (
	streamConfig   = jetstream.StreamConfig
	consumerConfig = jetstream.ConsumerConfig
)

var streamFields = []field[streamConfig]{
	at("subjects", always, func(c *streamConfig) *[]string { return &c.Subjects }),
	fixedAt("retention", always, func(c *streamConfig) *jetstream.RetentionPolicy { return &c.Retention }, toOrFromWorkQueue),
	fixedAt("storage", always, func(c *streamConfig) *jetstream.StorageType { return &c.Storage }, anyChange),
	fixedAt("persist_mode", always, func(c *streamConfig) *jetstream.PersistModeType { return &c.PersistMode }, anyChange),
	at("discard", always, func(c *streamConfig) *jetstream.DiscardPolicy { return &c.Discard }),
	at("discard_new_per_subject", always, func(c *streamConfig) *bool { return &c.DiscardNewPerSubject }),
	at("max_msgs_per_subject", always, func(c *streamConfig) *int64 { return &c.MaxMsgsPerSubject }),
	at("max_msgs", on(Later), func(c *streamConfig) *int64 { return &c.MaxMsgs }),
	at("max_bytes", on(Later), func(c *streamConfig) *int64 { return &c.MaxBytes }),
	at("max_age", on(Tasks, Later, Schedules), func(c *streamConfig) *time.Duration { return &c.MaxAge }),
	at("duplicate_window", on(Tasks), func(c *streamConfig) *time.Duration { return &c.Duplicates }),
	at("num_replicas", never, func(c *streamConfig) *int { return &c.Replicas }),
	at("no_ack", always, func(c *streamConfig) *bool { return &c.NoAck }),
	at("mirror", always, func(c *streamConfig) **jetstream.StreamSource { return &c.Mirror }),
	at("sources", always, func(c *streamConfig) *[]*jetstream.StreamSource { return &c.Sources }),
	at("subject_transform", always, func(c *streamConfig) **jetstream.SubjectTransformConfig { return &c.SubjectTransform }),
	at("republish", always, func(c *streamConfig) **jetstream.RePublish { return &c.RePublish }),
	at("allow_direct", always, func(c *streamConfig) *bool { return &c.AllowDirect }),
	fixedAt("sealed", always, func(c *streamConfig) *bool { return &c.Sealed }, turnedOff),
	fixedAt("deny_delete", always, func(c *streamConfig) *bool { return &c.DenyDelete }, turnedOff),
	fixedAt("deny_purge", always, func(c *streamConfig) *bool { return &c.DenyPurge }, turnedOff),
	at("allow_rollup_hdrs", always, func(c *streamConfig) *bool { return &c.AllowRollup }),
	fixedAt("allow_msg_ttl", always, func(c *streamConfig) *bool { return &c.AllowMsgTTL }, turnedOff),
	at("subject_delete_marker_ttl", always, func(c *streamConfig) *time.Duration { return &c.SubjectDeleteMarkerTTL }),
	fixedAt("allow_msg_counter", always, func(c *streamConfig) *bool { return &c.AllowMsgCounter }, anyChange),
	fixedAt("allow_msg_schedules", always, func(c *streamConfig) *bool { return &c.AllowMsgSchedules }, turnedOff),
	at("allow_atomic", on(Tasks, Results), func(c *streamConfig) *bool { return &c.AllowAtomicPublish }),
	at("allow_batched", on(Tasks, Results), func(c *streamConfig) *bool { return &c.AllowBatchPublish }),
	// Limits for consumers become the values of those that set none.
	at("consumer_limits.inactive_threshold", always, func(c *streamConfig) *time.Duration { return &c.ConsumerLimits.InactiveThreshold }),
	at("consumer_limits.max_ack_pending", always, func(c *streamConfig) *int { return &c.ConsumerLimits.MaxAckPending }),
}

var consumerFields = []field[consumerConfig]{
	filters,
	fixedAt("deliver_subject", always, func(c *consumerConfig) *string { return &c.DeliverSubject }, anyChange),
	at("deliver_group", always, func(c *consumerConfig) *string { return &c.DeliverGroup }),
	fixedAt("flow_control", always, func(c *consumerConfig) *bool { return &c.FlowControl }, anyChange),
	fixedAt("idle_heartbeat", always, func(c *consumerConfig) *time.Duration { return &c.IdleHeartbeat }, anyChange),
	fixedAt("deliver_policy", always, func(c *consumerConfig) *jetstream.DeliverPolicy { return &c.DeliverPolicy }, anyChange),
	fixedAt("opt_start_seq", always, func(c *consumerConfig) *uint64 { return &c.OptStartSeq }, anyChange),
	fixedAt("opt_start_time", always, func(c *consumerConfig) **time.Time { return &c.OptStartTime }, anyChange),
	fixedAt("ack_policy", always, func(c *consumerConfig) *jetstream.AckPolicy { return &c.AckPolicy }, anyChange),
	fixedAt("replay_policy", always, func(c *consumerConfig) *jetstream.ReplayPolicy { return &c.ReplayPolicy }, anyChange),
	fixedAt("mem_storage", always, func(c *consumerConfig) *bool { return &c.MemoryStorage }, anyChange),
	at("max_deliver", always, func(c *consumerConfig) *int { return &c.MaxDeliver }),
	at("backoff", always, func(c *consumerConfig) *[]time.Duration { return &c.BackOff }),
	at("headers_only", always, func(c *consumerConfig) *bool { return &c.HeadersOnly }),
	at("inactive_threshold", always, func(c *consumerConfig) *time.Duration { return &c.InactiveThreshold }),
	at("max_expires", always, func(c *consumerConfig) *time.Duration { return &c.MaxRequestExpires }),
	at("max_bytes", always, func(c *consumerConfig) *int { return &c.MaxRequestMaxBytes }),
	at("priority_policy", always, func(c *consumerConfig) *jetstream.PriorityPolicy { return &c.PriorityPolicy }),
	at("priority_groups", always, func(c *consumerConfig) *[]string { return &c.PriorityGroups }),
	at("priority_timeout", always, func(c *consumerConfig) *time.Duration { return &c.PinnedTTL }),
	at("ack_wait", never, func(c *consumerConfig) *time.Duration { return &c.AckWait }),
	at("max_ack_pending", never, func(c *consumerConfig) *int { return &c.MaxAckPending }),
	fixedAt("max_waiting", never, func(c *consumerConfig) *int { return &c.MaxWaiting }, anyChange),
	at("num_replicas", never, func(c *consumerConfig) *int { return &c.Replicas }),
}

// filters is one filter or several, which the broker keeps in two places.
var filters = field[consumerConfig]{
	name:     "filter_subject",
	contract: always,
	text: func(c *consumerConfig) string {
		if c.FilterSubject != "" {
			return c.FilterSubject
		}
		return text(c.FilterSubjects)
	},
	copy: func(to, from *consumerConfig) {
		to.FilterSubject, to.FilterSubjects = from.FilterSubject, from.FilterSubjects
	},
	fixed: func(_, _ *consumerConfig) bool { return false },
}

// none is the text of what is not there.
const none = "none"

// text writes a value as the broker's API does, but for durations, which it
// writes as people do, and for lists of names, whose order means nothing.
func text(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return v.String()
	case []time.Duration:
		return list(v, time.Duration.String)
	case []string:
		return list(slices.Sorted(slices.Values(v)), func(s string) string { return s })
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err.Error()
	}
	s := strings.TrimSuffix(b.String(), "\n")
	if plain, err := strconv.Unquote(s); err == nil {
		s = plain
	}
	if s == "" || s == "null" || s == "[]" {
		return none
	}
	return s
}

func list[T any](values []T, write func(T) string) string {
	if len(values) == 0 {
		return none
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = write(v)
	}
	return strings.Join(texts, ", ")
}
