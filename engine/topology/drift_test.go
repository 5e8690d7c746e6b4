package topology_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// drift is a stream or a consumer made by hand with one thing wrong.
type drift struct {
	kind     topology.Kind
	field    string
	have     string
	want     string
	fixed    bool // cannot be changed in place
	stream   func(c *jetstream.StreamConfig)
	consumer func(c *jetstream.ConsumerConfig)
}

func (d drift) String() string { return fmt.Sprintf("%s %s", d.kind, d.field) }

// stream is the topology's stream with the drift.
func (d drift) byHand(t *testing.T, js jetstream.JetStream, s topology.Stream) {
	t.Helper()
	cfg := s.Config
	if d.stream != nil {
		d.stream(&cfg)
	}
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Consumers {
		if d.consumer != nil {
			d.consumer(&c)
		}
		var err error
		if c.DeliverSubject != "" {
			_, err = js.CreatePushConsumer(t.Context(), cfg.Name, c)
		} else {
			_, err = js.CreateConsumer(t.Context(), cfg.Name, c)
		}
		// A consumer that cannot be made belongs to a stream in which it is not
		// what the case is about.
		if err != nil && d.consumer != nil {
			t.Fatal(err)
		}
	}
}

func (d drift) object(s topology.Stream) string {
	if d.consumer != nil {
		return "consumer " + s.Config.Name + "/" + s.Consumers[0].Durable
	}
	return "stream " + s.Config.Name
}

// contractDrifts has every contract field at least once; <NS> stands for the
// namespace in upper case, <ns> in lower case.
func contractDrifts() []drift {
	type (
		sc = jetstream.StreamConfig
		cc = jetstream.ConsumerConfig
	)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	drifts := []drift{
		{kind: topology.Tasks, field: "subjects", have: "<ns>.task.mail.>", want: "<ns>.ledger.mail.>, <ns>.task.mail.>", stream: func(c *sc) { c.Subjects = c.Subjects[:1] }},
		{kind: topology.Later, field: "subjects", have: "<ns>.due.mail.>, <ns>.later.mail.>, <ns>.x", want: "<ns>.due.mail.>, <ns>.later.mail.>", stream: func(c *sc) {
			c.Subjects = append(slices.Clone(c.Subjects), strings.SplitN(c.Subjects[0], ".", 2)[0]+".x")
		}},
		{kind: topology.Results, field: "subjects", have: "$KV.<NS>_RESULTS_mail.*", want: "$KV.<NS>_RESULTS_mail.>", stream: func(c *sc) {
			c.Subjects = []string{strings.TrimSuffix(c.Subjects[0], ">") + "*"}
		}},
		{kind: topology.Tasks, field: "retention", have: "limits", want: "workqueue", fixed: true, stream: func(c *sc) { c.Retention = jetstream.LimitsPolicy }},
		{kind: topology.Results, field: "retention", have: "workqueue", want: "limits", fixed: true, stream: func(c *sc) { c.Retention = jetstream.WorkQueuePolicy }},
		{kind: topology.Dead, field: "retention", have: "interest", want: "limits", stream: func(c *sc) { c.Retention = jetstream.InterestPolicy }},
		{kind: topology.Tasks, field: "storage", have: "memory", want: "file", fixed: true, stream: func(c *sc) { c.Storage = jetstream.MemoryStorage }},
		{kind: topology.Later, field: "persist_mode", have: "async", want: "default", fixed: true, stream: func(c *sc) { c.PersistMode = jetstream.AsyncPersistMode }},
		{kind: topology.Tasks, field: "discard", have: "old", want: "new", stream: func(c *sc) { c.Discard = jetstream.DiscardOld }},
		{kind: topology.Results, field: "discard", have: "new", want: "old", stream: func(c *sc) { c.Discard = jetstream.DiscardNew }},
		{kind: topology.Tasks, field: "discard_new_per_subject", have: "true", want: "false", stream: func(c *sc) { c.DiscardNewPerSubject, c.MaxMsgsPerSubject = true, 1 }},
		{kind: topology.Tasks, field: "max_msgs_per_subject", have: "1", want: "-1", stream: func(c *sc) { c.MaxMsgsPerSubject = 1 }},
		{kind: topology.Results, field: "max_msgs_per_subject", have: "5", want: "1", stream: func(c *sc) { c.MaxMsgsPerSubject = 5 }},
		{kind: topology.Dead, field: "max_msgs_per_subject", have: "-1", want: "1", stream: func(c *sc) { c.MaxMsgsPerSubject = -1 }},
		{kind: topology.Later, field: "max_msgs", have: "100", want: "-1", stream: func(c *sc) { c.MaxMsgs = 100 }},
		{kind: topology.Later, field: "max_bytes", have: "1048576", want: "-1", stream: func(c *sc) { c.MaxBytes = 1 << 20 }},
		{kind: topology.Tasks, field: "max_age", have: "1h0m0s", want: "0s", stream: func(c *sc) { c.MaxAge = time.Hour }},
		{kind: topology.Later, field: "max_age", have: "1h0m0s", want: "0s", stream: func(c *sc) { c.MaxAge = time.Hour }},
		{kind: topology.Tasks, field: "duplicate_window", have: "2m0s", want: "30s", stream: func(c *sc) { c.Duplicates = 0 }},
		{kind: topology.Tasks, field: "no_ack", have: "true", want: "false", stream: func(c *sc) { c.NoAck = true }},
		{kind: topology.Dead, field: "mirror", have: `{"name":"ELSEWHERE"}`, want: "none", stream: func(c *sc) {
			c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "ELSEWHERE"}
		}},
		{kind: topology.Tasks, field: "sources", have: `[{"name":"ELSEWHERE"}]`, want: "none", stream: func(c *sc) {
			c.Sources = []*jetstream.StreamSource{{Name: "ELSEWHERE"}}
		}},
		{kind: topology.Tasks, field: "subject_transform", have: `{"src":">","dest":"x.>"}`, want: "none", stream: func(c *sc) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: ">", Destination: "x.>"}
		}},
		{kind: topology.Results, field: "republish", have: "none", want: `{"src":"$KV.<NS>_RESULTS_mail.*","dest":"<ns>.done.mail.{{wildcard(1)}}"}`, stream: func(c *sc) { c.RePublish = nil }},
		{kind: topology.Results, field: "republish", have: `{"src":"$KV.<NS>_RESULTS_mail.*","dest":"<ns>.done.mail.{{wildcard(1)}}","headers_only":true}`, want: `{"src":"$KV.<NS>_RESULTS_mail.*","dest":"<ns>.done.mail.{{wildcard(1)}}"}`, stream: func(c *sc) {
			r := *c.RePublish
			r.HeadersOnly = true
			c.RePublish = &r
		}},
		{kind: topology.Tasks, field: "republish", have: `{"src":">","dest":"tap.>"}`, want: "none", stream: func(c *sc) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "tap.>"}
		}},
		{kind: topology.Tasks, field: "allow_direct", have: "false", want: "true", stream: func(c *sc) { c.AllowDirect = false }},
		{kind: topology.Tasks, field: "deny_delete", have: "true", want: "false", fixed: true, stream: func(c *sc) { c.DenyDelete = true }},
		{kind: topology.Results, field: "deny_delete", have: "false", want: "true", stream: func(c *sc) { c.DenyDelete = false }},
		{kind: topology.Tasks, field: "deny_purge", have: "true", want: "false", fixed: true, stream: func(c *sc) { c.DenyPurge = true }},
		{kind: topology.Tasks, field: "allow_rollup_hdrs", have: "true", want: "false", stream: func(c *sc) { c.AllowRollup = true }},
		{kind: topology.Results, field: "allow_rollup_hdrs", have: "true", want: "false", stream: func(c *sc) { c.AllowRollup = true }},
		{kind: topology.Tasks, field: "allow_msg_ttl", have: "true", want: "false", fixed: true, stream: func(c *sc) { c.AllowMsgTTL = true }},
		{kind: topology.Later, field: "allow_msg_ttl", have: "true", want: "false", fixed: true, stream: func(c *sc) { c.AllowMsgTTL = true }},
		{kind: topology.Later, field: "subject_delete_marker_ttl", have: "1m0s", want: "0s", fixed: true, stream: func(c *sc) { c.SubjectDeleteMarkerTTL = time.Minute }},
		{kind: topology.Dead, field: "allow_msg_counter", have: "true", want: "false", fixed: true, stream: func(c *sc) { c.AllowMsgCounter = true }},
		{kind: topology.Later, field: "allow_msg_schedules", have: "false", want: "true", stream: func(c *sc) { c.AllowMsgSchedules = false }},
		{kind: topology.Tasks, field: "allow_msg_schedules", have: "true", want: "false", fixed: true, stream: func(c *sc) {
			c.AllowMsgSchedules, c.AllowRollup, c.Discard = true, true, jetstream.DiscardOld
		}},
		{kind: topology.Tasks, field: "allow_atomic", have: "false", want: "true", stream: func(c *sc) { c.AllowAtomicPublish = false }},
		{kind: topology.Results, field: "allow_atomic", have: "false", want: "true", stream: func(c *sc) { c.AllowAtomicPublish = false }},
		{kind: topology.Tasks, field: "allow_batched", have: "false", want: "true", stream: func(c *sc) { c.AllowBatchPublish = false }},
		{kind: topology.Results, field: "allow_batched", have: "false", want: "true", stream: func(c *sc) { c.AllowBatchPublish = false }},
		{kind: topology.Tasks, field: "consumer_limits.inactive_threshold", have: "1h0m0s", want: "0s", stream: func(c *sc) { c.ConsumerLimits.InactiveThreshold = time.Hour }},
		{kind: topology.Tasks, field: "consumer_limits.max_ack_pending", have: "20000", want: "0", stream: func(c *sc) { c.ConsumerLimits.MaxAckPending = 20_000 }},

		{kind: topology.Tasks, field: "filter_subject", have: "<ns>.task.mail.print", want: "<ns>.task.mail.>", consumer: func(c *cc) {
			c.FilterSubject = strings.TrimSuffix(c.FilterSubject, ">") + "print"
		}},
		{kind: topology.Tasks, field: "filter_subject", have: "none", want: "<ns>.task.mail.>", consumer: func(c *cc) { c.FilterSubject = "" }},
		{kind: topology.Later, field: "filter_subject", have: "<ns>.due.mail.>, <ns>.later.mail.>", want: "<ns>.due.mail.>", consumer: func(c *cc) {
			c.FilterSubjects = []string{strings.Replace(c.FilterSubject, ".due.", ".later.", 1), c.FilterSubject}
			c.FilterSubject = ""
		}},
		{kind: topology.Tasks, field: "deliver_subject", have: "tap", want: "none", fixed: true, consumer: func(c *cc) { c.DeliverSubject, c.MaxWaiting = "tap", 0 }},
		{kind: topology.Tasks, field: "deliver_group", have: "us", want: "none", fixed: true, consumer: func(c *cc) { c.DeliverSubject, c.DeliverGroup, c.MaxWaiting = "tap", "us", 0 }},
		{kind: topology.Tasks, field: "flow_control", have: "true", want: "false", fixed: true, consumer: func(c *cc) {
			c.DeliverSubject, c.FlowControl, c.IdleHeartbeat, c.MaxWaiting = "tap", true, time.Second, 0
		}},
		{kind: topology.Tasks, field: "idle_heartbeat", have: "1s", want: "0s", fixed: true, consumer: func(c *cc) {
			c.DeliverSubject, c.IdleHeartbeat, c.MaxWaiting = "tap", time.Second, 0
		}},
		{kind: topology.Tasks, field: "replay_policy", have: "original", want: "instant", fixed: true, consumer: func(c *cc) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy }},
		{kind: topology.Tasks, field: "mem_storage", have: "true", want: "false", fixed: true, consumer: func(c *cc) { c.MemoryStorage = true }},
		{kind: topology.Tasks, field: "max_deliver", have: "5", want: "-1", consumer: func(c *cc) { c.MaxDeliver = 5 }},
		{kind: topology.Tasks, field: "backoff", have: "1s, 1m0s", want: "none", consumer: func(c *cc) { c.BackOff = []time.Duration{time.Second, time.Minute} }},
		{kind: topology.Tasks, field: "headers_only", have: "true", want: "false", consumer: func(c *cc) { c.HeadersOnly = true }},
		{kind: topology.Later, field: "inactive_threshold", have: "1h0m0s", want: "0s", consumer: func(c *cc) { c.InactiveThreshold = time.Hour }},
		{kind: topology.Tasks, field: "max_expires", have: "1s", want: "0s", consumer: func(c *cc) { c.MaxRequestExpires = time.Second }},
		{kind: topology.Tasks, field: "max_bytes", have: "1024", want: "0", consumer: func(c *cc) { c.MaxRequestMaxBytes = 1024 }},
		{kind: topology.Tasks, field: "priority_policy", have: "overflow", want: "none", consumer: func(c *cc) {
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"a"}
		}},
		{kind: topology.Tasks, field: "priority_groups", have: "a", want: "none", consumer: func(c *cc) {
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyOverflow, []string{"a"}
		}},
		{kind: topology.Tasks, field: "priority_timeout", have: "1m0s", want: "0s", consumer: func(c *cc) {
			c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = jetstream.PriorityPolicyPinned, []string{"a"}, time.Minute
		}},
	}
	// A work queue takes no other start than the first message: these differ in
	// a stream that is none.
	notAQueue := func(c *sc) { c.Retention = jetstream.LimitsPolicy }
	return append(drifts,
		drift{kind: topology.Tasks, field: "ack_policy", have: "all", want: "explicit", fixed: true, stream: notAQueue, consumer: func(c *cc) { c.AckPolicy = jetstream.AckAllPolicy }},
		drift{kind: topology.Tasks, field: "deliver_policy", have: "new", want: "all", fixed: true, stream: notAQueue, consumer: func(c *cc) { c.DeliverPolicy = jetstream.DeliverNewPolicy }},
		drift{kind: topology.Tasks, field: "opt_start_seq", have: "7", want: "0", fixed: true, stream: notAQueue, consumer: func(c *cc) {
			c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 7
		}},
		drift{kind: topology.Tasks, field: "opt_start_time", have: "2026-01-02T03:04:05Z", want: "none", fixed: true, stream: notAQueue, consumer: func(c *cc) {
			c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
		}},
	)
}

func TestContractDrift(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	for i, d := range contractDrifts() {
		t.Run(d.String(), func(t *testing.T) {
			ns := wire.Namespace(fmt.Sprintf("t%d", i))
			topo := mail(t, ns)
			s := of(topo, d.kind)
			d.byHand(t, js, s)
			names := strings.NewReplacer("<ns>", string(ns), "<NS>", strings.ToUpper(string(ns)))
			want := topology.Field{Name: d.field, Want: names.Replace(d.want), Have: names.Replace(d.have), Contract: true}

			err := topology.Verify(t.Context(), js, topo.Only(func(o topology.Stream) bool { return o.Config.Name == s.Config.Name }))
			var drifted *topology.DriftError
			if !errors.Is(err, topology.ErrDrift) || !errors.As(err, &drifted) {
				t.Fatalf("Verify = %v", err)
			}
			mustName(t, drifted.Changes, d.object(s), want)
			for _, part := range []string{d.object(s), want.String(), "pelton setup apply"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			planned, err := topology.Plan(t.Context(), js, topo)
			if err != nil {
				t.Fatal(err)
			}
			mustName(t, planned, d.object(s), want)
			if d.fixed {
				mustNotTouch(t, js, topo, planned)
				return
			}
			apply(t, js, topo)
			mustBeAlike(t, js, topo)
		})
	}
}

func mustName(t *testing.T, changes []topology.Change, object string, want topology.Field) {
	t.Helper()
	for _, c := range changes {
		if c.Object == object && slices.Contains(c.Fields, want) {
			return
		}
	}
	t.Errorf("%v\ndoes not name %s: %+v", changes, object, want)
}

// mustNotTouch applies what cannot be applied: everything stays as planned.
func mustNotTouch(t *testing.T, js jetstream.JetStream, topo topology.Topology, planned []topology.Change) {
	t.Helper()
	done, err := topology.Apply(t.Context(), js, topo)
	if done != nil || !errors.Is(err, topology.ErrDrift) || !strings.HasPrefix(err.Error(), "nothing was changed: ") {
		t.Errorf("Apply = %v, %v", done, err)
	}
	again, err := topology.Plan(t.Context(), js, topo)
	if err != nil || !slices.Equal(objects(again), objects(planned)) {
		t.Errorf("after that Plan = %v, %v; before %v", again, err, planned)
	}
}

// TestContractDriftIsComplete keeps the table above in step with the fields
// that are compared.
func TestContractDriftIsComplete(t *testing.T) {
	tried := make(map[string]bool)
	for _, d := range contractDrifts() {
		tried[fmt.Sprintf("%t %s", d.consumer != nil, d.field)] = true
	}
	for _, kind := range []topology.Kind{topology.Tasks, topology.Later, topology.Results, topology.Dead} {
		streams, consumers := topology.ManagedFields(kind)
		for name, contract := range streams {
			if contract && !tried["false "+name] {
				// A stream cannot be made sealed; see TestSealed.
				if name != "sealed" {
					t.Errorf("stream field %s is never tried", name)
				}
			}
		}
		for name := range consumers {
			if consumers[name] && !tried["true "+name] {
				t.Errorf("consumer field %s is never tried", name)
			}
		}
	}
}

func TestSealed(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	apply(t, js, topo)
	sealed := of(topo, topology.Dead).Config
	sealed.Sealed = true
	if _, err := js.UpdateStream(t.Context(), sealed); err != nil {
		t.Fatal(err)
	}
	planned, err := topology.Plan(t.Context(), js, topo)
	if err != nil {
		t.Fatal(err)
	}
	mustName(t, planned, "stream PELTON_DEAD", topology.Field{Name: "sealed", Want: "false", Have: "true", Contract: true})
	mustNotTouch(t, js, topo, planned)
}

// TestSettingsDrift changes every setting by hand: no role stops for it, and
// Apply mends it.
func TestSettingsDrift(t *testing.T) {
	type (
		sc = jetstream.StreamConfig
		cc = jetstream.ConsumerConfig
	)
	tests := []drift{
		{kind: topology.Tasks, field: "max_msgs", have: "10", want: "1000000", stream: func(c *sc) { c.MaxMsgs = 10 }},
		{kind: topology.Tasks, field: "max_bytes", have: "1048576", want: "-1", stream: func(c *sc) { c.MaxBytes = 1 << 20 }},
		{kind: topology.Results, field: "max_msgs", have: "-1", want: "2000000", stream: func(c *sc) { c.MaxMsgs = -1 }},
		{kind: topology.Results, field: "max_age", have: "1h0m0s", want: "24h0m0s", stream: func(c *sc) { c.MaxAge = time.Hour }},
		{kind: topology.Results, field: "duplicate_window", have: "1m0s", want: "30s", stream: func(c *sc) { c.Duplicates = time.Minute }},
		{kind: topology.Dead, field: "max_age", have: "0s", want: "336h0m0s", stream: func(c *sc) { c.MaxAge = 0 }},
		{kind: topology.Dead, field: "allow_atomic", have: "true", want: "false", stream: func(c *sc) { c.AllowAtomicPublish = true }},
		{kind: topology.Tasks, field: "ack_wait", have: "1m0s", want: "30s", consumer: func(c *cc) { c.AckWait = time.Minute }},
		{kind: topology.Later, field: "max_ack_pending", have: "5", want: "160000", consumer: func(c *cc) { c.MaxAckPending = 5 }},
		{kind: topology.Tasks, field: "num_replicas", have: "1", want: "0", consumer: func(c *cc) { c.Replicas = 1 }},
		{kind: topology.Tasks, field: "max_waiting", have: "64", want: "1024", fixed: true, consumer: func(c *cc) { c.MaxWaiting = 64 }},
	}
	js := enginetest.Start(t).JetStream()
	for i, d := range tests {
		t.Run(d.String(), func(t *testing.T) {
			topo := mail(t, wire.Namespace(fmt.Sprintf("t%d", i)))
			s := of(topo, d.kind)
			d.byHand(t, js, s)
			if d.fixed {
				if err := topology.Verify(t.Context(), js, topo.Only(kinds(d.kind)).Only(func(o topology.Stream) bool { return o.Priority == "" })); err != nil {
					t.Errorf("Verify = %v", err)
				}
				planned, err := topology.Plan(t.Context(), js, topo)
				if err != nil {
					t.Fatal(err)
				}
				mustName(t, planned, d.object(s), topology.Field{Name: d.field, Want: d.want, Have: d.have})
				mustNotTouch(t, js, topo, planned)
				return
			}
			// All but the drift, so that only it is left to find.
			apply(t, js, topo.Only(func(o topology.Stream) bool { return o.Config.Name != s.Config.Name }))
			if err := topology.Verify(t.Context(), js, topo); err != nil {
				t.Errorf("Verify = %v", err)
			}
			want := []topology.Change{{Object: d.object(s), Action: topology.Update, Fields: []topology.Field{{Name: d.field, Want: d.want, Have: d.have}}}}
			planned, err := topology.Plan(t.Context(), js, topo)
			if err != nil || fmt.Sprint(planned) != fmt.Sprint(want) {
				t.Errorf("Plan = %v, %v; want %v", planned, err, want)
			}
			if done := apply(t, js, topo); fmt.Sprint(done) != fmt.Sprint(want) {
				t.Errorf("Apply = %v; want %v", done, want)
			}
			mustBeAlike(t, js, topo)
		})
	}
}

func TestMissing(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	err := topology.Verify(t.Context(), js, topo)
	if !errors.Is(err, topology.ErrMissing) || errors.Is(err, topology.ErrDrift) {
		t.Errorf("Verify = %v", err)
	}
	if want := "stream PELTON_DEAD: missing; stream KV_PELTON_REVOKED: missing; stream KV_PELTON_SCHEDULES: missing; " +
		"stream KV_PELTON_RESULTS_mail: missing; stream PELTON_LATER_mail: missing; consumer PELTON_LATER_mail/due: missing; " +
		"stream PELTON_LATER_mail_high: missing; consumer PELTON_LATER_mail_high/due: missing; and 4 more; " +
		"to mend it: pelton setup apply"; err == nil || err.Error() != want {
		t.Errorf("Verify = %v\nwant     %v", err, want)
	}
	apply(t, js, topo)
	if err := js.DeleteConsumer(t.Context(), "PELTON_TASKS_mail", "workers"); err != nil {
		t.Fatal(err)
	}
	err = topology.Verify(t.Context(), js, topo)
	if !errors.Is(err, topology.ErrMissing) || err.Error() != "consumer PELTON_TASKS_mail/workers: missing; to mend it: pelton setup apply" {
		t.Errorf("Verify = %v", err)
	}
	if err := topology.Verify(t.Context(), js, topo.Only(kinds(topology.Results, topology.Later))); err != nil {
		t.Errorf("Verify of a part = %v", err)
	}

	dead := of(topo, topology.Dead).Config
	dead.AllowRollup = true
	if _, err := js.UpdateStream(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	err = topology.Verify(t.Context(), js, topo)
	if !errors.Is(err, topology.ErrMissing) || !errors.Is(err, topology.ErrDrift) {
		t.Errorf("Verify = %v, want both", err)
	}
	apply(t, js, topo)
	mustBeAlike(t, js, topo)
}
