package produce

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseRate turns a rate such as 1/s, 100/m or 5/h into the interval between
// two messages: a whole number of at least 1 per second, minute or hour, and at
// most one each nanosecond.
func ParseRate(rate string) (time.Duration, error) {
	count, unit, _ := strings.Cut(rate, "/")
	per, ok := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	n, err := strconv.ParseUint(count, 10, 63)
	if !ok || err != nil || n == 0 {
		return 0, fmt.Errorf("rate: %q: must be a whole number per s, m or h, such as 100/m", rate)
	}
	if n > uint64(per) {
		return 0, fmt.Errorf("rate: %q: must be at most %d/%s", rate, per.Nanoseconds(), unit)
	}
	return per / time.Duration(n), nil
}

// catchUp is how far a pacer may fall behind and still make up for it. It
// covers the coarseness of timers, so that high rates come out right, and no
// more: an outage is not followed by a burst.
const catchUp = 100 * time.Millisecond

// pacer spaces messages evenly. It is for one goroutine.
type pacer struct {
	interval time.Duration
	next     time.Time // zero before the first
}

// wait returns when the next message is due, or false where ctx is done first.
func (p *pacer) wait(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	if p.interval <= 0 {
		return true
	}
	now := time.Now()
	if earliest := now.Add(-catchUp); p.next.IsZero() {
		p.next = now
	} else if p.next.Before(earliest) {
		p.next = earliest
	}
	due := p.next.Sub(now)
	p.next = p.next.Add(p.interval)
	if due <= 0 {
		return true
	}
	timer := time.NewTimer(due)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
