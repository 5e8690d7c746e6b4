package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// revocation is the value under a revoked task's key. Anybody's `{}` revokes
// every run.
type revocation struct {
	Run int `json:"run,omitempty"` // the highest run that is revoked; 0 for all
}

// revokedTask is what the bucket's keys name.
type revokedTask struct{ queue, id string }

// revocations are the revoked tasks of the worker's queues, as the bucket tells
// them: what is about to begin is looked up here, what runs is stopped. A plain
// first delivery costs no more than that, because its record is not looked at.
type revocations struct {
	w       *Worker
	watches []*watch // none where there is no bucket

	some atomic.Bool // there are any
	mu   sync.RWMutex
	runs map[revokedTask]int
}

func newRevocations(w *Worker) *revocations {
	return &revocations{w: w, runs: map[revokedTask]int{}}
}

// watch hears of the revocations of one queue. Each queue has one of its own:
// one for several would need the right to hear of all there are.
type watch struct {
	of      *revocations
	queue   string
	watcher jetstream.KeyWatcher // nil while it does not hear
	unwatch context.CancelFunc
}

// bind reads what is revoked already: a task that was revoked while no worker
// lived shall not run.
func (r *revocations) bind(ctx context.Context) error {
	watches := make([]*watch, len(r.w.cfg.Queues))
	for i, q := range r.w.cfg.Queues {
		watches[i] = &watch{of: r, queue: q.Name}
	}
	for _, v := range watches {
		err := v.bind(ctx)
		if err == nil {
			continue
		}
		stopAll(watches)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			r.w.log.WarnContext(ctx, "there is no bucket of revocations, running tasks cannot be revoked", "bucket", r.w.c.ns.RevokedBucket())
			return nil
		}
		return err
	}
	r.watches = watches
	return nil
}

// bind begins to hear, and returns when all that is there has been heard.
func (v *watch) bind(ctx context.Context) error {
	c := v.of.w.c
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	v.unwatch = unwatch
	err := c.AskAPI(ctx, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, unwatch)() // until all is heard
		kv, err := c.js.KeyValue(ctx, c.ns.RevokedBucket())
		if err != nil {
			return err
		}
		if v.watcher, err = kv.WatchFiltered(watching, []string{v.queue + ".*"}); err != nil {
			return err
		}
		return v.hearAll(ctx)
	})
	if err != nil {
		v.stop()
		return fmt.Errorf("bucket %s: %w", c.ns.RevokedBucket(), err)
	}
	return nil
}

// hearAll takes what stands in the bucket.
func (v *watch) hearAll(ctx context.Context) error {
	for {
		select {
		case entry, more := <-v.watcher.Updates():
			switch {
			case entry != nil:
				v.of.note(entry)
			case more:
				return nil
			default:
				return errors.Join(context.Cause(ctx), jetstream.ErrConsumerDeleted)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run hears of revocations until ctx is done; what it listens to stays open
// until stop.
func (r *revocations) run(ctx context.Context) {
	var group sync.WaitGroup
	for _, v := range r.watches {
		group.Go(func() { v.run(ctx) })
	}
	group.Wait()
}

// run hears until ctx is done. When the connection is back everything is read
// again: the watcher would take ten seconds to see that it is not told any more.
func (v *watch) run(ctx context.Context) {
	c := v.of.w.c
	reconnected := c.nc.StatusChanged(nats.CONNECTED)
	defer c.nc.RemoveStatusListener(reconnected)
	for {
		select {
		case <-ctx.Done():
			return
		case <-reconnected:
			v.stop()
			if err := c.persist(ctx, v.bind); err != nil {
				return
			}
		case entry, more := <-v.watcher.Updates():
			if !more {
				return
			}
			if entry != nil {
				v.of.note(entry)
			}
		}
	}
}

func (v *watch) stop() {
	if v.watcher != nil {
		_ = v.watcher.Stop()
		v.watcher = nil
	}
	v.unwatch()
}

func (r *revocations) stop() { stopAll(r.watches) }

func stopAll(watches []*watch) {
	for _, v := range watches {
		if v.unwatch != nil {
			v.stop()
		}
	}
}

// note takes a change of the bucket. A key that has gone has been kept as long
// as the records.
func (r *revocations) note(entry jetstream.KeyValueEntry) {
	queue, id, _ := strings.Cut(entry.Key(), ".")
	task := revokedTask{queue, id}
	if entry.Operation() != jetstream.KeyValuePut {
		r.mu.Lock()
		delete(r.runs, task)
		r.mu.Unlock()
		return
	}
	var said revocation
	if json.Unmarshal(entry.Value(), &said) != nil || said.Run < 0 {
		said.Run = 0
	}
	r.mu.Lock()
	r.runs[task] = said.Run
	r.mu.Unlock()
	r.some.Store(true)
	for _, d := range r.w.leases.find(task) {
		if r.has(d) {
			d.revoke()
		}
	}
}

// has reports whether the task of a delivery is revoked.
func (r *revocations) has(d *delivery) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	run, revoked := r.runs[revokedTask{d.queue(), d.id}]
	return revoked && (run == 0 || d.meta.Run <= run)
}

// revoke puts a task's key into the bucket, so that workers drop it or stop it.
func (c *Client) revoke(ctx context.Context, r *Record) error {
	value, err := json.Marshal(revocation{Run: r.Run})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	subject := c.ns.RevokedSubject(r.Queue, r.ID)
	err = c.permitted(ctx, subject, func(ctx context.Context) error {
		_, err := c.js.Publish(ctx, subject, value)
		return err
	})
	if classify(err) == outcomeAbsent {
		return fmt.Errorf("bucket %s: %w", c.ns.RevokedBucket(), ErrNoQueue)
	}
	return err
}

// parked reports whether a task waits for its time: then its record alone decides
// whether and when it runs,
// because whoever takes it must claim that first.
func parked(s wire.State) bool { return s == wire.StateScheduled || s == wire.StateRetrying }
