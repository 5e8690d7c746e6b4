package engine

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
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
	told  bool // that the stream is there, or that this client may not ask
}

func (a *absence) began() bool { return !a.since.IsZero() }

// believed reports whether the queue does not exist, after another request that
// nobody answered.
func (a *absence) believed(ctx context.Context, c *Client, lane wire.Lane) bool {
	if !a.began() {
		a.since = time.Now()
	}
	lasts := time.Since(a.since)
	if lasts < absentAlone || c.nc.Status() != nats.CONNECTED {
		return false
	}
	if !c.replicated() || lasts >= absentCluster {
		return true
	}
	if a.told {
		return false
	}
	missing, told := c.missing(ctx, c.ns.TaskStream(lane))
	a.told = told
	return missing
}

// missing asks the leader of the cluster whether there is no such stream. It is
// silent while a stream's leader is sought. A client that may not ask is told so
// once for each stream.
func (c *Client) missing(ctx context.Context, stream string) (missing, told bool) {
	if _, forbidden := c.unasked.Load(stream); forbidden {
		return false, true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.permitted(ctx, apiPrefix+"STREAM.INFO."+stream, func(ctx context.Context) error {
		_, err := c.js.Stream(ctx, stream)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return true, true
	case errors.Is(err, ErrForbidden):
		c.unasked.Store(stream, true)
		return false, true
	}
	return false, err == nil
}
