package schedules

import (
	"fmt"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/jonboulle/clockwork"
)

// waker wakes the loop at every whole second, since all nominal times are such.
// It decides nothing: a wake that comes late, twice or not at all changes only
// when somebody looks.
type waker struct {
	C         chan struct{}
	scheduler gocron.Scheduler
}

func newWaker(clock clockwork.Clock) (*waker, error) {
	s, err := gocron.NewScheduler(gocron.WithClock(clock), gocron.WithLocation(time.UTC))
	if err != nil {
		return nil, fmt.Errorf("beat: gocron: %w", err)
	}
	w := &waker{C: make(chan struct{}, 1), scheduler: s}
	first := clock.Now().Truncate(time.Second).Add(time.Second)
	_, err = s.NewJob(gocron.DurationJob(time.Second), gocron.NewTask(w.wake), gocron.WithStartAt(gocron.WithStartDateTime(first)))
	if err != nil {
		_ = s.Shutdown()
		return nil, fmt.Errorf("beat: gocron: %w", err)
	}
	s.Start()
	return w, nil
}

// wake never waits: one wake that is not taken yet is enough.
func (w *waker) wake() {
	select {
	case w.C <- struct{}{}:
	default:
	}
}

func (w *waker) stop() { _ = w.scheduler.Shutdown() }
