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
	watcher jetstream.KeyWatcher // nil where there is no bucket
	unwatch context.CancelFunc

	some atomic.Bool // there are any
	mu   sync.RWMutex
	runs map[revokedTask]int
}

func newRevocations(w *Worker) *revocations {
	return &revocations{w: w, runs: map[revokedTask]int{}}
}

// bind reads what is revoked already: a task that was revoked while no worker
// lived shall not run.
func (r *revocations) bind(ctx context.Context) error {
	kv, err := r.w.c.js.KeyValue(ctx, r.w.c.ns.RevokedBucket())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		r.w.log.WarnContext(ctx, "there is no bucket of revocations, running tasks cannot be revoked", "bucket", r.w.c.ns.RevokedBucket())
		return nil
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", r.w.c.ns.RevokedBucket(), err)
	}
	keys := make([]string, len(r.w.cfg.Queues))
	for i, q := range r.w.cfg.Queues {
		keys[i] = q.Name + ".*"
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	watcher, err := kv.WatchFiltered(watching, keys)
	if err != nil {
		unwatch()
		return fmt.Errorf("bucket %s: %w", r.w.c.ns.RevokedBucket(), err)
	}
	for {
		select {
		case entry := <-watcher.Updates():
			if entry == nil {
				r.watcher, r.unwatch = watcher, unwatch
				return nil
			}
			r.note(entry)
		case <-ctx.Done():
			_ = watcher.Stop()
			unwatch()
			return ctx.Err()
		}
	}
}

// run hears of revocations until ctx is done; what it listens to stays open
// until stop. When the connection is back they
// are all read again: the watcher would take ten seconds to see that it is not
// told any more.
func (r *revocations) run(ctx context.Context) {
	if r.watcher == nil {
		return
	}
	reconnected := r.w.c.nc.StatusChanged(nats.CONNECTED)
	defer r.w.c.nc.RemoveStatusListener(reconnected)
	for {
		select {
		case <-ctx.Done():
			return
		case <-reconnected:
			r.stop()
			if err := r.w.c.persist(ctx, r.bind); err != nil || r.watcher == nil {
				return
			}
		case entry, more := <-r.watcher.Updates():
			if !more {
				return
			}
			if entry != nil {
				r.note(entry)
			}
		}
	}
}

func (r *revocations) stop() {
	if r.watcher != nil {
		_ = r.watcher.Stop()
		r.unwatch()
		r.watcher = nil
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
	_, err = c.js.Publish(ctx, c.ns.RevokedSubject(r.Queue, r.ID), value)
	if classify(err) == outcomeAbsent {
		return fmt.Errorf("bucket %s: %w", c.ns.RevokedBucket(), ErrNoQueue)
	}
	return err
}

// parked reports whether a task waits for its time: then its record alone decides
// whether and when it runs,
// because whoever takes it must claim that first.
func parked(s wire.State) bool { return s == wire.StateScheduled || s == wire.StateRetrying }
