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
	return c.presence(ctx, c.ns.TaskStream(lane)) == missing
}

// leaderless reports whether a stream that does not answer is one that waits for
// its leader, as far as this client may know.
func (c *Client) leaderless(ctx context.Context, stream string) bool {
	return c.replicated() && c.presence(ctx, stream) == present
}

// presence is what the leader of a cluster says of a stream. Who may not ask, or
// has no answer, does not know.
type presence int

const (
	unknown presence = iota
	missing
	present
)

func (c *Client) presence(ctx context.Context, stream string) presence {
	if c.asksNothing.Load() {
		return unknown
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.permitted(ctx, apiPrefix+"STREAM.INFO."+stream, func(ctx context.Context) error {
		_, err := c.js.Stream(ctx, stream)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return missing
	case err == nil, isNotLeader(err): // it has a leader again, or waits for one
		return present
	case errors.Is(err, ErrForbidden):
		c.asksNothing.Store(true)
	}
	return unknown
}
