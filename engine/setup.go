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

// topology is what a worker needs: its queues, and the dead letters.
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
		wanted.Queues = append(wanted.Queues, settings)
	}
	return topology.New(wanted)
}

// setup does what the mode says.
func (w *Worker) setup(ctx context.Context) error {
	topo, err := w.topology()
	if err != nil {
		return err
	}
	switch w.cfg.Setup {
	case SetupManage:
		_, err := topology.Apply(ctx, w.c.js, topo)
		return err
	case SetupVerify:
		return topology.Verify(ctx, w.c.js, topo)
	default:
		return nil
	}
}

// bind makes the pools once the broker meets the contract. A broker that does
// not answer is asked again until ctx is done.
func (w *Worker) bind(ctx context.Context) ([]*pool, error) {
	warned := false
	for {
		pools, err := w.bindOnce(ctx)
		if err == nil || !temporary(err) {
			return pools, err
		}
		if !warned && ctx.Err() == nil {
			w.log.WarnContext(ctx, "jetstream does not answer, trying on", "err", err)
			warned = true
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (w *Worker) bindOnce(ctx context.Context) ([]*pool, error) {
	setting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := w.setup(setting); err != nil {
		return nil, err
	}
	pools := make([]*pool, 0, len(w.cfg.Queues))
	for _, q := range w.cfg.Queues {
		lane := wire.PlainLane(q.Name)
		ackWait, err := bindable(ctx, w.c, w.c.ns.TaskStream(lane), wire.WorkersDurable)
		if err != nil {
			return nil, err
		}
		pools = append(pools, newPool(w, lane, q.Slots, ackWait))
	}
	return pools, nil
}

// temporary reports whether a set-up failed only because nobody answered.
func temporary(err error) bool {
	if errors.Is(err, topology.ErrDrift) || errors.Is(err, topology.ErrMissing) || errors.Is(err, wire.ErrInvalidName) {
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
		if err := w.setup(ctx); err != nil && !temporary(err) {
			w.log.WarnContext(ctx, "cannot mend streams and consumers", "err", err)
		}
	})
}
