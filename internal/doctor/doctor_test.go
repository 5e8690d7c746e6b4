package doctor

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"

	"pelton/edges/emit"
	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

// patient is a broker with the streams of the default queue, and what a doctor
// is told of it.
type patient struct {
	t      *testing.T
	broker *enginetest.Broker
	cfg    Config
}

func newPatient(t *testing.T, queue topology.Queue, opts ...func(*enginetest.ServerConfig)) *patient {
	t.Helper()
	p := &patient{t: t, broker: enginetest.Start(t, opts...)}
	queue.Name = "default"
	wanted := topology.Config{Queues: []topology.Queue{queue}}
	p.broker.SetupWith(wanted)
	topo, err := topology.New(wanted)
	if err != nil {
		t.Fatal(err)
	}
	client, err := engine.NewClient(p.broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	p.cfg = Config{Client: client, Topology: topo, Timeout: 20 * time.Second}
	return p
}

// finds makes one check, which must find just one thing of a level.
func (p *patient) finds(check string, level Level, text string) Finding {
	p.t.Helper()
	for _, c := range checks {
		if c.name != check {
			continue
		}
		for _, f := range c.run(p.t.Context(), p.cfg) {
			if f.Level == level && strings.Contains(f.Finding, text) && f.Check == check {
				if level != OK && f.Fix == "" {
					p.t.Errorf("%s: %q has no fix", check, f.Finding)
				}
				return f
			}
		}
		p.t.Errorf("%s: no %s with %q, but %+v", check, level, text, c.run(p.t.Context(), p.cfg))
	}
	return Finding{}
}

// silent makes one check, which must find nothing wrong.
func (p *patient) silent(check string) {
	p.t.Helper()
	for _, c := range checks {
		if c.name != check {
			continue
		}
		if found := c.run(p.t.Context(), p.cfg); Worst(found) != OK {
			p.t.Errorf("%s: %+v", check, found)
		}
	}
}

func (p *patient) ctx() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	p.t.Cleanup(cancel)
	return ctx
}

func TestWellPatient(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{}, func(c *enginetest.ServerConfig) { c.SyncAlways, c.Monitor = true, true })
	p.cfg.MonitorURL = p.broker.MonitorURL()
	var seen []string
	p.cfg.Progress = func(check string) { seen = append(seen, check) }
	if found := Run(t.Context(), p.cfg); Worst(found) != OK || len(found) < 8 {
		t.Errorf("found %+v", found)
	}
	if len(seen) != len(checks) {
		t.Errorf("progress of %q", seen)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	found := Run(t.Context(), Config{Unreachable: errors.New("nobody there")})
	fails := 0
	for _, f := range found {
		switch {
		case f.Level == Fail && f.Check == "nats" && f.Finding == "nobody there" && f.Fix != "":
			fails++
		case f.Level == Fail, f.Level == Warn && !strings.HasPrefix(f.Finding, "skipped, because "):
			t.Errorf("found %+v", f)
		}
	}
	if fails != 1 || Worst(found) != Fail {
		t.Errorf("found %+v", found)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	p := &patient{t: t}
	p.silent("settings")
	p.cfg.Warnings = []string{"/run/secret may be read by others"}
	p.finds("settings", Warn, "may be read by others")
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.15.2": false, "2.15.10": false, "2.16.0": false, "3.0.0": false, "2.15.2-beta.1": false,
		"2.15.1": true, "2.9.99": true, "1.20.0": true, "": true, "dev": true,
	} {
		if older(version, oldest) != want {
			t.Errorf("%q: older %t, want %t", version, !want, want)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{"127.0.0.1:4222": true, "[::1]:4222": true, "pipe": true, "10.0.0.1:4222": false, "nats:4222": false} {
		if isLoopback(addr) != want {
			t.Errorf("%q: loopback %t, want %t", addr, !want, want)
		}
	}
}

func TestStorage(t *testing.T) {
	t.Parallel()
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: "default", MaxBytes: 500}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		limit int64
		used  uint64
		want  Level
	}{{-1, 1 << 40, OK}, {1000, 799, OK}, {1000, 800, Warn}, {499, 0, Warn}} {
		info := &jetstream.AccountInfo{Tier: jetstream.Tier{Store: tc.used, Limits: jetstream.AccountLimits{MaxStore: tc.limit}}}
		if found := storage(info, Config{Topology: topo}); Worst(found) != tc.want {
			t.Errorf("%d of %d: %+v, want %s", tc.used, tc.limit, found, tc.want)
		}
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{})
	p.silent("streams")
	js := p.cfg.Client.JetStream()
	s, err := js.Stream(p.ctx(), "PELTON_TASKS_default")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgs = 5
	if _, err := js.UpdateStream(p.ctx(), cfg); err != nil {
		t.Fatal(err)
	}
	p.finds("streams", Warn, "max_msgs is 5")
	cfg.Duplicates = 10 * time.Second
	if _, err := js.UpdateStream(p.ctx(), cfg); err != nil {
		t.Fatal(err)
	}
	p.finds("streams", Fail, "duplicate_window is 10s, must be 30s")
	if err := js.DeleteStream(p.ctx(), "PELTON_DEAD"); err != nil {
		t.Fatal(err)
	}
	if f := p.finds("streams", Fail, "stream PELTON_DEAD: missing"); f.Fix != "pelton setup apply" {
		t.Errorf("fix %q", f.Fix)
	}
	p.finds("clock", Fail, "PELTON_DEAD")
}

func TestDurability(t *testing.T) {
	t.Parallel()
	lazy := newPatient(t, topology.Queue{}, func(c *enginetest.ServerConfig) { c.Monitor = true })
	lazy.finds("durability", Warn, "cannot tell")
	lazy.cfg.MonitorURL = lazy.broker.MonitorURL()
	if f := lazy.finds("durability", Warn, "sync_interval 2m0s: a power cut may lose acknowledged tasks"); f.Fix != "sync_interval: always" {
		t.Errorf("fix %q", f.Fix)
	}
	synced := newPatient(t, topology.Queue{}, func(c *enginetest.ServerConfig) { c.SyncAlways, c.Monitor = true, true })
	synced.cfg.MonitorURL = synced.broker.MonitorURL()
	synced.silent("durability")
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	synced.cfg.MonitorURL = other.URL
	synced.finds("durability", Fail, "status 404")
	synced.cfg.MonitorURL = "http://127.0.0.1:1"
	synced.finds("durability", Fail, "nats.monitor_url")
	// Whatever goes wrong, nobody is told what stands in the address.
	host := strings.TrimPrefix(other.URL, "http://")
	for _, address := range []string{"http://u:canary@" + host, other.URL + "?token=canary", "http://u:canary@127.0.0.1:1", "http://127.0.0.1:1?token=canary", "http://canary%zz@h"} {
		synced.cfg.MonitorURL = address
		if f := synced.finds("durability", Fail, "nats.monitor_url: "); strings.Contains(f.Finding, "canary") {
			t.Errorf("a secret is told: %s", f.Finding)
		}
	}
}

func TestSkew(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]Level{
		0: OK, -time.Second: OK, 1001 * time.Millisecond: Warn, -5 * time.Second: Warn, 5001 * time.Millisecond: Fail, -time.Hour: Fail,
	} {
		if f := skew(d); f.Level != want {
			t.Errorf("%s: %+v, want %s", d, f, want)
		}
	}
}

// A queue is worked by whoever has a request waiting there.
func TestWorkers(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{MaxAckPending: 5})
	js := p.cfg.Client.JetStream()
	p.silent("worker")
	for range 6 {
		if _, err := js.Publish(p.ctx(), "pelton.task.default.print", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	if f := p.finds("worker", Fail, "default: 6 pending, nobody fetches"); f.Fix != "pelton worker --queues default:1" {
		t.Errorf("fix %q", f.Fix)
	}
	consumer, err := js.Consumer(p.ctx(), "PELTON_TASKS_default", "workers")
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(n int) {
		batch, err := consumer.FetchNoWait(n)
		if err != nil {
			t.Fatal(err)
		}
		for range batch.Messages() {
			n--
		}
		if n != 0 {
			t.Fatalf("%d messages were not fetched", n)
		}
	}
	fetch(3)
	p.silent("worker")
	fetch(1)
	p.finds("worker", Warn, "4 of at most 5 tasks are in the hands of workers")
	if err := js.DeleteConsumer(p.ctx(), "PELTON_TASKS_default", "workers"); err != nil {
		t.Fatal(err)
	}
	p.finds("worker", Fail, "a consumer is missing")
}

func TestLater(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{})
	publish := func(id string, header nats.Header) {
		t.Helper()
		m := &nats.Msg{Subject: "pelton.later.default." + id, Header: header, Data: []byte("1")}
		if _, err := p.cfg.Client.JetStream().PublishMsg(p.ctx(), m); err != nil {
			t.Fatal(err)
		}
	}
	p.silent("later")
	publish("well", nats.Header{"Nats-Schedule": {"@at 2999-01-01T00:00:00Z"}, "Nats-Schedule-Target": {"pelton.due.default.print.well"}})
	p.silent("later")
	publish("by-hand", nil)
	f := p.finds("later", Fail, "pelton.later.default.by-hand has no schedule: written by hand, it never fires")
	if f.Fix != "nats stream rmm PELTON_LATER_default 2" {
		t.Errorf("fix %q", f.Fix)
	}
}

func TestDead(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{})
	p.silent("dead")
	now := time.Now()
	letter := func(ago time.Duration) engine.DeadLetter {
		return engine.DeadLetter{ID: "default-1", ErrorType: "boom", DiedAt: now.Add(-ago)}
	}
	if f := died([]engine.DeadLetter{letter(61 * time.Minute)}, now); f.Level != OK {
		t.Errorf("an old one: %+v", f)
	}
	if _, err := p.cfg.Client.JetStream().Publish(p.ctx(), "pelton.dead.default.print.default-1", []byte("1")); err != nil {
		t.Fatal(err)
	}
	p.finds("dead", Warn, "1 in the last hour, the newest default-1")
}

func TestKafka(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "commands", "wrong"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	p := &patient{t: t, cfg: Config{Timeout: 20 * time.Second}}
	p.cfg.Kafka.Brokers = cluster.ListenAddrs()
	p.silent("kafka")
	p.cfg.Topics = []string{"commands"}
	p.silent("kafka")
	p.cfg.Topics = []string{"nosuch"}
	p.finds("kafka", Fail, "topic nosuch does not exist")
	p.cfg.Topics = nil
	p.cfg.Ledgers = []emit.Config{{Kafka: p.cfg.Kafka}}
	p.finds("kafka", Fail, "ledger topic pelton.ledger of edge")
	p.finds("kafka", Fail, "ledger topic pelton.ledger of edge") // it was not made by looking
	if _, err := emit.EnsureLedger(p.ctx(), p.cfg.Ledgers[0]); err != nil {
		t.Fatal(err)
	}
	p.silent("kafka")
	p.cfg.Ledgers[0].LedgerTopic = "wrong"
	p.finds("kafka", Fail, "cleanup.policy")
	p.cfg.Ledgers, p.cfg.Topics = nil, []string{"commands"}
	p.cfg.Kafka.Brokers = []string{"127.0.0.1:1"}
	p.finds("kafka", Fail, "unreachable")
}

// A broker that says nothing holds up each check for its timeout alone.
func TestNeverHangs(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{})
	p.cfg.Timeout = 50 * time.Millisecond
	p.broker.Stop()
	ended := make(chan []Finding, 1)
	go func() { ended <- Run(t.Context(), p.cfg) }()
	select {
	case found := <-ended:
		if Worst(found) != Fail {
			t.Errorf("found %+v", found)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("it hangs")
	}
}
