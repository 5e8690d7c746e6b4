package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestWaitIsNotTold: the broker's leader dies with the word that a task has
// ended, or here never gives it. A wait reads the record again by itself.
func TestWaitIsNotTold(t *testing.T) {
	t.Parallel()
	broker := enginetest.Start(t)
	broker.Setup(DefaultQueue)
	c, err := NewClient(broker.Conn())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.listenFirst = 300 * time.Millisecond
	name := c.ns.ResultsStream(DefaultQueue)
	stream, err := c.js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	silent := stream.CachedInfo().Config
	silent.RePublish = nil
	if _, err := c.js.UpdateStream(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
	told, err := c.nc.SubscribeSync(c.ns.DoneSubject(DefaultQueue, "one"))
	if err != nil {
		t.Fatal(err)
	}
	reads, err := c.nc.SubscribeSync(apiPrefix + "DIRECT.GET." + name + ".>")
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{ID: "one", Run: 1, Task: "toil", Queue: DefaultQueue, State: wire.StateStarted, Attempt: 1}
	revision, err := c.casRecord(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	type end struct {
		r   *Record
		err error
	}
	ended := make(chan end, 1)
	go func() {
		r, err := c.Wait(t.Context(), DefaultQueue, "one")
		ended <- end{r, err}
	}()
	for range 2 { // the second is what nobody told it to do
		if m, err := reads.NextMsg(30 * time.Second); err != nil || !strings.HasSuffix(m.Subject, ".one") {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	r.State = wire.StateSucceeded
	if _, err := c.casRecord(t.Context(), r, revision); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-ended:
		if e.err != nil || e.r.State != wire.StateSucceeded {
			t.Errorf("%+v, %v", e.r, e.err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for ever")
	}
	if n, _, err := told.Pending(); n != 0 || err != nil {
		t.Errorf("%d words, %v: this broker tells", n, err)
	}
}

// TestWaitReadsNothingWithoutAConnection: what cannot be sent would be kept for
// the next one, of every wait and again and again.
func TestWaitReadsNothingWithoutAConnection(t *testing.T) {
	t.Parallel()
	broker := enginetest.Start(t)
	link := broker.Link()
	again := make(chan struct{})
	reconnect := nats.CustomReconnectDelay(func(int) time.Duration { <-again; return 0 })
	c, err := Connect(t.Context(), link.URL(), ClientConfig{NATS: []nats.Option{reconnect, nats.Timeout(20 * time.Second)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l, err := c.listen(DefaultQueue, "one")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	gone := c.nc.StatusChanged(nats.RECONNECTING)
	link.Cut()
	<-gone
	now := make(chan time.Time)
	close(now)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r, err := l.heard(ctx, now); r != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it would read: %+v, %v", r, err)
	}
	close(again)
	if r, err := l.heard(t.Context(), nil); r != nil || err != nil || !l.back {
		t.Errorf("connected again: %+v, %v, %v", r, err, l.back)
	}
}
