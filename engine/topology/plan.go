package topology

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Action is what a change does to its object.
type Action string

// The actions.
const (
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace" // the broker cannot change it in place: somebody must remove it first
)

// Change is one difference between a topology and a broker.
type Change struct {
	Object string // "stream PELTON_TASKS_mail", "consumer PELTON_TASKS_mail/workers"
	Action Action
	Fields []Field // what differs; of an object to be created, what its definition does not say
}

// Field is a field that differs. Values are written as the broker's API does,
// durations as 1h0m0s.
type Field struct {
	Name     string
	Want     string
	Have     string
	Contract bool // the guarantees rest on it; otherwise it is a setting
}

// String is `stream PELTON_TASKS_mail: discard is old, must be new`, or
// `stream PELTON_TASKS_mail: missing`.
func (c Change) String() string {
	var parts []string
	if c.Action == Create {
		parts = append(parts, "missing")
	}
	for _, f := range c.Fields {
		parts = append(parts, f.String())
	}
	s := c.Object + ": " + strings.Join(parts, ", ")
	if c.Action == Replace {
		s += " (cannot be changed in place)"
	}
	return s
}

// String is `discard is old, must be new`.
func (f Field) String() string { return f.Name + " is " + f.Have + ", must be " + f.Want }

// Plan says what Apply would do. It changes nothing.
func Plan(ctx context.Context, js jetstream.JetStream, t Topology) ([]Change, error) {
	steps, err := t.plan(ctx, js)
	return changes(steps), err
}

// Apply makes the broker hold the topology and returns what it did; doing so
// again does nothing. Fields that Pelton does not manage keep their values.
//
// It deletes nothing. Where an object differs in what the broker cannot change
// in place, it changes nothing at all and returns a [*DriftError] that names
// every such object. An error on the way leaves what was done so far, which is
// returned too; applying again goes on from there. Several may apply the same
// topology at once.
func Apply(ctx context.Context, js jetstream.JetStream, t Topology) ([]Change, error) {
	steps, err := t.plan(ctx, js)
	if err != nil {
		return nil, err
	}
	var stuck []Change
	for _, s := range steps {
		if s.Action == Replace {
			stuck = append(stuck, s.Change)
		}
	}
	if stuck != nil {
		return nil, fmt.Errorf("nothing was changed: %w", &DriftError{Changes: stuck})
	}
	for i, s := range steps {
		if err := s.make(ctx); err != nil {
			return changes(steps[:i]), fmt.Errorf("%s: %w", s.Object, err)
		}
	}
	return changes(steps), nil
}

// step is a change and how it is made.
type step struct {
	Change
	missing *Stream // where the change is to create a stream
	do      func(context.Context) error
}

func (s step) make(ctx context.Context) error {
	ctx, cancel := asking(ctx)
	defer cancel()
	return s.do(ctx)
}

func changes(steps []step) []Change {
	var out []Change
	for _, s := range steps {
		out = append(out, s.Change)
	}
	return out
}

// plan is what is to be done. Lanes whose task stream is missing start past the
// ids that are still known of them, so that none is given twice.
func (t Topology) plan(ctx context.Context, js jetstream.JetStream) ([]step, error) {
	steps, err := t.differences(ctx, js)
	if err != nil {
		return nil, err
	}
	known := knownIDs{js: js, ns: t.Namespace}
	for i, s := range steps {
		if s.missing == nil || s.missing.Kind != Tasks {
			continue
		}
		highest, err := known.highest(ctx, s.missing.Lane())
		if err != nil {
			return nil, err
		}
		if highest > 0 {
			steps[i] = s.missing.create(js, highest+1)
		}
	}
	return steps, nil
}

// differences compares the broker with the topology.
func (t Topology) differences(ctx context.Context, js jetstream.JetStream) ([]step, error) {
	var steps []step
	for _, s := range t.Streams {
		have, err := s.look(ctx, js)
		if err != nil {
			return nil, err
		}
		if have.stream == nil {
			steps = append(steps, s.create(js, 0))
		} else if st, ok := s.change(js, have.stream); ok {
			steps = append(steps, st)
		}
		for i, c := range s.Consumers {
			if have.consumers[i] == nil {
				steps = append(steps, s.createConsumer(js, c))
			} else if st, ok := s.changeConsumer(js, have.consumers[i], c); ok {
				steps = append(steps, st)
			}
		}
	}
	return steps, nil
}

func (s Stream) create(js jetstream.JetStream, firstSeq uint64) step {
	cfg := s.Config
	c := Change{Object: s.object(), Action: Create}
	if firstSeq > 0 {
		cfg.FirstSeq = firstSeq
		c.Fields = []Field{{Name: "first_seq", Want: text(firstSeq), Have: none}}
	}
	return step{c, &s, func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, cfg)
		return err
	}}
}

func (s Stream) change(js jetstream.JetStream, have *streamConfig) (step, bool) {
	c, ok := compare(s.object(), s.Kind, streamFields, have, &s.Config)
	cfg := merge(streamFields, *have, &s.Config)
	return step{c, nil, func(ctx context.Context) error {
		_, err := js.UpdateStream(ctx, cfg)
		return err
	}}, ok
}

func (s Stream) createConsumer(js jetstream.JetStream, cfg consumerConfig) step {
	c := Change{Object: s.consumerObject(cfg.Durable), Action: Create}
	return step{c, nil, func(ctx context.Context) error {
		_, err := js.CreateConsumer(ctx, s.Config.Name, cfg)
		return err
	}}
}

func (s Stream) changeConsumer(js jetstream.JetStream, have *consumerConfig, want consumerConfig) (step, bool) {
	c, ok := compare(s.consumerObject(want.Durable), s.Kind, consumerFields, have, &want)
	cfg := merge(consumerFields, *have, &want)
	return step{c, nil, func(ctx context.Context) error {
		_, err := js.UpdateConsumer(ctx, s.Config.Name, cfg)
		return err
	}}, ok
}

func (s Stream) consumerObject(durable string) string {
	return "consumer " + s.Config.Name + "/" + durable
}

func (s Stream) object() string { return "stream " + s.Config.Name }

// compare is the change that makes have like want; false where they are alike.
func compare[C any](object string, kind Kind, fields []field[C], have, want *C) (Change, bool) {
	c := Change{Object: object, Action: Update}
	for _, f := range fields {
		is, must := f.text(have), f.text(want)
		if is == must {
			continue
		}
		c.Fields = append(c.Fields, Field{Name: f.name, Want: must, Have: is, Contract: f.contract(kind)})
		if f.fixed(have, want) {
			c.Action = Replace
		}
	}
	return c, len(c.Fields) > 0
}

// merge is have with the managed fields of want.
func merge[C any](fields []field[C], have C, want *C) C {
	for _, f := range fields {
		f.copy(&have, want)
	}
	return have
}

// found is what the broker holds of a stream and of its consumers, in their
// order; nil is what it does not hold.
type found struct {
	stream    *streamConfig
	consumers []*consumerConfig
}

// asking bounds one request: an answer that is lost with a leader must not take
// the time that there is for all.
func asking(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 5*time.Second)
}

func (s Stream) look(ctx context.Context, js jetstream.JetStream) (found, error) {
	have := found{consumers: make([]*consumerConfig, len(s.Consumers))}
	stream, err := lookStream(ctx, js, s.Config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return have, nil
	}
	if err != nil {
		return have, fmt.Errorf("%s: %w", s.object(), err)
	}
	have.stream = &stream.CachedInfo().Config
	for i, c := range s.Consumers {
		if have.consumers[i], err = lookConsumer(ctx, js, s.Config.Name, c.Durable); err != nil {
			return have, fmt.Errorf("%s: %w", s.consumerObject(c.Durable), err)
		}
	}
	return have, nil
}

func lookStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	ctx, cancel := asking(ctx)
	defer cancel()
	return js.Stream(ctx, name)
}

func lookConsumer(ctx context.Context, js jetstream.JetStream, stream, name string) (*consumerConfig, error) {
	ctx, cancel := asking(ctx)
	defer cancel()
	pull, err := js.Consumer(ctx, stream, name)
	switch {
	case err == nil:
		return &pull.CachedInfo().Config, nil
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, nil //nolint:nilnil // absence is an answer here
	case !errors.Is(err, jetstream.ErrNotPullConsumer):
		return nil, err
	}
	push, err := js.PushConsumer(ctx, stream, name)
	if err != nil {
		return nil, err
	}
	return &push.CachedInfo().Config, nil
}
