package topology_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestNewRefuses(t *testing.T) {
	queue := func(change func(*topology.Queue)) topology.Config {
		q := topology.Queue{Name: "mail"}
		change(&q)
		return topology.Config{Queues: []topology.Queue{q}}
	}
	one := []topology.Queue{{Name: "mail"}}
	tests := []struct {
		cfg  topology.Config
		want string
	}{
		{topology.Config{}, "queues must name at least one queue, got none"},
		{topology.Config{Queues: []topology.Queue{{Name: "mail"}, {Name: "mail"}}}, "queues must be named once each, got mail twice"},
		{topology.Config{Queues: one, Namespace: "Pelton"}, `namespace "Pelton": must match [a-z0-9][a-z0-9-]{0,31}`},
		{topology.Config{Queues: one, Namespace: "a.b"}, `namespace "a.b": must match [a-z0-9][a-z0-9-]{0,31}`},
		{topology.Config{Queues: one, Replicas: -1}, "setup.replicas must be from 1 to 5, got -1"},
		{topology.Config{Queues: one, Replicas: 6}, "setup.replicas must be from 1 to 5, got 6"},
		{topology.Config{Queues: one, DeadMaxAge: time.Millisecond}, "dead.max_age must be at least 100ms, got 1ms"},
		{topology.Config{Queues: []topology.Queue{{}}}, `queue "": must match [a-z0-9][a-z0-9-]{0,63}`},
		{topology.Config{Queues: []topology.Queue{{Name: "Email"}}}, `queue "Email": must match [a-z0-9][a-z0-9-]{0,63}`},
		{topology.Config{Queues: []topology.Queue{{Name: "mail_high"}}}, `queue "mail_high": must match [a-z0-9][a-z0-9-]{0,63}`},
		{topology.Config{Queues: []topology.Queue{{Name: "mail.>"}}}, `queue "mail.>": must match [a-z0-9][a-z0-9-]{0,63}`},
		{queue(func(q *topology.Queue) { q.MaxPending = -2 }), "queues.mail.max_pending must be at least 1, or -1 for no limit, got -2"},
		{queue(func(q *topology.Queue) { q.MaxBytes = -2 }), "queues.mail.max_bytes must be at least 1, or -1 for no limit, got -2"},
		{queue(func(q *topology.Queue) { q.AckWait = time.Microsecond }), "queues.mail.ack_wait must be at least 100ms, got 1µs"},
		{queue(func(q *topology.Queue) { q.MaxAckPending = -1 }), "queues.mail.max_ack_pending must be at least 1, got -1"},
		{queue(func(q *topology.Queue) { q.MaxWaiting = -1 }), "queues.mail.max_waiting must be at least 1, got -1"},
		{queue(func(q *topology.Queue) { q.ResultsTTL = -time.Hour }), "queues.mail.results_ttl must be at least 100ms, got -1h0m0s"},
		{queue(func(q *topology.Queue) { q.ResultsMax = -1 }), "queues.mail.results_max must be at least 1, got -1"},
		{queue(func(q *topology.Queue) { q.Priorities = []wire.Priority{"urgent"} }), `queues.mail.priorities must be high and low, each at most once, got ["urgent"]`},
		{queue(func(q *topology.Queue) { q.Priorities = []wire.Priority{""} }), `queues.mail.priorities must be high and low, each at most once, got [""]`},
		{queue(func(q *topology.Queue) { q.Priorities = []wire.Priority{"low", "low"} }), `queues.mail.priorities must be high and low, each at most once, got ["low" "low"]`},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			topo, err := topology.New(test.cfg)
			if err == nil || err.Error() != test.want {
				t.Errorf("New = %v", err)
			}
			if len(topo.Streams) > 0 {
				t.Errorf("streams beside the error: %v", topo.Streams)
			}
		})
	}
	if _, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: "*"}}}); !errors.Is(err, wire.ErrInvalidName) {
		t.Errorf("New = %v, want ErrInvalidName", err)
	}
}

func TestNewLeavesTheConfigAlone(t *testing.T) {
	cfg := topology.Config{Queues: []topology.Queue{{Name: "mail"}}}
	if _, err := topology.New(cfg); err != nil {
		t.Fatal(err)
	}
	if want := (topology.Config{Queues: []topology.Queue{{Name: "mail"}}}); !reflect.DeepEqual(cfg, want) {
		t.Errorf("config became %+v", cfg)
	}
}

func TestNewOrder(t *testing.T) {
	topo, err := topology.New(topology.Config{Namespace: "acme", Queues: []topology.Queue{
		{Name: "mail", Priorities: []wire.Priority{"high", "low"}}, {Name: "slow"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range topo.Streams {
		names = append(names, s.Config.Name)
	}
	want := []string{
		"ACME_DEAD", "KV_ACME_REVOKED", "KV_ACME_SCHEDULES",
		"KV_ACME_RESULTS_mail",
		"ACME_LATER_mail", "ACME_LATER_mail_high", "ACME_LATER_mail_low",
		"ACME_TASKS_mail", "ACME_TASKS_mail_high", "ACME_TASKS_mail_low",
		"KV_ACME_RESULTS_slow", "ACME_LATER_slow", "ACME_TASKS_slow",
	}
	if !slices.Equal(names, want) {
		t.Errorf("streams %q", names)
	}
	tasks := topo.Only(func(s topology.Stream) bool { return s.Kind == topology.Tasks && s.Queue == "mail" })
	if len(tasks.Streams) != 3 || tasks.Streams[2].Lane().String() != "mail_low" || len(topo.Streams) != len(want) {
		t.Errorf("Only = %+v", tasks)
	}
}

// TestDefinition pins what a queue is made of, word by word.
func TestDefinition(t *testing.T) {
	topo := mail(t, "")
	common := jetstream.StreamConfig{
		Storage: jetstream.FileStorage, Replicas: 1, AllowDirect: true, Duplicates: 30 * time.Second,
		MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1, MaxMsgSize: -1, MaxMsgsPerSubject: -1,
	}
	tests := map[topology.Kind]func(c *jetstream.StreamConfig){
		topology.Tasks: func(c *jetstream.StreamConfig) {
			c.Name = "PELTON_TASKS_mail"
			c.Subjects = []string{"pelton.task.mail.>", "pelton.ledger.mail.>"}
			c.Retention, c.Discard = jetstream.WorkQueuePolicy, jetstream.DiscardNew
			c.MaxMsgs = 1_000_000
			c.AllowAtomicPublish, c.AllowBatchPublish = true, true
		},
		topology.Later: func(c *jetstream.StreamConfig) {
			c.Name = "PELTON_LATER_mail"
			c.Subjects = []string{"pelton.later.mail.>", "pelton.due.mail.>"}
			c.Retention = jetstream.WorkQueuePolicy
			c.AllowMsgSchedules, c.AllowRollup = true, true
		},
		topology.Results: func(c *jetstream.StreamConfig) {
			c.Name = "KV_PELTON_RESULTS_mail"
			c.Subjects = []string{"$KV.PELTON_RESULTS_mail.>"}
			c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxAge = 2_000_000, 1, 24*time.Hour
			c.DenyDelete = true
			c.AllowAtomicPublish, c.AllowBatchPublish = true, true
			c.RePublish = &jetstream.RePublish{Source: "$KV.PELTON_RESULTS_mail.*", Destination: "pelton.done.mail.{{wildcard(1)}}"}
		},
		topology.Dead: func(c *jetstream.StreamConfig) {
			c.Name = "PELTON_DEAD"
			c.Subjects = []string{"pelton.dead.>"}
			c.MaxMsgsPerSubject, c.MaxAge = 1, 336*time.Hour
		},
		topology.Revoked: func(c *jetstream.StreamConfig) {
			c.Name = "KV_PELTON_REVOKED"
			c.Subjects = []string{"$KV.PELTON_REVOKED.>"}
			c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxAge = 2_000_000, 1, 24*time.Hour
			c.DenyDelete, c.AllowRollup = true, true
			c.AllowMsgTTL, c.SubjectDeleteMarkerTTL = true, time.Minute
		},
		topology.Schedules: func(c *jetstream.StreamConfig) {
			c.Name = "KV_PELTON_SCHEDULES"
			c.Subjects = []string{"$KV.PELTON_SCHEDULES.>"}
			c.Discard = jetstream.DiscardNew
			c.MaxMsgsPerSubject = 1
			c.DenyDelete = true
		},
	}
	for kind, define := range tests {
		want, have := common, of(topo, kind).Config
		define(&want)
		want.Description = have.Description
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s is\n%+v, want\n%+v", kind, have, want)
		}
	}
	consumers := map[topology.Kind][2]string{
		topology.Tasks: {"workers", "pelton.task.mail.>"},
		topology.Later: {"due", "pelton.due.mail.>"},
	}
	for kind, names := range consumers {
		want := jetstream.ConsumerConfig{
			Name: names[0], Durable: names[0], FilterSubject: names[1],
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1,
			MaxAckPending: 10_000, MaxWaiting: 1024,
		}
		if kind == topology.Later {
			want.MaxAckPending = 160_000
		}
		if have := of(topo, kind).Consumers; len(have) != 1 || !reflect.DeepEqual(have[0], want) {
			t.Errorf("consumers of %s are\n%+v, want\n%+v", kind, have, want)
		}
	}
}
