package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pelton/engine/topology"
	"pelton/engine/wire"
)

// SetupMode says what a role may do about the streams and consumers it needs.
type SetupMode string

// The modes of setup.
const (
	// SetupVerify: look, and refuse to start where the contract is not met.
	SetupVerify SetupMode = "verify"
	// SetupManage: make what is missing and mend what differs, at the start
	// and whenever a consumer has gone.
	SetupManage SetupMode = "manage"
	// SetupOff: do not look. For those who may not read a stream's settings.
	SetupOff SetupMode = "off"
)

func (m SetupMode) validate() error {
	switch m {
	case SetupVerify, SetupManage, SetupOff:
		return nil
	}
	return fmt.Errorf("setup.mode must be verify, manage or off, got %q", string(m))
}

// topology is what a worker needs: its queues, the dead letters and the
// revocations. One that manages makes the entries of beat, too.
func (w *Worker) topology() (topology.Topology, error) {
	wanted := w.cfg.Topology
	wanted.Namespace, wanted.Queues = w.c.ns, nil
	for _, q := range w.cfg.Queues {
		settings := topology.Queue{Name: q.Name}
		for _, given := range w.cfg.Topology.Queues {
			if given.Name == q.Name {
				settings = given
			}
		}
		if len(q.Priorities) > 0 {
			settings.Priorities = q.Priorities
		}
		wanted.Queues = append(wanted.Queues, settings)
	}
	all, err := topology.New(wanted)
	if w.cfg.Setup == SetupManage {
		return all, err // what setup would make
	}
	return all.Only(func(s topology.Stream) bool { return s.Kind != topology.Schedules }), err
}

// Ensure waits for the broker and then does what the mode says about streams,
// consumers and buckets; a role calls it before its work. What is missing or
// against the contract is an error that names the field, both values and the
// command that mends it (topology.ErrMissing, topology.ErrDrift). A broker that
// does not answer is waited for, with one warning, until ctx is done.
func (c *Client) Ensure(ctx context.Context, mode SetupMode, topo topology.Topology) error {
	if err := mode.validate(); err != nil {
		return err
	}
	if err := waitConnected(ctx, c.nc, c.log); err != nil {
		return err
	}
	return c.persist(ctx, func(ctx context.Context) error { return c.ensureOnce(ctx, mode, topo) })
}

// ensureOnce has no deadline of its own: each of its requests has one.
func (c *Client) ensureOnce(ctx context.Context, mode SetupMode, topo topology.Topology) error {
	return c.AskAPI(ctx, func(ctx context.Context) error {
		switch mode {
		case SetupManage:
			_, err := topology.Apply(ctx, c.js, topo)
			return err
		case SetupVerify:
			return topology.Verify(ctx, c.js, topo)
		default:
			return nil
		}
	})
}

// persist tries until the broker answers or ctx is done.
func (c *Client) persist(ctx context.Context, try func(context.Context) error) error {
	for warned := false; ; warned = true {
		err := try(ctx)
		if err == nil || !temporary(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !warned {
			c.log.WarnContext(ctx, "jetstream does not answer, trying on", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// bind makes the pools once the broker meets the contract.
func (w *Worker) bind(ctx context.Context) ([]*pool, error) {
	topo, err := w.topology()
	if err != nil {
		return nil, err
	}
	if err := w.c.Ensure(ctx, w.cfg.Setup, topo); err != nil {
		return nil, err
	}
	var pools []*pool
	err = w.c.persist(ctx, func(ctx context.Context) error {
		pools = pools[:0]
		for _, q := range w.cfg.Queues {
			p := newPool(w, q)
			for _, ln := range p.lanes {
				consumer, err := bindable(ctx, w.c, w.c.ns.TaskStream(ln.lane), wire.WorkersDurable)
				if err != nil {
					return err
				}
				ln.ackWait = consumer.AckWait
				ln.asideMost = shareOf(consumer.MaxAckPending)
				p.keeping.most = min(p.keeping.most, ln.asideMost)
				due, err := bindable(ctx, w.c, w.c.ns.LaterStream(ln.lane), wire.DueDurable)
				if err != nil {
					return err
				}
				p.holdMost = min(p.holdMost, shareOf(due.MaxAckPending))
			}
			p.kept = make(chan kept, p.keeping.most)
			pools = append(pools, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return pools, w.bindRevocations(ctx)
}

// bindRevocations waits for the bucket of revocations to answer. A worker that
// may not look at settings may have no right to it either: it goes on without.
func (w *Worker) bindRevocations(ctx context.Context) error {
	if w.cfg.Setup != SetupOff {
		return w.c.persist(ctx, w.revocations.bind)
	}
	trying, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := w.revocations.bind(trying); err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "cannot read the revocations, tasks that run cannot be revoked", "err", err)
	}
	return ctx.Err()
}

// temporary reports whether a set-up failed only because nobody answered.
func temporary(err error) bool {
	if errors.Is(err, topology.ErrDrift) || errors.Is(err, topology.ErrMissing) || errors.Is(err, ErrForbidden) || errors.Is(err, wire.ErrInvalidName) {
		return false
	}
	return classify(err) == outcomeUnknown || classify(err) == outcomeAbsent
}

// mend makes a consumer again that has gone, where the worker may: beside what
// it does, one at a time.
func (w *Worker) mend() {
	if w.cfg.Setup != SetupManage || !w.mending.CompareAndSwap(false, true) {
		return
	}
	w.aside.Go(func() {
		defer w.mending.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout) //nolint:forbidigo // bounded, and waited for
		defer cancel()
		topo, err := w.topology()
		if err == nil {
			err = w.c.ensureOnce(ctx, w.cfg.Setup, topo)
		}
		if err != nil && !temporary(err) {
			w.log.WarnContext(ctx, "cannot mend streams and consumers", "err", err)
		}
	})
}
