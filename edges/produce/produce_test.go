package produce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"path/filepath"
	"slices"
	"strconv"
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

// deliveries keeps what a producer reports.
type deliveries struct {
	mu  sync.Mutex
	all []Delivery
}

func (d *deliveries) add(delivery Delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, delivery)
}

func (d *deliveries) failed() int {
	n := 0
	for _, delivery := range d.all {
		if delivery.Err != nil {
			n++
		}
	}
	return n
}

// run produces with cfg and returns what was reported.
func run(ctx context.Context, t *testing.T, cfg Config) (*deliveries, error) {
	t.Helper()
	var got deliveries
	report := cfg.OnDelivery
	cfg.OnDelivery = func(delivery Delivery) {
		got.add(delivery)
		if report != nil {
			report(delivery)
		}
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(ctx)
	return &got, err
}

// read returns the first n records of topic t.
func read(t *testing.T, cluster *kfake.Cluster, n int) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return kafkatest.Read(ctx, t, "t", n, kgo.SeedBrokers(cluster.ListenAddrs()...))
}

// written is how many records the topic t holds.
func written(cluster *kfake.Cluster) int {
	n := 0
	for _, partition := range cluster.PartitionInfos("t") {
		n += int(partition.HighWatermark)
	}
	return n
}

func start(t *testing.T, partitions int32, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	return kafkatest.Start(t, append(opts, kfake.SeedTopics(partitions, "t"))...)
}

func TestDefaultMessages(t *testing.T) {
	cluster := start(t, 1)
	before := time.Now()
	got, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Count: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, rec := range read(t, cluster, 3) {
		var value record
		if err := json.Unmarshal(rec.Value, &value); err != nil {
			t.Fatal(err)
		}
		if want := "message " + strconv.Itoa(i+1); value.Content != want {
			t.Errorf("content %q, want %q", value.Content, want)
		}
		at, err := time.Parse(time.RFC3339Nano, value.Timestamp)
		if err != nil || at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("timestamp %q, %v", value.Timestamp, err)
		}
		if rec.Key != nil || len(rec.Headers) > 0 {
			t.Errorf("key %q, headers %v", rec.Key, rec.Headers)
		}
		seen[value.UUID] = true

		want := Delivery{
			Number: i + 1, Topic: "t", Partition: 0, Offset: int64(i),
			Bytes: len(rec.Value),
		}
		delivery := got.all[i]
		if string(delivery.Value) != string(rec.Value) {
			t.Errorf("reported %s, wrote %s", delivery.Value, rec.Value)
		}
		delivery.Value = nil
		if fmt.Sprint(delivery) != fmt.Sprint(want) {
			t.Errorf("reported %+v, want %+v", delivery, want)
		}
	}
	if len(seen) != 3 || len(got.all) != 3 || written(cluster) != 3 {
		t.Errorf("%d ids, %d reports, %d records", len(seen), len(got.all), written(cluster))
	}
}

func TestCountCutsAndDoesNotStretch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		source Source
		count  int
		want   int
	}{
		{"list without count", Literal("a", "b", "c"), 0, 3},
		{"list cut", Literal("a", "b", "c"), 2, 2},
		{"list not stretched", Literal("a", "b", "c"), 9, 3},
		{"cycle", Cycle("a"), 9, 9},
		{"thousands", Default("x"), 5000, 5000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cluster := start(t, 2)
			got, err := run(t.Context(), t, Config{
				Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Source: tt.source, Count: tt.count,
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(got.all) != tt.want || written(cluster) != tt.want {
				t.Errorf("%d reports, %d records, want %d", len(got.all), written(cluster), tt.want)
			}
		})
	}
}

func TestKeyAndHeaders(t *testing.T) {
	cluster := start(t, 8)
	partitionOf := map[string]int32{}
	for _, key := range []string{"a", "b", "c", "a"} {
		got, err := run(t.Context(), t, Config{
			Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Key: key, Count: 20,
			Headers: []Header{{"trace", "1"}, {"empty", ""}, {"trace", "2"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, delivery := range got.all {
			want, known := partitionOf[key]
			if !known {
				partitionOf[key] = delivery.Partition
			} else if delivery.Partition != want {
				t.Errorf("key %s in partitions %d and %d", key, want, delivery.Partition)
			}
			if delivery.Key != key || delivery.Bytes != len(key)+len(delivery.Value) {
				t.Errorf("reported %+v", delivery)
			}
		}
	}
	// Where Kafka's own clients put these keys: murmur2 over 8 partitions.
	if want := map[string]int32{"a": 4, "b": 4, "c": 2}; fmt.Sprint(partitionOf) != fmt.Sprint(want) {
		t.Errorf("partitions %v, want %v", partitionOf, want)
	}
	for _, rec := range read(t, cluster, 80) {
		var headers []string
		for _, header := range rec.Headers {
			headers = append(headers, header.Key+"="+string(header.Value))
		}
		if !slices.Equal(headers, []string{"trace=1", "empty=", "trace=2"}) {
			t.Fatalf("headers %q", headers)
		}
	}
}

func TestWithoutKeyMessagesSpread(t *testing.T) {
	cluster := start(t, 4)
	// More than the client puts into one partition in a row.
	_, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Count: 100,
		Source: Default(strings.Repeat("x", 32<<10)),
	})
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, partition := range cluster.PartitionInfos("t") {
		if partition.HighWatermark > 0 {
			used++
		}
	}
	if used < 2 {
		t.Errorf("%d of 4 partitions used", used)
	}
}

func TestStandardInput(t *testing.T) {
	cluster := start(t, 1)
	input := "hello\n\n{\"a\": 1}\r\n[1,2]\nlast"
	if _, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Source: Lines(strings.NewReader(input)),
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rec := range read(t, cluster, 4) {
		var wrapped record
		if json.Unmarshal(rec.Value, &wrapped) == nil && wrapped.UUID != "" {
			got = append(got, "text:"+wrapped.Content)
			continue
		}
		got = append(got, string(rec.Value))
	}
	if want := []string{"text:hello", `{"a": 1}`, "[1,2]", "text:last"}; !slices.Equal(got, want) {
		t.Errorf("wrote %q, want %q", got, want)
	}
}

func TestTooLongLine(t *testing.T) {
	cluster := start(t, 1)
	input := "first\n" + strings.Repeat("x", 2<<20) + "\nthird\n"
	got, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Source: Lines(strings.NewReader(input)),
	})
	if want := "line 2: must have at most 1048576 bytes"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if len(got.all) != 1 || got.failed() > 0 {
		t.Errorf("the line before was not delivered: %+v", got.all)
	}
}

// A message beyond the limit is lost alone.
func TestTooLargeMessage(t *testing.T) {
	cluster := start(t, 1)
	got, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t",
		Source: Literal("a", strings.Repeat("x", 1<<20), "c"),
	})
	if !errors.Is(err, ErrUndelivered) || !strings.HasPrefix(err.Error(), "1 of 3 messages not delivered: MESSAGE_TOO_LARGE") {
		t.Errorf("got %v", err)
	}
	if len(got.all) != 3 || got.failed() != 1 || written(cluster) != 2 {
		t.Errorf("%d reports, %d failed, %d written", len(got.all), got.failed(), written(cluster))
	}

	// The longest line fits a topic that allows for it.
	if err := cluster.CreateTopic("large", 1, map[string]string{"max.message.bytes": "2097152"}); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "large", MaxMessageBytes: 2 << 20, Compression: "none",
		Source: Lines(strings.NewReader(strings.Repeat("x", MaxLine))),
	}); err != nil {
		t.Error(err)
	}
}

func TestMessageInAnotherEncoding(t *testing.T) {
	cluster := start(t, 1)
	_, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Source: Literal("a", "\xff"),
	})
	if want := "message 2: must be valid UTF-8"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if written(cluster) != 1 {
		t.Errorf("%d records", written(cluster))
	}
}

func TestSourceErrorDeliversWhatCameBefore(t *testing.T) {
	cluster := start(t, 1)
	broken := errors.New("broken")
	_, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t",
		Source: Lines(io.MultiReader(strings.NewReader("a\n"), errReader{broken})),
	})
	if !errors.Is(err, broken) || written(cluster) != 1 {
		t.Errorf("%v, %d records", err, written(cluster))
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestAcksAndCompression(t *testing.T) {
	for _, tt := range []struct {
		acks, compression string
		wantAcks          int16
	}{
		{"all", "none", -1},
		{"all", "gzip", -1},
		{"all", "lz4", -1},
		{"all", "zstd", -1},
		{"1", "snappy", 1},
		{"0", "snappy", 0},
	} {
		t.Run(tt.acks+" "+tt.compression, func(t *testing.T) {
			cluster := start(t, 1)
			asked := make(chan int16, 100)
			cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				asked <- req.(*kmsg.ProduceRequest).Acks
				return nil, nil, false
			})
			got, err := run(t.Context(), t, Config{
				Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Count: 10,
				Acks: tt.acks, DisableIdempotence: tt.acks != "all", Compression: tt.compression,
			})
			if err != nil {
				t.Fatal(err)
			}
			if acks := <-asked; acks != tt.wantAcks {
				t.Errorf("asked for %d acks, want %d", acks, tt.wantAcks)
			}
			for i, delivery := range got.all {
				want := int64(i)
				if tt.acks == "0" {
					want = -1
				}
				if delivery.Offset != want {
					t.Errorf("reported offset %d, want %d", delivery.Offset, want)
				}
			}
			read(t, cluster, 10)
		})
	}
}

func TestUnknownTopic(t *testing.T) {
	cluster := kafkatest.Start(t, kfake.AllowAutoTopicCreation())
	got, err := run(t.Context(), t, Config{Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "x"})
	if !errors.Is(err, ErrNoTopic) || err.Error() != `kafka topic "x" does not exist` {
		t.Errorf("got %v", err)
	}
	if len(got.all) > 0 || cluster.TopicInfo("x") != nil {
		t.Errorf("%d messages; topic %v", len(got.all), cluster.TopicInfo("x"))
	}
}

func TestRightsRefused(t *testing.T) {
	cluster := start(t, 1)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	got, err := run(t.Context(), t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Interval: time.Millisecond,
	})
	if !errors.Is(err, ErrRefused) || !errors.Is(err, ErrUndelivered) {
		t.Errorf("got %v", err)
	}
	if got.failed() != len(got.all) {
		t.Errorf("%d of %d failed", got.failed(), len(got.all))
	}
}

func TestNoBroker(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = run(t.Context(), t, Config{Kafka: Kafka{Brokers: []string{address}}, Topic: "t"})
	if !errors.Is(err, ErrUnreachable) || !strings.HasPrefix(err.Error(), "kafka "+address+": unreachable: ") {
		t.Errorf("got %v", err)
	}
}

// A broker that accepts and says nothing must not hold the command either.
func TestSilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			client, _ := net.Pipe()
			return client, nil
		}
		begin := time.Now()
		_, err := run(t.Context(), t, Config{
			Kafka: Kafka{Dial: dial}, Topic: "t", ConnectTimeout: 3 * time.Second,
		})
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestStoppedBeforeTheStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := run(ctx, t, Config{Kafka: Kafka{Brokers: start(t, 1).ListenAddrs()}, Topic: "t"})
	if err != nil || len(got.all) > 0 {
		t.Errorf("%d messages, %v", len(got.all), err)
	}
}

// What was taken before the stop is delivered after it.
func TestStopDeliversWhatWasTaken(t *testing.T) {
	cluster := start(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	taken := 0
	got, err := run(ctx, t, Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Linger: time.Minute,
		Source: func(context.Context) iter.Seq2[string, error] {
			return func(yield func(string, error) bool) {
				for taken < 100 {
					taken++
					if taken == 100 {
						cancel() // while all the others linger
					}
					if !yield("x", nil) {
						taken--
						return
					}
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if taken != 99 || len(got.all) != taken || written(cluster) != taken {
		t.Errorf("taken %d, reported %d, written %d", taken, len(got.all), written(cluster))
	}
}

func TestRunAgain(t *testing.T) {
	cluster := start(t, 1)
	numbers := make(chan int, 10)
	p, err := New(Config{
		Kafka: Kafka{Brokers: cluster.ListenAddrs()}, Topic: "t", Source: Literal("a", "b"),
		OnDelivery: func(d Delivery) { numbers <- d.Number },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, b := <-numbers, <-numbers; a != 1 || b != 2 {
			t.Errorf("numbers %d, %d", a, b)
		}
	}
	if written(cluster) != 4 {
		t.Errorf("%d records", written(cluster))
	}
}

// A broker that is killed and comes back with its data: nothing is lost,
// nothing doubled, nothing out of order.
func TestBrokerKilledAndReturned(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	broker := func(port int) *kfake.Cluster {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(data), kfake.SeedTopics(1, "t"))
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	cluster := broker(0)
	address := cluster.ListenAddrs()[0]
	_, portText, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}

	const count, before = 300, 150
	var (
		journal kafkatest.Journal
		under   = make(chan struct{})
		killed  = make(chan struct{})
		done    = make(chan error, 1)
		got     *deliveries
	)
	source := func(ctx context.Context) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			taken := 0
			for message, err := range Default("")(ctx) {
				if taken++; taken > before {
					<-killed // or a fast machine would be done by then
				}
				if !yield(message, err) {
					return
				}
			}
		}
	}
	go func() {
		var err error
		got, err = run(t.Context(), t, Config{
			Kafka: Kafka{Brokers: []string{address}}, Topic: "t", Count: count, Interval: time.Millisecond,
			Source: source, Logger: journal.Logger(),
			OnDelivery: func(d Delivery) {
				if d.Number == 50 {
					close(under)
				}
			},
		})
		done <- err
	}()
	<-under
	cluster.Close()
	close(killed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := journal.Wait(ctx, "WARN kafka unreachable"); err != nil {
		t.Fatal(err)
	}
	cluster = broker(port)
	defer cluster.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(got.all) != count || got.failed() > 0 {
		t.Errorf("%d reports, %d failed", len(got.all), got.failed())
	}
	checkNumbered(t, read(t, cluster, count), count)
	if written(cluster) != count {
		t.Errorf("%d records", written(cluster))
	}
	want := []string{"WARN kafka unreachable", "INFO kafka reachable again"}
	if lines := journal.Lines(); !slices.Equal(lines, want) {
		t.Errorf("log %q, want %q", lines, want)
	}
}

// checkNumbered wants the contents "message 1" to "message n" in order.
func checkNumbered(t *testing.T, records []*kgo.Record, n int) {
	t.Helper()
	for i, rec := range records[:n] {
		var value record
		if err := json.Unmarshal(rec.Value, &value); err != nil {
			t.Fatal(err)
		}
		if want := "message " + strconv.Itoa(i+1); value.Content != want {
			t.Fatalf("record %d is %q, want %q", i, value.Content, want)
		}
	}
}
