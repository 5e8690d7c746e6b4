package engine_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/enginetest"
)

// healsWithin is how soon tasks are delivered again after the fault.
const healsWithin = 5 * time.Second

// deliveries tells when tasks began that were sent all the time.
type deliveries struct {
	s *system

	mu   sync.Mutex
	sent time.Time // when the last that began was sent
	at   time.Time // when it began
}

// began notes a task by its body, which is when it was sent.
func (d *deliveries) began(body []byte) {
	sent, _ := strconv.ParseInt(string(body), 10, 64)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent, d.at = time.Unix(0, sent), time.Now()
}

// last is when the task was sent that began last, and when it began.
func (d *deliveries) last() (sent, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sent, d.at
}

// flow sends a task every 20 ms until the test ends, what the broker does not
// take included.
func (d *deliveries) flow() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := d.s.connect()
	go func() {
		defer close(done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			sending, end := context.WithTimeout(ctx, time.Second)
			_, _ = c.SendRaw(sending, "default", "flow", fmt.Append(nil, time.Now().UnixNano())) // some meet a broker that is not there
			end()
		}
	}()
	d.s.t.Cleanup(func() { cancel(); <-done })
	d.s.until("tasks flow", func() bool { _, at := d.last(); return !at.IsZero() })
}

// resumed is how long after a moment the first task began that was sent after it,
// which is more than within where none did. What was sent before may have arrived
// before, and begin at any time.
func (d *deliveries) resumed(after time.Time, within time.Duration) time.Duration {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if sent, at := d.last(); sent.After(after) {
			return at.Sub(after)
		}
		if time.Since(after) > within {
			break
		}
	}
	return time.Since(after)
}

// disturbance is a fault of what a worker fetches by; it returns when it is done.
type disturbance struct {
	name string
	do   func(*testing.T, *system, *enginetest.Link)
	// blind is whether a consumer of the library's heals from it as soon: then
	// the comparison shows nothing.
	blind bool
}

var disturbances = []disturbance{
	{"the broker restarts", func(t *testing.T, s *system, _ *enginetest.Link) {
		if err := s.broker.Restart(); err != nil {
			t.Fatal(err)
		}
	}, true},
	{"the connection is half open", func(_ *testing.T, _ *system, link *enginetest.Link) { link.HalfOpen() }, false},
	{"a request is lost", func(_ *testing.T, _ *system, link *enginetest.Link) { <-link.Lose("MSG.NEXT.PELTON_TASKS_default") }, true},
	{"the consumer is deleted and made again", func(t *testing.T, s *system, _ *enginetest.Link) {
		if err := s.client.JetStream().DeleteConsumer(s.ctx(), "PELTON_TASKS_default", "workers"); err != nil {
			t.Fatal(err)
		}
		s.broker.Setup("default")
	}, false},
}

// TestFetchingHeals disturbs a worker that works, and measures when it does
// again.
func TestFetchingHeals(t *testing.T) {
	for _, tc := range disturbances {
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t)
			d := &deliveries{s: s}
			link := s.broker.Link()
			c, err := engine.Connect(s.ctx(), link.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			w := engine.NewWorker(c, engine.WorkerConfig{Queues: one(1)})
			engine.HandleRaw(w, "flow", func(_ context.Context, m *engine.Message) ([]byte, error) {
				d.began(m.Body)
				return nil, nil
			})
			s.work(w)
			d.flow()
			tc.do(t, s, link)
			took := d.resumed(time.Now(), healsWithin)
			t.Logf("deliveries resumed after %s", took.Round(time.Millisecond))
			if took > healsWithin {
				t.Errorf("no task within %s", healsWithin)
			}
		})
	}
}

// TestConsumeDoesNotHeal is the control: a consumer of the library's, with the
// same connection, must not be back as soon, or the test above is blind.
func TestConsumeDoesNotHeal(t *testing.T) {
	for _, tc := range disturbances {
		if tc.blind {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			s := newSystem(t)
			d := &deliveries{s: s}
			link := s.broker.Link()
			c, err := engine.Connect(s.ctx(), link.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			consumer, err := c.JetStream().Consumer(s.ctx(), "PELTON_TASKS_default", "workers")
			if err != nil {
				t.Fatal(err)
			}
			consuming, err := consumer.Consume(func(m jetstream.Msg) {
				d.began(m.Data())
				_ = m.Ack()
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				consuming.Stop()
				<-consuming.Closed()
			})
			d.flow()
			tc.do(t, s, link)
			if took := d.resumed(time.Now(), healsWithin); took <= healsWithin {
				t.Errorf("deliveries resumed after %s: the test of healing is blind", took)
			}
		})
	}
}

// TestStartGoesOnPastALostRequest: a worker that starts asks for many things, one
// after the other. An answer that never comes, as where a leader is gone, takes the
// time of one request and not that of all.
func TestStartGoesOnPastALostRequest(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	link := s.broker.Link()
	c, err := engine.Connect(s.ctx(), link.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	lost := link.Lose("STREAM.INFO.PELTON_TASKS_default")
	r, err := s.client.SendRaw(s.ctx(), "default", "flow", []byte(`1`))
	if err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorker(c, engine.WorkerConfig{Queues: one(1)})
	engine.HandleRaw(w, "flow", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
	s.work(w)
	<-lost
	since := time.Now()
	if _, err := s.client.Wait(s.ctx(), "default", r.ID()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(since)
	t.Logf("works %s after a request was lost", took.Round(time.Millisecond))
	if took > 20*time.Second {
		t.Error("one lost request took the time of all")
	}
}
