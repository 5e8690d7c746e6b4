package schedules

import (
	"context"
	"time"
)

// clockEvery is how often the own clock is compared with the broker's.
const clockEvery = 10 * time.Second

// readClock asks the broker for its time.
func (b *Beat) readClock(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, retryTurn*5)
	defer cancel()
	sent := b.clock.Now()
	stream, err := b.c.JetStream().Stream(asking, b.c.Namespace().SchedulesStream())
	if err != nil {
		return storeError("stream "+b.c.Namespace().SchedulesStream(), err)
	}
	theirs := stream.CachedInfo().TimeStamp
	if theirs.IsZero() {
		return nil // a server that does not tell
	}
	before := sent.Add(b.clock.Now().Sub(sent) / 2).Sub(theirs)
	was := time.Duration(b.offset.Swap(int64(before)))
	if before > ahead && was <= ahead {
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
