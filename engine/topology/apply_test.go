package topology_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

func TestApplyTwice(t *testing.T) {
	broker := enginetest.Start(t)
	js := broker.JetStream()
	topo := mail(t, "")
	want := []string{
		"create stream PELTON_DEAD",
		"create stream KV_PELTON_REVOKED",
		"create stream KV_PELTON_SCHEDULES",
		"create stream KV_PELTON_RESULTS_mail",
		"create stream PELTON_LATER_mail", "create consumer PELTON_LATER_mail/due",
		"create stream PELTON_LATER_mail_high", "create consumer PELTON_LATER_mail_high/due",
		"create stream PELTON_TASKS_mail", "create consumer PELTON_TASKS_mail/workers",
		"create stream PELTON_TASKS_mail_high", "create consumer PELTON_TASKS_mail_high/workers",
	}
	planned, err := topology.Plan(t.Context(), js, topo)
	if err != nil || !slices.Equal(objects(planned), want) {
		t.Errorf("Plan = %q, %v", objects(planned), err)
	}
	if done := apply(t, js, topo); !reflect.DeepEqual(done, planned) {
		t.Errorf("Apply did %v", done)
	}
	if done := apply(t, js, topo); len(done) > 0 {
		t.Errorf("second Apply did %v", done)
	}
	mustBeAlike(t, js, topo)

	if err := broker.Restart(); err != nil {
		t.Fatal(err)
	}
	mustBeAlike(t, broker.JetStream(), topo)
}

func TestApplyAtOnce(t *testing.T) {
	broker := enginetest.Start(t)
	topo := mail(t, "")
	var all sync.WaitGroup
	for range 4 {
		js := broker.JetStream()
		all.Go(func() {
			if _, err := topology.Apply(t.Context(), js, topo); err != nil {
				t.Errorf("Apply: %v", err)
			}
		})
	}
	all.Wait()
	mustBeAlike(t, broker.JetStream(), topo)
}

func TestApplyAddsAQueue(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	mailOnly, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: "mail"}}})
	if err != nil {
		t.Fatal(err)
	}
	both, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: "mail"}, {Name: "slow"}}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, js, both)
	if done := apply(t, js, mailOnly); len(done) > 0 {
		t.Errorf("Apply of less did %v", done)
	}
	mustBeAlike(t, js, both)
}

// TestApplyGoesOn cuts a set-up off after the task stream was made, before its
// consumer was. What was published in between is read later.
func TestApplyGoesOn(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	tasks := of(topo, topology.Tasks)
	if _, err := js.CreateStream(t.Context(), tasks.Config); err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), "pelton.task.mail.print", []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, js, topo)
	workers, err := js.Consumer(t.Context(), tasks.Config.Name, "workers")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := workers.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if meta, err := msg.Metadata(); err != nil || meta.Sequence.Stream != ack.Sequence {
		t.Errorf("got %+v, %v", meta, err)
	}
}

func TestApplyReturnsWhatItDid(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	// Somebody else's stream holds the subjects of the task stream.
	other := jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"pelton.task.>"}}
	if _, err := js.CreateStream(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	done, err := topology.Apply(t.Context(), js, topo)
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != 10065 {
		t.Fatalf("Apply = %v, want 10065", err)
	}
	if got, want := err.Error(), "stream PELTON_TASKS_mail: nats: API error: code=400 err_code=10065 description=subjects overlap with an existing stream"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if len(done) != 8 {
		t.Errorf("did %q", objects(done))
	}
	if err := js.DeleteStream(t.Context(), "OTHER"); err != nil {
		t.Fatal(err)
	}
	if again := apply(t, js, topo); len(again) != 4 {
		t.Errorf("then did %q", objects(again))
	}
	mustBeAlike(t, js, topo)
}

func TestUpdateKeepsWhatIsNotManaged(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	topo := mail(t, "")
	apply(t, js, topo)
	tasks := of(topo, topology.Tasks)

	stream, err := js.Stream(t.Context(), tasks.Config.Name)
	if err != nil {
		t.Fatal(err)
	}
	byHand := stream.CachedInfo().Config
	byHand.Description = "mine"
	byHand.Compression = jetstream.S2Compression
	byHand.MaxMsgSize = 1 << 20
	byHand.Metadata["team"] = "post"
	byHand.MaxMsgs = 5
	byHand.AllowDirect = false
	if stream, err = js.UpdateStream(t.Context(), byHand); err != nil {
		t.Fatal(err)
	}
	before := stream.CachedInfo().Config

	workers, err := js.Consumer(t.Context(), tasks.Config.Name, "workers")
	if err != nil {
		t.Fatal(err)
	}
	pause := time.Now().Add(time.Hour).UTC()
	lease := workers.CachedInfo().Config
	lease.Description = "mine"
	lease.SampleFrequency = "50%"
	lease.Metadata["team"] = "post"
	lease.PauseUntil = &pause
	lease.AckWait = time.Minute
	if workers, err = js.UpdateConsumer(t.Context(), tasks.Config.Name, lease); err != nil {
		t.Fatal(err)
	}
	leaseBefore := workers.CachedInfo().Config

	done := apply(t, js, topo)
	if want := []string{"update stream PELTON_TASKS_mail", "update consumer PELTON_TASKS_mail/workers"}; !slices.Equal(objects(done), want) {
		t.Errorf("Apply did %v", done)
	}
	if stream, err = js.Stream(t.Context(), tasks.Config.Name); err != nil {
		t.Fatal(err)
	}
	before.MaxMsgs, before.AllowDirect = tasks.Config.MaxMsgs, true
	if after := stream.CachedInfo().Config; !reflect.DeepEqual(after, before) {
		t.Errorf("stream is\n%+v, want\n%+v", after, before)
	}
	if workers, err = js.Consumer(t.Context(), tasks.Config.Name, "workers"); err != nil {
		t.Fatal(err)
	}
	leaseBefore.AckWait = 30 * time.Second
	if after := workers.CachedInfo().Config; !reflect.DeepEqual(after, leaseBefore) {
		t.Errorf("consumer is\n%+v, want\n%+v", after, leaseBefore)
	}
}

func TestNobodyAnswers(t *testing.T) {
	js := enginetest.Start(t).JetStream()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	topo := mail(t, "")
	err := topology.Verify(ctx, js, topo)
	if !errors.Is(err, context.Canceled) || errors.Is(err, topology.ErrDrift) || errors.Is(err, topology.ErrMissing) {
		t.Errorf("Verify = %v", err)
	}
	if done, err := topology.Apply(ctx, js, topo); !errors.Is(err, context.Canceled) || done != nil {
		t.Errorf("Apply = %v, %v", done, err)
	}
}
