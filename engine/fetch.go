package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How pull requests are made (API $JS.API.CONSUMER.MSG.NEXT, ADR-9 and ADR-13).
// A request that is not answered by anything, not even a heartbeat, for
// pullSilence is taken for lost.
const (
	pullExpiry    = 5 * time.Second
	pullHeartbeat = time.Second
	pullSilence   = 2500 * time.Millisecond
	pullRetry     = 250 * time.Millisecond
	pullRetryMost = time.Second
)

// puller asks one consumer for messages, for exactly as many as it is told, and
// knows how many it has asked for that have not come. It belongs to the loop of
// its pool, except for the subscription's callback.
type puller struct {
	nc       *nats.Conn
	log      *slog.Logger
	subject  string // of the requests
	consumer string // stream/durable, for logs
	due      bool
	inbox    string
	sub      *nats.Subscription

	pulls   []pull // oldest first
	next    uint64
	heard   time.Time // last sign of life while something is asked for
	moved   time.Time // when a message came last, or the request that still waits was made
	retryAt time.Time
	wait    time.Duration
	trouble bool // said, until it is over
}

// pull is one request under way.
type pull struct {
	id       string
	left     int // messages it may still bring
	deadline time.Time
}

// newPuller subscribes its inbox; what comes there goes to arrived.
func newPuller(nc *nats.Conn, log *slog.Logger, stream, durable string, due bool, arrived func(*puller, *nats.Msg)) (*puller, error) {
	p := &puller{
		nc: nc, log: log, due: due,
		subject:  apiPrefix + "CONSUMER.MSG.NEXT." + stream + "." + durable,
		consumer: stream + "/" + durable,
		inbox:    nc.NewInbox() + ".",
	}
	sub, err := nc.Subscribe(p.inbox+"*", func(m *nats.Msg) { arrived(p, m) })
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", p.consumer, err)
	}
	p.sub = sub
	return p, nil
}

// pullRequest is the body of a request, ADR-9.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// want asks for what is missing to n messages under way.
func (p *puller) want(n int, now time.Time) {
	n -= p.outstanding()
	if n <= 0 || now.Before(p.retryAt) || p.nc.Status() != nats.CONNECTED {
		return
	}
	body, err := json.Marshal(pullRequest{n, pullExpiry, pullHeartbeat})
	if err != nil {
		return
	}
	p.next++
	id := strconv.FormatUint(p.next, 10)
	if err := p.nc.PublishRequest(p.subject, p.inbox+id, body); err != nil {
		p.retryAt = now.Add(pullRetry)
		return
	}
	if len(p.pulls) == 0 {
		p.heard, p.moved = now, now
	}
	p.pulls = append(p.pulls, pull{id, n, now.Add(pullExpiry + pullSilence)})
}

// outstanding is how many messages may still come.
func (p *puller) outstanding() int {
	n := 0
	for i := range p.pulls {
		n += p.pulls[i].left
	}
	return n
}

// delivered notes that a message came. The broker does not say for which
// request; the oldest is as good as any, because a request that ends says what
// it left, see ended.
func (p *puller) delivered(now time.Time) {
	p.alive(now)
	p.moved = now
	p.take(1)
}

// status reads what comes in place of a message.
func (p *puller) status(m *nats.Msg, now time.Time) {
	id := m.Subject[min(len(p.inbox), len(m.Subject)):]
	left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	switch code := m.Header.Get("Status"); {
	case code == "100":
		p.alive(now)
	case err == nil: // 408, 409 with what is left: the request has ended
		p.alive(now)
		p.ended(id, left)
	case code == "404":
		p.alive(now)
		p.ended(id, 0)
	default: // 503, 409 leadership change, consumer deleted, …: all have ended
		p.fail(now, code+" "+m.Header.Get("Description"))
	}
}

// ended forgets a request that brought all but left messages. What was counted
// for it wrongly was brought by others, and the other way round.
func (p *puller) ended(id string, left int) {
	for i := range p.pulls {
		if p.pulls[i].id == id {
			ended := p.pulls[i]
			p.pulls = append(p.pulls[:i], p.pulls[i+1:]...)
			// It brought more than was counted for it, so the others have that
			// much more to bring; or fewer, and they less.
			if others := ended.left - left; others > 0 {
				p.pulls = append(p.pulls, pull{left: others, deadline: ended.deadline})
			} else {
				p.take(-others)
			}
			return
		}
	}
	p.take(left)
}

// take counts n messages off the oldest requests.
func (p *puller) take(n int) {
	for n > 0 && len(p.pulls) > 0 {
		k := min(n, p.pulls[0].left)
		p.pulls[0].left -= k
		n -= k
		if p.pulls[0].left == 0 {
			p.pulls = p.pulls[1:]
		}
	}
}

func (p *puller) alive(now time.Time) {
	p.heard, p.wait, p.retryAt = now, 0, time.Time{}
	if p.trouble {
		p.trouble = false
		p.log.Info("fetching again", "consumer", p.consumer)
	}
}

// fail forgets all requests and waits a little before the next one.
func (p *puller) fail(now time.Time, why string) {
	p.reset()
	p.wait = min(max(2*p.wait, pullRetry), pullRetryMost)
	p.retryAt = now.Add(p.wait)
	if !p.trouble {
		p.trouble = true
		p.log.Warn("cannot fetch, trying on", "consumer", p.consumer, "why", why)
	}
}

// check finds requests that the broker has lost.
func (p *puller) check(now time.Time) {
	for len(p.pulls) > 0 && now.After(p.pulls[0].deadline) {
		p.pulls = p.pulls[1:]
	}
	if len(p.pulls) > 0 && now.Sub(p.heard) > pullSilence && p.nc.Status() == nats.CONNECTED {
		p.fail(now, "no heartbeat")
	}
}

// reset forgets all requests, as when the connection is new. Messages of theirs
// that still come are taken.
func (p *puller) reset() {
	p.pulls, p.retryAt = nil, time.Time{}
}

// drain ends the subscription. What the broker has sent already still arrives;
// then drained is called.
func (p *puller) drain(drained func()) {
	var once sync.Once
	p.sub.SetClosedHandler(func(string) { once.Do(drained) })
	if err := p.sub.Drain(); err != nil {
		// The connection is gone, and with it the subscription: nothing comes.
		_ = p.sub.Unsubscribe()
		once.Do(drained)
	}
}

// bindable reports whether the consumer exists, and its settings.
func bindable(ctx context.Context, c *Client, stream, durable string) (jetstream.ConsumerConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var consumer jetstream.Consumer
	err := c.permitted(ctx, apiPrefix+"CONSUMER.INFO."+stream, func(ctx context.Context) (err error) {
		consumer, err = c.js.Consumer(ctx, stream, durable)
		return err
	})
	if err != nil {
		return jetstream.ConsumerConfig{}, fmt.Errorf("consumer %s/%s: %w", stream, durable, err)
	}
	return consumer.CachedInfo().Config, nil
}
