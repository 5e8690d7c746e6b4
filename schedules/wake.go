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
	clock     clockwork.Clock
	scheduler gocron.Scheduler
	overslept *time.Timer
}

// oversleep is how long it may be silent. gocron waits until the wall clock shows
// the next second, and where that was set back by an hour, for an hour.
const oversleep = 3 * time.Second

func newWaker(clock clockwork.Clock) (*waker, error) {
	w := &waker{C: make(chan struct{}, 1), clock: clock, overslept: time.NewTimer(oversleep)}
	return w, w.begin()
}

// begin makes a scheduler, in place of the one before.
func (w *waker) begin() error {
	w.stop()
	w.overslept.Reset(oversleep)
	s, err := gocron.NewScheduler(gocron.WithClock(w.clock), gocron.WithLocation(time.UTC))
	if err != nil {
		return fmt.Errorf("beat: gocron: %w", err)
	}
	w.scheduler = s
	first := w.clock.Now().Truncate(time.Second).Add(time.Second)
	_, err = s.NewJob(gocron.DurationJob(time.Second), gocron.NewTask(w.wake), gocron.WithStartAt(gocron.WithStartDateTime(first)))
	if err != nil {
		w.stop()
		return fmt.Errorf("beat: gocron: %w", err)
	}
	s.Start()
	return nil
}

// woken notes that it is not silent.
func (w *waker) woken() { w.overslept.Reset(oversleep) }

// wake never waits: one wake that is not taken yet is enough.
func (w *waker) wake() {
	select {
	case w.C <- struct{}{}:
	default:
	}
}

func (w *waker) stop() {
	w.overslept.Stop()
	if w.scheduler != nil {
		_ = w.scheduler.Shutdown()
		w.scheduler = nil
	}
}
