package engine

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// A stream that has no leader looks like no stream: nobody answers. A broker that
// stands alone has one again when it is back; the nodes of a cluster wait up to
// nine seconds for a leader that is gone before they elect another.
const (
	absentAlone   = 700 * time.Millisecond
	absentCluster = 15 * time.Second
)

// absence is for how long nobody has answered for a queue. The zero value is one
// that has not begun.
type absence struct {
	since time.Time
	asked bool
}

func (a *absence) began() bool { return !a.since.IsZero() }

// believed reports whether the queue does not exist, after another request that
// nobody answered.
func (a *absence) believed(ctx context.Context, c *Client, lane wire.Lane) bool {
	if !a.began() {
		a.since = time.Now()
	}
	lasts := time.Since(a.since)
	if lasts < absentAlone {
		return false
	}
	if !c.replicated() || lasts >= absentCluster {
		return true
	}
	if a.asked {
		return false
	}
	a.asked = true
	return c.noStream(ctx, c.ns.TaskStream(lane))
}

// noStream reports whether the leader of the cluster says that there is no such
// stream. Who may not ask does not know.
func (c *Client) noStream(ctx context.Context, stream string) bool {
	if c.asksNothing.Load() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.permitted(ctx, apiPrefix+"STREAM.INFO."+stream, func(ctx context.Context) error {
		_, err := c.js.Stream(ctx, stream)
		return err
	})
	if errors.Is(err, ErrForbidden) {
		c.asksNothing.Store(true)
	}
	return errors.Is(err, jetstream.ErrStreamNotFound)
}
