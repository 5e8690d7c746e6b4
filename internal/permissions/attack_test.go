package permissions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// attack is something that a role must not be able to do. It returns nil once
// it has worked.
type attack struct {
	name  string
	roles []string
	do    func(ctx context.Context, s stage) error
}

const (
	tasksOf   = "PELTON_TASKS_default"
	laterOf   = "PELTON_LATER_default"
	resultsOf = "KV_PELTON_RESULTS_default"
	revokedOf = "KV_PELTON_REVOKED"
)

var attacks = []attack{
	{"another queue's task", []string{"scheduler", "beat", "publisher", "trusted", "ingest", "worker"}, stores("pelton.task.mail.print")},
	{"a ledger", []string{"publisher", "trusted", "worker", "waiter"}, stores("pelton.ledger.default.commands.commands.0")},
	{"another route's ledger", []string{"scheduler", "beat", "ingest"}, stores("pelton.ledger.default.other.commands.0")},
	{"another queue's ledger", []string{"beat", "ingest"}, stores("pelton.ledger.mail.commands.commands.0")},
	{"later", []string{"scheduler", "beat", "publisher", "waiter", "ingest", "emit"}, parks},
	{"due", []string{"scheduler", "beat", "publisher", "trusted", "worker", "ingest"}, stores("pelton.due.default.print.job-1")},
	{"another queue's later", []string{"beat", "trusted", "worker"}, stores("pelton.later.mail.job-1")},
	{"a record", []string{"scheduler", "publisher", "trusted", "waiter", "ingest", "emit", "observer", "operator"}, stores("$KV.PELTON_RESULTS_default.job-1")},
	{"another queue's record", []string{"beat", "worker"}, stores("$KV.PELTON_RESULTS_mail.job-1")},
	{"a task", []string{"worker", "waiter", "emit", "observer", "operator", "setup", "janitor"}, stores("pelton.task.default.print")},
	{"a dead letter", []string{"scheduler", "beat", "publisher", "ingest", "operator"}, stores("pelton.dead.default.print.job-1")},
	{"acknowledge", []string{"scheduler", "beat", "publisher", "trusted", "waiter", "ingest", "emit", "observer", "operator", "setup", "janitor"}, acknowledges},
	{"purge a queue", []string{"scheduler", "publisher", "worker", "ingest", "emit", "setup", "operator"}, asks("STREAM.PURGE."+tasksOf, `{}`)},
	{"purge records", []string{"scheduler", "beat", "worker", "emit", "setup", "janitor"}, asks("STREAM.PURGE."+resultsOf, `{}`)},
	{"delete a stream", []string{"scheduler", "beat", "publisher", "worker", "ingest", "emit", "setup", "janitor", "operator"}, asks("STREAM.DELETE."+laterOf, ``)},
	{"change a stream", []string{"scheduler", "beat", "publisher", "worker", "ingest", "emit", "janitor", "operator"}, changes},
	{"read a waiting body", []string{"publisher", "worker", "waiter", "ingest", "emit", "observer", "setup"}, asks("STREAM.MSG.GET."+tasksOf, `{"last_by_subj":"pelton.task.>"}`)},
	{"read one directly", []string{"publisher", "worker", "waiter", "ingest", "emit", "observer", "setup", "janitor"}, asks("DIRECT.GET."+tasksOf, `{"last_by_subj":"pelton.task.>"}`)},
	{"delete a message", []string{"scheduler", "beat", "publisher", "worker", "ingest", "setup", "operator"}, deletesMessage},
	{"delete the workers' consumer", []string{"beat", "publisher", "worker", "ingest", "emit", "setup", "janitor", "operator"}, asks("CONSUMER.DELETE."+tasksOf+".workers", ``)},
	{"a consumer of waiting tasks", []string{"beat", "publisher", "worker", "ingest", "emit", "observer", "operator", "janitor"}, asks(
		"CONSUMER.CREATE."+laterOf+".spy", `{"stream_name":"`+laterOf+`","config":{"name":"spy","ack_policy":"explicit","filter_subject":"pelton.later.default.none"}}`)},
	{"revoke", []string{"scheduler", "publisher", "trusted", "waiter", "worker", "ingest", "emit", "setup", "janitor", "observer", "operator"}, stores("$KV.PELTON_REVOKED.default.job-1")},
	{"revoke in another queue", []string{"canceller", "worker", "beat"}, stores("$KV.PELTON_REVOKED.mail.job-1")},
	{"hear of another queue's revocations", []string{"worker", "canceller"}, asks(
		"CONSUMER.CREATE."+revokedOf+".spy.$KV.PELTON_REVOKED.mail.*", spying("$KV.PELTON_REVOKED.mail.*"))},
	{"hear of all revocations", []string{"worker", "canceller", "observer"}, asks(
		"CONSUMER.CREATE."+revokedOf+".spy", spying(""))},
	{"purge revocations", []string{"canceller", "worker", "beat", "setup", "janitor"}, asks("STREAM.PURGE."+revokedOf, `{}`)},
	{"the other lane's task", []string{"publisher", "trusted", "ingest", "worker", "canceller", "beat"}, stores("pelton.task.default_high.print")},
	{"another queue's lane", []string{"publisher", "trusted", "ingest", "worker", "canceller", "beat"}, stores("pelton.task.mail_high.print")},
	{"another queue's later lane", []string{"trusted", "worker", "canceller", "beat"}, stores("pelton.later.mail_high.job-1")},
	{"aim a schedule", []string{"publisher", "waiter", "ingest", "emit"}, aims},
	{"purge the waiting queue", []string{"canceller"}, asks("STREAM.PURGE."+tasksOf, `{}`)},
	{"an entry", []string{"publisher", "worker", "beat", "ingest", "observer", "operator"}, stores("$KV.PELTON_SCHEDULES.nightly")},
	{"an entry's ledger", []string{"publisher", "trusted", "worker", "ingest"}, stores("pelton.ledger.default.beat.nightly")},
	{"a task without an id", []string{"beat"}, stores("pelton.task.default.print")},
	{"a task with an id", []string{"scheduler"}, stores("pelton.task.default.print.job-1")},
	{"purge entries", []string{"scheduler", "beat", "setup", "operator"}, asks("STREAM.PURGE.KV_PELTON_SCHEDULES", `{}`)},
	{"hear all inboxes", everybody, hears("_INBOX.>", "_INBOX.x.y")},
	{"hear another's inbox", everybody, hears("_INBOX_other.>", "_INBOX_other.y")},
	{"hear acknowledgements", everybody, hears("$JS.ACK.>", "$JS.ACK.NONE.none.1.2.3.4.5")},
	{"hear tasks", everybody, hears("pelton.task.>", "pelton.task.default.print")},
	{"hear everything", everybody, hears(">", "anything")},
	{"answer in another's place", everybody, answers("_INBOX_other.y")},
}

var everybody = []string{"publisher", "trusted", "waiter", "canceller", "worker", "beat", "scheduler", "ingest", "emit", "setup", "janitor", "observer", "operator"}

// stores publishes to a subject and waits for the confirmation.
func stores(subject string) func(context.Context, stage) error {
	return func(ctx context.Context, s stage) error {
		_, err := publishAs(ctx, s.nc, &nats.Msg{Subject: subject, Data: []byte(`1`)})
		return err
	}
}

func publishAs(ctx context.Context, nc *nats.Conn, m *nats.Msg) (*jetstream.PubAck, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
}

func parks(ctx context.Context, s stage) error {
	_, err := publishAs(ctx, s.nc, scheduled(s.ns, "job-1", "job-1"))
	return err
}

// aims parks a task that becomes due as another one.
func aims(ctx context.Context, s stage) error {
	_, err := publishAs(ctx, s.nc, scheduled(s.ns, "job-1", "victim"))
	return err
}

// spying is a consumer of revocations.
func spying(filter string) string {
	config := `{"name":"spy","ack_policy":"none","inactive_threshold":60000000000`
	if filter != "" {
		config += `,"filter_subject":"` + filter + `"`
	}
	return `{"stream_name":"` + revokedOf + `","config":` + config + `}}`
}

// asks sends a request to JetStream's API that is granted.
func asks(subject, body string) func(context.Context, stage) error {
	return func(ctx context.Context, s stage) error {
		m, err := s.nc.RequestWithContext(ctx, "$JS.API."+subject, []byte(body))
		if err != nil {
			return err
		}
		if status := m.Header.Get("Status"); status != "" {
			return fmt.Errorf("%s: %s %s", subject, status, m.Header.Get("Description"))
		}
		var answer struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err == nil && answer.Error != nil {
			return answer.Error
		}
		return nil
	}
}

// changes sets another limit of a stream.
func changes(ctx context.Context, s stage) error {
	stream, err := s.stream(ctx, tasksOf)
	if err != nil {
		return err
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgs = 7
	body, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	return asks("STREAM.UPDATE."+tasksOf, string(body))(ctx, s)
}

// deletesMessage deletes the task that waits.
func deletesMessage(ctx context.Context, s stage) error {
	stream, err := s.stream(ctx, tasksOf)
	if err != nil {
		return err
	}
	return asks("STREAM.MSG.DELETE."+tasksOf, fmt.Sprintf(`{"seq":%d}`, stream.CachedInfo().State.LastSeq))(ctx, s)
}

// acknowledges removes a task that somebody else holds.
func acknowledges(ctx context.Context, s stage) error {
	consumer, err := s.admin.JetStream().Consumer(ctx, tasksOf, wire.WorkersDurable)
	if err != nil {
		return err
	}
	held, err := consumer.Next(jetstream.FetchContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = held.Nak() }()
	// An acknowledgement with an answer tells when it was heard.
	_, err = s.nc.RequestWithContext(ctx, held.Reply(), []byte("+ACK"))
	return err
}

// hears listens where somebody else is told something.
func hears(pattern, subject string) func(context.Context, stage) error {
	return func(ctx context.Context, s stage) error {
		sub, err := s.nc.SubscribeSync(pattern)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := s.nc.FlushWithContext(ctx); err != nil {
			return err
		}
		if err := s.admin.Conn().Publish(subject, []byte(`1`)); err != nil {
			return err
		}
		_, err = sub.NextMsgWithContext(ctx)
		return err
	}
}

// answers publishes where somebody else waits for an answer.
func answers(subject string) func(context.Context, stage) error {
	return func(ctx context.Context, s stage) error {
		sub, err := s.admin.Conn().SubscribeSync(subject)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Unsubscribe() }()
		if err := s.admin.Conn().FlushWithContext(ctx); err != nil {
			return err
		}
		if err := s.nc.Publish(subject, []byte(`1`)); err != nil {
			return err
		}
		_, err = sub.NextMsgWithContext(ctx)
		return err
	}
}

// scene is the two queues, and one task that waits, made again before each
// attack: the one before it may have worked.
func (s stage) scene(ctx context.Context) error {
	lanes := []wire.Lane{{Queue: queue, Priority: wire.PriorityHigh}, {Queue: "mail", Priority: wire.PriorityHigh}}
	topo, err := topologyOf(s.ns, lanes, queue, "mail")
	if err == nil {
		_, err = topology.Apply(ctx, s.admin.JetStream(), topo)
	}
	if err == nil {
		_, err = s.admin.SendRaw(ctx, queue, "print", []byte(`1`))
	}
	return err
}

// TestAttacks tries each attack as each role, and as somebody who may do
// anything, for whom it must work.
func TestAttacks(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			w := w.in(t)
			ctx, s := w.stage(wire.DefaultNamespace, wide, "_INBOX")
			if err := errors.Join(s.scene(ctx), a.do(ctx, s)); err != nil {
				t.Errorf("it does not even work with all rights: %v", err)
			}
			for _, role := range a.roles {
				ctx, s := w.stage(wire.DefaultNamespace, role, "_INBOX_"+role)
				if err := s.scene(ctx); err != nil {
					t.Fatal(err)
				}
				err := done(ctx, a.do(ctx, s))
				if err == nil {
					t.Errorf("%s: it works", role)
				} else if !refused(err) {
					t.Errorf("%s: it is not forbidden, but fails: %v", role, err)
				}
			}
		})
	}
}

// TestHeaders: what a publisher may send to its queue cannot do more than be a
// task, whatever stands in its headers. In streams without that protection each
// of these headers works.
func TestHeaders(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	ctx, s := w.stage(wire.DefaultNamespace, "publisher", "_INBOX_publisher")
	if err := s.scene(ctx); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().UTC().Add(time.Hour).Format(time.RFC3339)
	for name, tc := range map[string]struct {
		code   jetstream.ErrorCode
		header nats.Header
		body   string
		open   func(*jetstream.StreamConfig) // nil: every stream refuses it
	}{
		"rollup":   {10111, nats.Header{"Nats-Rollup": {"all"}}, `1`, func(c *jetstream.StreamConfig) { c.AllowRollup = true }},
		"ttl":      {10166, nats.Header{"Nats-TTL": {"1h"}}, `1`, func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }},
		"counter":  {10168, nats.Header{"Nats-Incr": {"1"}}, ``, func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }},
		"source":   {10227, nats.Header{"Nats-Stream-Source": {"OTHER 1 > > x"}}, `1`, nil},
		"schedule": {10188, nats.Header{"Nats-Schedule": {"@at " + soon}, "Nats-Schedule-Target": {"open.schedule.target"}}, `1`, func(c *jetstream.StreamConfig) { c.AllowMsgSchedules, c.AllowRollup = true, true }},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := publishAs(ctx, s.nc, &nats.Msg{Subject: "pelton.task.default.print", Header: tc.header, Data: []byte(tc.body)})
			if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != tc.code {
				t.Errorf("%v, want code %d", err, tc.code)
			}
			if tc.open == nil {
				return
			}
			cfg := jetstream.StreamConfig{Name: "OPEN_" + name, Subjects: []string{"open." + name + ".>"}}
			tc.open(&cfg)
			if _, err := s.admin.JetStream().CreateStream(ctx, cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := publishAs(ctx, s.admin.Conn(), &nats.Msg{Subject: "open." + name + ".x", Header: tc.header, Data: []byte(tc.body)}); err != nil {
				t.Errorf("in an open stream: %v", err)
			}
		})
	}
}
