package produce

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka/kafkatest"
)

// inBubble runs a test on a fake clock, with a broker and a line to it. Reading
// goes past the line.
func inBubble(t *testing.T, test func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, past kgo.Opt)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		cluster := start(t, 1, kfake.Ports(9092), kfake.ListenFn(network.Listen))
		test(t, cluster, kafkatest.NewLink(network.DialContext), kgo.Dialer(network.DialContext))
	})
}

func TestInterval(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, past kgo.Opt) {
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Count: 10, Interval: 7 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		var last time.Time
		for i, delivery := range got.all {
			var value record
			if err := json.Unmarshal(delivery.Value, &value); err != nil {
				t.Fatal(err)
			}
			at, err := time.Parse(time.RFC3339Nano, value.Timestamp)
			if err != nil {
				t.Fatal(err)
			}
			// The timestamp is cut to microseconds.
			if gap := at.Sub(last).Round(time.Millisecond); i > 0 && gap != 7*time.Second {
				t.Errorf("message %d after %v", i+1, gap)
			}
			last = at
		}
	})
}

func TestStopWhileWaitingForTheNext(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
		defer cancel()
		begin := time.Now()
		got, err := run(ctx, t, Config{Kafka: Kafka{Dial: link.Dial}, Topic: "t", Interval: time.Minute})
		if err != nil || len(got.all) != 3 {
			t.Errorf("%d messages, %v", len(got.all), err)
		}
		if took := time.Since(begin); took != 150*time.Second {
			t.Errorf("stopped after %v", took)
		}
	})
}

// Messages sent while the brokers are away for a while are delivered when they
// are back, in order and once.
func TestOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, past kgo.Opt) {
		const count = 100
		time.AfterFunc(10*time.Second, link.Cut)
		time.AfterFunc(40*time.Second, link.Restore)
		restored := time.Now().Add(40 * time.Second)
		var resumed time.Time
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Count: count, Interval: time.Second,
			OnDelivery: func(Delivery) {
				if resumed.IsZero() && time.Now().After(restored) {
					resumed = time.Now()
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.all) != count || got.failed() > 0 {
			t.Errorf("%d reports, %d failed", len(got.all), got.failed())
		}
		if late := resumed.Sub(restored); late > 5*time.Second {
			t.Errorf("resumed after %v", late)
		}
		checkNumbered(t, kafkatest.Read(t.Context(), t, "t", count, past), count)
		if written(cluster) != count {
			t.Errorf("%d records", written(cluster))
		}
	})
}

// Where the brokers do not return, every message is reported as lost in time,
// and the producer goes on until it is stopped.
func TestLostMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		time.AfterFunc(4500*time.Millisecond, link.Cut)
		begin := time.Now()
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Count: 10, Interval: time.Second,
			DeliveryTimeout: 30 * time.Second,
		})
		if !errors.Is(err, ErrUndelivered) || !strings.HasPrefix(err.Error(), "5 of 10 messages not delivered: ") {
			t.Errorf("got %v", err)
		}
		if len(got.all) != 10 || got.failed() != 5 || written(cluster) != 5 {
			t.Errorf("%d reports, %d failed, %d written", len(got.all), got.failed(), written(cluster))
		}
		for _, delivery := range got.all[5:] {
			if delivery.Err == nil || delivery.Partition != -1 || delivery.Offset != -1 || delivery.Value == nil {
				t.Errorf("reported %+v", delivery)
			}
		}
		if took := time.Since(begin); took > 45*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A broker that takes a request and never answers leaves the outcome unknown;
// the limits hold all the same.
func TestLostInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		first := true
		cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if first {
				first = false
				return nil, nil, false
			}
			link.Cut() // before the answer can be written
			return nil, nil, false
		})
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Count: 3, Interval: time.Second,
			DeliveryTimeout: 10 * time.Second,
		})
		if !errors.Is(err, ErrUndelivered) {
			t.Errorf("got %v", err)
		}
		if len(got.all) != 3 || got.failed() != 2 {
			t.Errorf("%d reports, %d failed", len(got.all), got.failed())
		}
	})
}

// A stop while the brokers are away waits for the grace and no longer.
func TestStopDuringOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		time.AfterFunc(4500*time.Millisecond, link.Cut)
		ctx, cancel := context.WithTimeout(t.Context(), 20500*time.Millisecond)
		defer cancel()
		begin := time.Now()
		got, err := run(ctx, t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Interval: time.Second, Grace: 3 * time.Second,
		})
		if took := time.Since(begin); took < 23*time.Second || took > 25*time.Second {
			t.Errorf("returned after %v", took)
		}
		want := "16 of 21 messages not delivered: given up 3s after the stop: "
		if !errors.Is(err, ErrUndelivered) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s…", err, want)
		}
		if len(got.all) != 21 || got.failed() != 16 {
			t.Errorf("%d reports, %d failed", len(got.all), got.failed())
		}
	})
}

// A stop while the brokers are away, and they return within the grace.
func TestGraceIsUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, past kgo.Opt) {
		time.AfterFunc(4500*time.Millisecond, link.Cut)
		time.AfterFunc(15*time.Second, link.Restore)
		ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer cancel()
		got, err := run(ctx, t, Config{Kafka: Kafka{Dial: link.Dial}, Topic: "t", Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.all) != 10 || got.failed() > 0 {
			t.Errorf("%d reports, %d failed", len(got.all), got.failed())
		}
		checkNumbered(t, kafkatest.Read(t.Context(), t, "t", 10, past), 10)
	})
}

// While the brokers are away, a fast source is held instead of filling the
// memory.
func TestOutageHoldsTheSource(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		const size = 1 << 20 // a document, so sent as it is
		document := "[" + strings.Repeat(" ", size-2) + "]"
		taken := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := run(ctx, t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", MaxMessageBytes: 2 << 20,
			Source: func(context.Context) iter.Seq2[string, error] {
				return func(yield func(string, error) bool) {
					link.Cut()
					for yield(document, nil) {
						taken++
					}
				}
			},
		})
		if !errors.Is(err, ErrUndelivered) {
			t.Errorf("got %v", err)
		}
		if limit := maxInFlight / size; taken > limit {
			t.Errorf("%d messages of a MiB taken, at most %d fit", taken, limit)
		}
	})
}

// An endless producer does not lose one message after another to a topic that
// is gone.
func TestTopicDeletedMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		var once sync.Once
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Interval: time.Millisecond,
			OnDelivery: func(Delivery) {
				once.Do(func() {
					if err := cluster.DeleteTopic("t"); err != nil {
						t.Error(err)
					}
				})
			},
		})
		if !errors.Is(err, ErrNoTopic) || !errors.Is(err, ErrUndelivered) {
			t.Errorf("got %v", err)
		}
		if got.failed() == 0 || got.failed() == len(got.all) {
			t.Errorf("%d of %d failed", got.failed(), len(got.all))
		}
	})
}

func TestRetriesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, cluster *kfake.Cluster, link *kafkatest.Link, _ kgo.Opt) {
		fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: link.Dial}, Topic: "t", Count: 1, Retries: 2,
		})
		if !errors.Is(err, ErrUndelivered) || !strings.Contains(err.Error(), "NOT_ENOUGH_REPLICAS") {
			t.Errorf("got %v", err)
		}
		if len(got.all) != 1 || fault.Hits() != 3 {
			t.Errorf("%d reports after %d tries, want 3", len(got.all), fault.Hits())
		}
	})
}
