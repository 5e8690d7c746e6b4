package engine

import (
	"context"
	"sync"
	"time"
)

const (
	// keepWithin is how soon an attempt must be due for the worker to keep its
	// task: the broker needs fireEarly and up to a tick of its timer (250 ms) to
	// make a parked one due, and a little for the way there and back. What waits
	// longer is parked.
	keepWithin = fireEarly + 300*time.Millisecond
	// workersShare of the tasks that a consumer may have in all hands is what one
	// worker may keep of them, or hold until their time, so that a dozen workers
	// full of such tasks still leave a quarter to others.
	workersShare = 16
)

// kept is a task whose next attempt is due too soon to be parked in time. Its
// record calls for the attempt, and its message stays in the worker's hands:
// should the worker die, the message comes again and the look at the record
// parks what is owed, as after a lost ack.
type kept struct {
	d        *delivery // of the next attempt
	record   *Record   // that calls for it
	revision uint64
}

// keeping counts what a pool keeps, from the outcome that decides it until the
// attempt is ready to run. It is safe for concurrent use.
type keeping struct {
	mu     sync.Mutex
	most   int
	tasks  int
	bytes  int
	closed bool
}

// enter takes room for a task of so many bytes, where there is any.
func (k *keeping) enter(size int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.tasks >= k.most || k.bytes+size > holdBytes {
		return false
	}
	k.tasks++
	k.bytes += size
	return true
}

func (k *keeping) leave(size int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tasks--
	k.bytes -= size
}

func (k *keeping) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tasks
}

// close refuses all that comes from now on.
func (k *keeping) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

// shareOf is how many tasks a worker keeps, or holds until their time, of a
// consumer that may have so many in all hands; less than 1 is no limit.
func shareOf(maxAckPending int) int {
	if maxAckPending < 1 {
		return holdMost
	}
	return min(maxAckPending/workersShare, holdMost)
}

// keep claims the attempt of a kept task while its time has not come.
func (p *pool) keep(working context.Context, k kept) {
	if p.stopping {
		p.unaside(k.d)
		p.handBack(k.d)
		return
	}
	p.lookAt(k.d, func() bool {
		done, run := p.w.claim(lasting(working), k.d, k.record, k.revision, holdAhead)
		if !done { // somebody has changed the record
			run = p.w.prepare(lasting(working), k.d, true)
		}
		return run
	})
}

// returnKept hands back what was kept when the loop had ended: nothing is
// written of it yet that would have to be set right.
func (p *pool) returnKept() {
	for {
		select {
		case k := <-p.kept:
			p.handBack(k.d)
		default:
			return
		}
	}
}
