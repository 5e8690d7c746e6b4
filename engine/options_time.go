package engine

import (
	"fmt"
	"time"

	"pelton/engine/wire"
)

// timing is what a send says about when its task runs, and how urgently.
type timing struct {
	eta       time.Time
	countdown time.Duration // in place of eta, from the moment of the send
	counted   bool          // countdown is given
	expires   time.Time
	expiresIn time.Duration // in place of expires
	priority  wire.Priority
	tracked   bool
}

// WithCountdown delays the task by a time from now, from 0 to a year. It never
// runs early; until its time it waits in the broker, not in a worker. Without
// an id of its own it gets a random one. The caller needs the right to publish
// to the queue's later subjects; who has none sends the header Pelton-Delay.
func WithCountdown(d time.Duration) SendOption {
	return sendOnly(func(o *sendOptions) {
		if d < 0 || d > wire.MaxDuration {
			o.fail(&wire.NameError{Field: "countdown", Value: d.String(), Rule: "must be from 0 to a year (8760h)"})
		}
		o.countdown, o.counted, o.eta = d, true, time.Time{}
	})
}

// WithETA delays the task until a time, at most a year ahead. One that has
// passed runs at once; the record says for when it was meant. See
// [WithCountdown].
func WithETA(t time.Time) SendOption {
	return sendOnly(func(o *sendOptions) { o.eta, o.countdown, o.counted = t, 0, false })
}

// WithExpires ends the task as expired where it has not begun an attempt by a
// time, at most a year ahead and not before its ETA.
func WithExpires(t time.Time) SendOption {
	return sendOnly(func(o *sendOptions) { o.expires, o.expiresIn = t, 0 })
}

// WithExpiresIn is [WithExpires] with a time counted from the send, above 0 and
// at most a year.
func WithExpiresIn(d time.Duration) Option {
	return option(func(o *sendOptions) {
		if d <= 0 || d > wire.MaxDuration {
			o.fail(&wire.NameError{Field: wire.HeaderExpires, Value: d.String(), Rule: "must be above 0 and at most a year (8760h)"})
		}
		o.expires, o.expiresIn = time.Time{}, d
	})
}

// WithPriority sends the task by a lane of its queue, which the queue must
// declare: high or low. The empty one is the plain lane.
func WithPriority(p wire.Priority) Option {
	return option(func(o *sendOptions) {
		if p != wire.PriorityNone && p != wire.PriorityHigh && p != wire.PriorityLow {
			o.fail(&wire.NameError{Field: "priority", Value: string(p), Rule: "must be high or low"})
		}
		o.priority = p
	})
}

// WithTracked writes a record, scheduled, for a task that is sent with a time
// ahead, so that whoever follows records sees it before it runs. It costs one
// more write. Without it the task is found all the same, see [Client.Lookup].
func WithTracked() Option { return option(func(o *sendOptions) { o.tracked = true }) }

// WithRetryWaits names the waits between attempts, one after the other; the
// last one goes on. A single one is a fixed wait. It is the other form of
// [WithBackoff]; of both the last one given counts.
func WithRetryWaits(waits ...time.Duration) Option {
	return option(func(o *sendOptions) {
		value := wire.FormatWaits(waits...)
		if _, err := wire.ParseWaits(value); err != nil {
			o.fail(err)
		}
		o.set(wire.HeaderBackoff, value)
	})
}

func (o *sendOptions) lane() wire.Lane { return wire.Lane{Queue: o.queue, Priority: o.priority} }

// sooner is the least delay that is worth a schedule of the broker's. What is
// due before goes straight to the queue, and the worker that gets it holds it:
// the broker may take up to its tick to make a schedule due.
const sooner = fireEarly

// settleTime turns what was said about time into headers. It reports whether
// the task is to wait in the broker; otherwise it is sent to its queue, with
// its ETA where it has one.
func (o *sendOptions) settleTime(now time.Time) (later bool, err error) {
	if o.err != nil || o.timing == (timing{}) {
		return false, o.err
	}
	if o.counted {
		o.eta = now.Add(o.countdown)
	}
	if o.eta.Sub(now) > wire.MaxDuration {
		return false, &wire.NameError{Field: wire.HeaderETA, Value: wire.FormatTime(o.eta), Rule: "must lie at most a year (8760h) ahead"}
	}
	if err := o.settleExpiry(now); err != nil {
		return false, err
	}
	if o.eta.IsZero() || o.counted && o.countdown == 0 {
		return false, nil
	}
	o.set(wire.HeaderETA, wire.FormatTime(o.eta))
	return o.eta.Sub(now) >= sooner, nil
}

// settleNow is settleTime for futures and for many tasks at once, which do not
// wait for their time in the broker: that takes a look and an id for each.
func (o *sendOptions) settleNow(now time.Time) error {
	later, err := o.settleTime(now)
	if err == nil && later {
		return &wire.NameError{Field: wire.HeaderETA, Value: wire.FormatTime(o.eta), Rule: "must be given to a send that waits, one task at a time"}
	}
	return err
}

// settleExpiry writes the expiry as a time: a duration would begin anew
// wherever the message is stored again.
func (o *sendOptions) settleExpiry(now time.Time) error {
	expires := o.expires
	if o.expiresIn > 0 {
		expires = now.Add(o.expiresIn)
	}
	if expires.IsZero() {
		return nil
	}
	value := wire.FormatTime(expires)
	switch {
	case expires.Sub(now) > wire.MaxDuration:
		return &wire.NameError{Field: wire.HeaderExpires, Value: value, Rule: "must lie at most a year (8760h) ahead"}
	case !expires.After(now):
		return &wire.NameError{Field: wire.HeaderExpires, Value: value, Rule: "must lie ahead"}
	case expires.Before(o.eta):
		return &wire.NameError{Field: wire.HeaderExpires, Value: value, Rule: fmt.Sprintf("must not lie before the ETA, %s", wire.FormatTime(o.eta))}
	}
	o.set(wire.HeaderExpires, value)
	return nil
}
