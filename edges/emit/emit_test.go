package emit

import (
	"strings"
	"testing"
	"time"

	"pelton/engine/wire"
)

func TestEmitsEveryResultOnce(t *testing.T) {
	w := newWorld(t, "default", "mail")
	cfg := w.config()
	cfg.Queues = []string{"default", "mail"}
	w.ensureLedger(cfg)
	w.succeed("default", 0, 300) // a backlog
	r := w.start(cfg)
	w.succeed("mail", 0, 100)
	w.succeed("default", 300, 100)
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
	if got := r.Stats(); got.Emitted != 500 || got.Transactions >= 500 {
		t.Errorf("stats %+v, want 500 emitted in fewer transactions", got)
	}
}

func TestEmitsWhenIdle(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	emitted := make(chan Emitted)
	cfg.OnEmit = func(e Emitted) { emitted <- e }
	w.ensureLedger(cfg)
	r := w.start(cfg)
	for _, id := range []string{"a", "b", "c"} {
		w.put("default", id, wire.StateFailed)
		e := <-emitted
		if e.TaskID != id || e.Queue != "default" || e.State != wire.StateFailed || e.Topic != resultTopic {
			t.Errorf("emitted %+v, want task %s", e, id)
		}
	}
	r.stop()
	w.exact()
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.NATS = nil }, "a NATS connection must be given"},
		{func(c *Config) { c.Name = "Results" }, `"Results"`},
		{func(c *Config) { c.Namespace = "a.b" }, `edges.emit.results.namespace`},
		{func(c *Config) { c.Queues = []string{"a", "a"} }, `edges.emit.results.queues: "a": must stand there once`},
		{func(c *Config) { c.Shards = -1 }, "edges.emit.results.shards must be from 1 to 1000, got -1"},
		{func(c *Config) { c.Topic = "a b" }, `edges.emit.results.topic: "a b"`},
		{func(c *Config) { c.ReplyTopics = []string{"pelton.ledger"} }, `edges.emit.results.reply_topics[0]: "pelton.ledger": must not be the ledger topic`},
		{func(c *Config) { c.MaxRecordBytes = 1 }, "edges.emit.results.max_record_bytes must be from 16384"},
		{func(c *Config) { c.Grace = -time.Second }, "edges.emit.results.grace must be at least 1ms, got -1s"},
		{func(c *Config) { c.HeartbeatInterval = c.SessionTimeout }, "heartbeat_interval must be below session_timeout 10s, got 10s"},
	} {
		cfg := w.config()
		test.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
}
