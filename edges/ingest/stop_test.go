package ingest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/edges/internal/kafka"
	"pelton/edges/internal/kafka/kafkatest"
	"pelton/engine/wire"
)

// committed waits until the group knows how far partition 0 is.
func (w *world) committed() {
	w.t.Helper()
	w.until(func() string {
		info := w.cluster.GroupInfo("pelton-commands")
		if info == nil {
			return "no group"
		}
		for p, end := range w.ends {
			if info.Commits[topicName][p].Offset < end {
				return fmt.Sprintf("commits %v", info.Commits)
			}
		}
		return ""
	})
}

// purge removes messages from the stream, as an operator would.
func (w *world) purge(opts ...jetstream.StreamPurgeOpt) {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, taskStream)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := stream.Purge(w.ctx, opts...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) entry(partition int32, body string) {
	w.t.Helper()
	if _, err := w.js.Publish(w.ctx, ledgerSubject(partition), []byte(body)); err != nil {
		w.t.Fatal(err)
	}
}

// mentions fails unless an error says all of it.
func mentions(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not mention %q", err, part)
		}
	}
}

// A ledger that is gone although the group has committed is a guess too many.
func TestPurgedLedgerStops(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 40)
	e := w.start(w.config())
	w.exact()
	w.committed()
	e.stop()

	w.purge()
	stop := w.stopped(w.start(w.config()))
	mentions(t, stop, "the ledger is gone", "pelton-commands", "20", "--from-offset", "partition "+fmt.Sprint(stop.Partition))

	from := int64(15)
	cfg := w.config()
	cfg.FromOffset = &from
	e = w.start(cfg)
	w.settled()
	e.stop()
	if n := len(w.count()); n != 10 {
		t.Errorf("%d tasks from offset 15 of 20 in two partitions", n)
	}
	w.flow(2, 10)
	w.start(w.config())
	w.settled()
	for origin, n := range w.count() {
		if n != 1 {
			t.Errorf("%s %d times", origin, n)
		}
	}
}

// The operator's answer is remembered, though there is no record to write.
func TestFromOffsetIsRemembered(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 20)
	e := w.start(w.config())
	w.exact()
	w.committed()
	e.stop()
	w.purge()

	end := int64(20)
	cfg := w.config()
	cfg.FromOffset = &end
	e = w.start(cfg)
	w.settled()
	e.stop()
	w.flow(1, 5)
	w.start(w.config())
	w.settled()
	if n := len(w.tasks()); n != 5 {
		t.Errorf("%d tasks, want 5", n)
	}
}

// Somebody purges the stream while the edge runs.
func TestPurgeWhileRunningStops(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 20)
	e := w.start(w.config())
	w.exact()
	w.committed()
	w.purge()
	w.flow(1, 1)
	mentions(t, w.stopped(e), "the ledger is gone")
}

func TestTopicMadeAnewStops(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 20)
	e := w.start(w.config())
	w.exact()
	e.stop()
	w.anew()
	mentions(t, w.stopped(w.start(w.config())), "the topic was made anew")
}

// It must not wait for records that it would never read.
func TestTopicMadeAnewWhileRunningStops(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 20)
	e := w.start(w.config())
	w.exact()
	w.anew()
	w.plain = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	w.flow(1, 30)
	mentions(t, w.stopped(e), "the topic was made anew")
	if n := len(w.tasks()); n != 20 {
		t.Errorf("%d tasks, want 20", n)
	}
}

func (w *world) anew() {
	w.t.Helper()
	if err := w.cluster.DeleteTopic(topicName); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cluster.CreateTopic(topicName, 1, nil); err != nil {
		w.t.Fatal(err)
	}
}

func TestLedgerThatDoesNotFitStops(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"beyond the end": {`{"position":{"next_offset":21,"generation":1},"instance":"x","crc":1}`, "it should go on at 21, but the log ends at 20"},
		"not JSON":       {"\x00garbage", "cannot be read"},
		"empty":          {"", "cannot be read"},
		"no position":    {`{"instance":"x","crc":1}`, "cannot be read"},
		"other position": {`{"position":"noon","instance":"x","crc":1}`, "cannot be read"},
		"negative":       {`{"position":{"next_offset":-1,"generation":1},"instance":"x","crc":1}`, "cannot be read"},
		"no generation":  {`{"position":{"next_offset":3},"instance":"x","crc":1}`, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.flow(1, 20)
			w.entry(0, tt.body)
			mentions(t, w.stopped(w.start(w.config())), tt.want, "partition 0")
			if n := len(w.tasks()); n != 0 {
				t.Errorf("%d tasks", n)
			}
		})
	}
}

// What is written beside the group is found out, and never obeyed.
func TestForeignEntryWhileRunning(t *testing.T) {
	t.Run("unreadable", func(t *testing.T) {
		w := newWorld(t, 1)
		w.flow(1, 20)
		e := w.start(w.config())
		w.exact()
		w.entry(0, "garbage")
		w.flow(1, 1)
		mentions(t, w.stopped(e), "cannot be read")
	})
	t.Run("backwards", func(t *testing.T) {
		w := newWorld(t, 1)
		w.flow(1, 20)
		cfg := w.config()
		cfg.Instance = "me"
		e := w.start(cfg)
		w.exact()
		w.entry(0, `{"position":{"next_offset":3,"generation":1},"instance":"me","crc":1}`)
		w.flow(1, 1)
		mentions(t, w.stopped(e), "runs backwards")
	})
}

// Two groups on one ledger double nothing, and one of them stops.
func TestTwoGroupsOnOneLedger(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.config()
	cfg.SessionTimeout = time.Second // refusals count once it has passed
	rival := cfg
	rival.Route.Group = "another"
	one, other := w.start(rival), w.start(cfg)
	var stopped *edge
	for stopped == nil {
		w.flow(1, 3)
		select {
		case <-one.ended:
			stopped = one
		case <-other.ended:
			stopped = other
		case <-w.ctx.Done():
			t.Fatal("both go on")
		default:
		}
	}
	mentions(t, w.stopped(stopped), "a writer outside of the group")
	w.flow(1, 20)
	w.exact()
}

// A writer that the group does not know goes before the edge again and again.
func TestForeignWriterStops(t *testing.T) {
	w := newWorld(t, 2)
	w.flow(2, 20)
	cfg := w.config()
	cfg.SessionTimeout = time.Second // refusals count once it has passed
	e := w.start(cfg)
	w.exact()
	for end := int64(10); ; end++ {
		w.entry(0, fmt.Sprintf(`{"position":{"next_offset":%d,"generation":1},"instance":"stranger","crc":1}`, end))
		w.flow(2, 2)
		select {
		case <-e.ended:
			mentions(t, w.stopped(e), "a writer outside of the group pelton-commands", "stranger", "partition 0")
			return
		case <-w.ctx.Done():
			t.Fatal("it goes on")
		case <-time.After(50 * time.Millisecond): // time to read what was written
		}
	}
}

// Brokers that are absent, and a topic that is, are waited for.
func TestWaitsForTheTopic(t *testing.T) {
	w := newWorldOn(t, kafkatest.Start(t, kfake.GroupMinSessionTimeout(100*time.Millisecond)))
	e := w.start(w.config())
	const warning = "WARN cannot read the topic, waiting for it"
	if err := w.journal.Wait(w.ctx, warning); err != nil {
		t.Fatal(err)
	}
	if err := w.cluster.CreateTopic(topicName, 2, nil); err != nil {
		t.Fatal(err)
	}
	w.flow(2, 20)
	w.exact()
	e.stop()
	if n := w.has(warning); n != 1 {
		t.Errorf("warned %d times; log %q", n, w.journal.Lines())
	}
}

func TestWaitsForTheBrokers(t *testing.T) {
	w := newWorld(t, 1)
	w.flow(1, 20)
	var d net.Dialer
	link := kafkatest.NewLink(d.DialContext)
	link.Cut()
	w.nats.Stop()
	cfg := w.config()
	cfg.Kafka.Dial = link.Dial
	cfg.NATS = w.lateConn()
	w.start(cfg)
	if err := w.journal.Wait(w.ctx, "WARN nats is not reachable, waiting for it"); err != nil {
		t.Fatal(err)
	}
	if err := w.nats.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := w.journal.Wait(w.ctx, "WARN kafka unreachable, waiting for it"); err != nil {
		t.Fatal(err)
	}
	link.Restore()
	w.exact()
}

// lateConn is a connection that waits for its first broker.
func (w *world) lateConn() *nats.Conn {
	w.t.Helper()
	return w.conn(nats.RetryOnFailedConnect(true))
}

// An edge told to end while it waits ends at once.
func TestEndsWhileWaiting(t *testing.T) {
	w := newWorldOn(t, kafkatest.Start(t))
	e := w.start(w.config())
	if err := w.journal.Wait(w.ctx, "WARN cannot read the topic, waiting for it"); err != nil {
		t.Fatal(err)
	}
	e.stop()
}

// A group that does not answer, because a member holds up the rebalance, does
// not hold up who leaves.
func TestEndsWhileJoining(t *testing.T) {
	w := newWorld(t, 1)
	asked := make(chan struct{}, 10)
	w.cluster.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		asked <- struct{}{}
		return nil, nil, true
	})
	e := w.start(w.config())
	select {
	case <-asked:
	case <-w.ctx.Done():
		t.Fatal("does not join")
	}
	began := time.Now()
	e.stop()
	if took := time.Since(began); took > 20*time.Second { // a rebalance may take a minute
		t.Errorf("took %s to end", took)
	}
}

func TestClosedConnectionEnds(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.config()
	cfg.NATS = w.conn()
	e := w.start(cfg)
	w.flow(1, 5)
	w.exact()
	cfg.NATS.Close()
	w.flow(1, 5)
	select {
	case <-e.ended:
	case <-w.ctx.Done():
		t.Fatal("goes on")
	}
	if !errors.Is(e.err, nats.ErrConnectionClosed) {
		t.Errorf("Run: %v", e.err)
	}
}

func TestConfig(t *testing.T) {
	minus := int64(-1)
	for want, change := range map[string]func(*Config){
		"ingest: a connection to NATS must be set":                                 func(c *Config) { c.NATS = nil },
		"edges.ingest: topic must be set":                                          func(c *Config) { c.Route.Topic = "" },
		`edges.ingest: "a b": must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -`: func(c *Config) { c.Route.Topic = "a b" },
		`edges.ingest: route "Orders": must match [a-z0-9][a-z0-9-]{0,63} (a route over the topic Orders needs a name of its own)`: func(c *Config) { c.Route.Topic = "Orders" },
		`edges.ingest: queue "Email": must match [a-z0-9][a-z0-9-]{0,63}`:                                                          func(c *Config) { c.Route.Queue = "Email" },
		`edges.ingest: task "a.b": must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}`:                                                      func(c *Config) { c.Route.Task = "a.b" },
		`edges.ingest: task "pelton-x": must not begin with pelton-`:                                                               func(c *Config) { c.Route.Task = "pelton-x" },
		`edges.ingest: route "commands": must not look like a free id of its queue, <queue>-<digits>`:                              func(c *Config) { c.Route.Queue = "commands-3" },
		"edges.ingest.max_batch must be from 1 to 999, got 1000":                                                                   func(c *Config) { c.MaxBatch = 1000 },
		"edges.ingest.max_batch must be from 1 to 999, got -1":                                                                     func(c *Config) { c.MaxBatch = -1 },
		"edges.ingest.max_batch_bytes must be at least 1, got -1":                                                                  func(c *Config) { c.MaxBatchBytes = -1 },
		"edges.ingest: session_timeout -1s, heartbeat_interval 1s and rebalance_timeout 1m0s must be above 0":                      func(c *Config) { c.SessionTimeout, c.HeartbeatInterval = -time.Second, time.Second },
		"edges.ingest.heartbeat_interval must be below session_timeout 1s, got 1s":                                                 func(c *Config) { c.SessionTimeout, c.HeartbeatInterval = time.Second, time.Second },
		"edges.ingest.grace must be above 0, got -1s":                                                                              func(c *Config) { c.Grace = -time.Second },
		`edges.ingest.start_offset must be earliest or latest, got "end"`:                                                          func(c *Config) { c.StartOffset = "end" },
		"edges.ingest.from_offset of partition 2 must be at least 0, got -3":                                                       func(c *Config) { c.FromOffsets = map[int32]int64{2: -3} },
		"edges.ingest.from_offset must be at least 0, got -1":                                                                      func(c *Config) { c.FromOffset = &minus },
		`kafka.brokers[0]: "nowhere": must be host:port`:                                                                           func(c *Config) { c.Kafka.Brokers = []string{"nowhere"} },
		`namespace "X": ` + wire.RuleNamespace:                                                                                     func(c *Config) { c.Namespace = "X" },
	} {
		cfg := Config{NATS: new(nats.Conn), Route: Route{Topic: topicName}, Kafka: kafka.Config{}}
		if _, err := New(cfg); err != nil {
			t.Fatal(err)
		}
		change(&cfg)
		if _, err := New(cfg); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
