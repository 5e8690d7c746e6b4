package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pelton/engine"
	"pelton/engine/topology"
)

// TestHeldTasksLeaveRoom: workers that hold a burst until its time leave places
// of the due lane to others. In the control the workers know of no limit.
func TestHeldTasksLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, control := range []bool{false, true} {
		t.Run(fmt.Sprintf("control=%v", control), func(t *testing.T) {
			t.Parallel()
			const workers, slots, places, burst = 3, 4, 320, 1000
			s := newSystem(t, topology.Queue{Name: "default", MaxAckPending: places / 16})
			due, err := s.client.JetStream().Consumer(s.ctx(), "PELTON_LATER_default", "due")
			if err != nil {
				t.Fatal(err)
			}
			limit := func(n int) {
				cfg := due.CachedInfo().Config
				cfg.MaxAckPending = n
				if due, err = s.client.JetStream().UpdateConsumer(s.ctx(), "PELTON_LATER_default", cfg); err != nil {
					t.Fatal(err)
				}
			}
			if control {
				limit(-1)
			}
			for range workers {
				w := engine.NewWorker(s.connect(), engine.WorkerConfig{Queues: one(slots), Setup: engine.SetupOff})
				engine.HandleRaw(w, "work", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil }, engine.WithoutResult())
				s.work(w)
			}
			for range 300 { // whoever has run nothing holds no more than its slots
				s.publish("pelton.task.default.work", `1`)
			}
			s.empty("default")
			limit(places)
			bodies := make([][]byte, burst)
			for i := range bodies {
				bodies[i] = []byte(`1`)
			}
			most, enough := 0, workers*slots
			if control {
				enough = places
			}
			for tries := 0; most < enough && tries < 5; tries++ { // a busy machine may be too slow for a burst
				at, ctx := time.Now().Add(2*time.Second), s.ctx()
				if _, err := s.client.SendManyRaw(ctx, "default", "work", bodies, engine.WithETA(at)); err != nil {
					t.Fatal(err)
				}
				for time.Now().Before(at) {
					info, err := due.Info(ctx)
					if err != nil {
						t.Fatal(err)
					}
					most = max(most, info.NumAckPending)
				}
				s.empty("default")
			}
			t.Logf("at most %d of %d places were taken before the time", most, places)
			if full := most >= places; full != control {
				t.Errorf("%d of %d places were taken, full %v, want %v", most, places, full, control)
			}
			if !control && most < workers*slots {
				t.Errorf("%d tasks were held by %d workers of %d slots", most, workers, slots)
			}
		})
	}
}
