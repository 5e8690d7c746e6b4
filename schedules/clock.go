package schedules

import (
	"context"
	"time"
)

// clockEvery is how often the own clock is compared with the broker's.
const clockEvery = 10 * time.Second

// reading is what the broker's clock has shown at a moment.
type reading struct {
	shown time.Time
	at    time.Time // by a clock that nobody sets
}

// now is the broker's time, as far as can be told without asking it again.
func (r *reading) now() time.Time { return r.shown.Add(time.Since(r.at)) }

// now is the own clock, held back where it is more than ahead of the broker's,
// and at once where somebody has just set it.
func (b *Beat) now() time.Time {
	own := b.clock.Now().Round(0)
	r := b.brokerClock.Load()
	if r == nil {
		return own
	}
	if most := r.now().Add(ahead); own.After(most) {
		return most
	}
	return own
}

// readClock asks the broker for its time.
func (b *Beat) readClock(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, retryTurn*5)
	defer cancel()
	sent := time.Now()
	stream, err := b.c.JetStream().Stream(asking, b.c.Namespace().SchedulesStream())
	if err != nil {
		return storeError("stream "+b.c.Namespace().SchedulesStream(), err)
	}
	theirs := stream.CachedInfo().TimeStamp
	if theirs.IsZero() {
		return nil // a server that does not tell
	}
	r := &reading{shown: theirs, at: sent.Add(time.Since(sent) / 2)}
	b.brokerClock.Store(r)
	before := b.clock.Now().Round(0).Sub(r.now())
	was := b.heldBack.Swap(before > ahead)
	if before > ahead && !was {
		b.log.WarnContext(ctx, "the clock of this machine is before the broker's: it is held back", "by", before.Round(time.Millisecond), "at_most", ahead)
	}
	return nil
}

// watchClock compares the clocks now and then, until ctx is done.
func (b *Beat) watchClock(ctx context.Context) {
	for pause(ctx, clockEvery) == nil {
		_ = b.readClock(ctx) // a broker that is away tells nothing, and gets nothing sent
	}
}
