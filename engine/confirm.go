package engine

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// confirmMost is how many acks wait for their confirmation at once.
	confirmMost = 256
	// confirmWithin is how long they may wait before they are sent again.
	confirmWithin = 2 * time.Second
)

// confirmer sends acks that the broker answers (ADR-15, as DoubleAck does), many
// at once. It belongs to the settler's goroutine.
type confirmer struct {
	nc      *nats.Conn
	inbox   string
	sub     *nats.Subscription
	answers chan *nats.Msg
	round   uint64
	timer   *time.Timer
}

func newConfirmer(nc *nats.Conn) (*confirmer, error) {
	c := &confirmer{nc: nc, inbox: nc.NewInbox() + ".", answers: make(chan *nats.Msg, 2*confirmMost), timer: time.NewTimer(time.Hour)}
	var err error
	c.sub, err = nc.ChanSubscribe(c.inbox+"*.*", c.answers)
	return c, err
}

func (c *confirmer) close() {
	c.timer.Stop()
	_ = c.sub.Unsubscribe()
}

// send acks deliveries, at most confirmMost, and waits for the answers.
func (c *confirmer) send(batch []*settlement, acks []int, answers []answer) {
	c.round++
	prefix := c.inbox + strconv.FormatUint(c.round, 36) + "."
	left := 0
	for n, i := range acks {
		answers[i] = answer{asked: true, err: nats.ErrTimeout}
		if err := c.nc.PublishRequest(batch[i].d.replyTo(), prefix+strconv.Itoa(n), ackBody); err != nil {
			answers[i].err = err
			continue
		}
		left++
	}
	c.timer.Reset(confirmWithin)
	for left > 0 {
		select {
		case m := <-c.answers:
			n, err := strconv.Atoi(strings.TrimPrefix(m.Subject, prefix))
			if err != nil || n < 0 || n >= len(acks) {
				continue // to a round before
			}
			left--
			answers[acks[n]].err = nil
			if m.Header.Get("Status") == "503" {
				answers[acks[n]].err = nats.ErrNoResponders
			}
		case <-c.timer.C:
			return
		}
	}
}

// sendAcks sends what is to be confirmed.
func (s *settler) sendAcks(batch []*settlement, answers []answer) {
	if len(s.acks) == 0 {
		return
	}
	if s.confirm == nil {
		confirm, err := newConfirmer(s.w.c.nc)
		if err != nil {
			for _, i := range s.acks {
				answers[i] = answer{asked: true, err: err}
			}
			return
		}
		s.confirm = confirm
	}
	for acks := s.acks; len(acks) > 0; {
		s.signs.settling.Turn()
		some := acks[:min(len(acks), confirmMost)]
		acks = acks[len(some):]
		s.confirm.send(batch, some, answers)
	}
}
