package schedules

import (
	"context"
	"time"
)

// clockEvery is how often the broker is asked for its time.
const clockEvery = 10 * time.Second

// brokerTime is what the broker has said of its time, and when that was by the
// own monotonic clock. Reckoned on by that, a wall clock that is set wrong
// between two looks is noticed at once.
type brokerTime struct{ theirs, at time.Time }

func (t brokerTime) now() time.Time { return t.theirs.Add(time.Since(t.at)) }

// readClock asks the broker for its time.
func (b *Beat) readClock(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sent := time.Now()
	stream, err := b.c.JetStream().Stream(asking, b.c.Namespace().SchedulesStream())
	if err != nil {
		return storeError("stream "+b.c.Namespace().SchedulesStream(), err)
	}
	// The answer is older than its arrival, so what is reckoned from it is never
	// later than the broker's time. One that was long on its way tells little.
	t := &brokerTime{theirs: stream.CachedInfo().TimeStamp, at: time.Now()}
	late := t.at.Sub(sent)
	if t.theirs.IsZero() || late > ahead/2 && b.broker.Load() != nil {
		return nil
	}
	b.broker.Store(t)
	before := b.clock.Now().Sub(t.theirs)
	early, slow := before > ahead+late, before < -ahead
	switch {
	case b.toldWrong:
	case early:
		b.log.WarnContext(ctx, "the clock of this machine is before the broker's: it is held back", "by", before.Round(time.Millisecond), "at_most", ahead)
	case slow:
		b.log.WarnContext(ctx, "the clock of this machine is behind the broker's: what this beat sends is late", "by", -before.Round(time.Millisecond))
	}
	b.toldWrong = early || slow
	return nil
}

// watchClock asks for the broker's time now and then, until ctx is done.
func (b *Beat) watchClock(ctx context.Context) {
	for pause(ctx, clockEvery) == nil {
		_ = b.readClock(ctx) // a broker that is away tells nothing, and gets nothing sent
	}
}

// now is the own clock, held back where it is more than ahead of the broker's.
func (b *Beat) now() time.Time {
	now := b.clock.Now()
	if t := b.broker.Load(); t != nil {
		if most := t.now().Add(ahead); now.After(most) {
			return most
		}
	}
	return now
}
