package engine

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestAbsence: a queue of a broker that stands alone is missed soon. In a cluster
// it takes its leader's word, or longer than an election.
func TestAbsence(t *testing.T) {
	t.Parallel()
	alone, err := NewClient(enginetest.Start(t).Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(alone.Close)
	cluster := enginetest.StartCluster(t)
	cluster.Setup("there")
	one, err := NewClient(cluster.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.Close)
	for name, tc := range map[string]struct {
		c         *Client
		queue     string
		since     time.Duration
		forbidden bool // to ask whether there is such a stream
		want      bool
	}{
		"alone, at first":                {alone, "nosuch", 0, false, false},
		"alone, soon":                    {alone, "nosuch", absentAlone, false, true},
		"cluster, at first":              {one, "nosuch", 0, false, false},
		"cluster, soon":                  {one, "nosuch", absentAlone, false, true},
		"cluster, the stream is there":   {one, "there", absentAlone, false, false},
		"cluster, nobody may ask":        {one, "nosuch", absentAlone, true, false},
		"cluster, nobody may ask, later": {one, "nosuch", absentCluster, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			tc.c.unasked.Clear()
			if tc.forbidden {
				tc.c.unasked.Store(tc.c.ns.TaskStream(wire.PlainLane(tc.queue)), true)
			}
			gone := absence{}
			if tc.since > 0 {
				gone.since = time.Now().Add(-tc.since)
			}
			if got := gone.believed(t.Context(), tc.c, wire.PlainLane(tc.queue)); got != tc.want {
				t.Errorf("%t, want %t", got, tc.want)
			}
		})
	}
}

// TestContextEndsInAnElection: who gives up before it is known whether there is a
// queue is not told that there is none.
func TestContextEndsInAnElection(t *testing.T) {
	t.Parallel()
	cluster := enginetest.StartCluster(t)
	c, err := NewClient(cluster.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.unasked.Store(c.ns.TaskStream(wire.PlainLane("nosuch")), true)
	bodies := slices.Repeat([][]byte{[]byte(`1`)}, fastFrom)
	for name, ask := range map[string]func(context.Context) error{
		"send": func(ctx context.Context) error { _, err := c.SendRaw(ctx, "nosuch", "toil", []byte(`1`)); return err },
		"later, by an id": func(ctx context.Context) error {
			_, err := c.SendRaw(ctx, "nosuch", "toil", []byte(`1`), WithID("one"), WithCountdown(time.Hour))
			return err
		},
		"few": func(ctx context.Context) error {
			_, err := c.SendManyRaw(ctx, "nosuch", "toil", bodies[:2])
			return err
		},
		"many": func(ctx context.Context) error { _, err := c.SendManyRaw(ctx, "nosuch", "toil", bodies); return err },
		"with ids": func(ctx context.Context) error {
			_, err := c.SendManyRaw(ctx, "nosuch", "toil", bodies, WithAllIDs())
			return err
		},
		"all or none": func(ctx context.Context) error {
			_, err := c.SendManyRaw(ctx, "nosuch", "toil", bodies, WithAtomic())
			return err
		},
		"wait": func(ctx context.Context) error { _, err := c.Wait(ctx, "nosuch", "nosuch-1"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := ask(ctx)
			// Unconfirmed is what the time runs out for while an answer is waited for.
			told := errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnconfirmed) || name == "wait"
			if errors.Is(err, ErrNoQueue) || !errors.Is(err, context.DeadlineExceeded) || !told {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestDoubtEndsBeforeTheStreamForgets: a task whose answer was lost is sent again
// only as long as the stream knows its id, whatever is waited for meanwhile.
func TestDoubtEndsBeforeTheStreamForgets(t *testing.T) {
	t.Parallel()
	cluster := enginetest.StartCluster(t)
	cluster.Setup(DefaultQueue)
	past, err := NewClient(cluster.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(past.Close)
	u, err := url.Parse(past.nc.ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	link := enginetest.StartLink(t, u.Host)
	c, err := Connect(t.Context(), link.URL(), ClientConfig{NATS: []nats.Option{nats.IgnoreDiscoveredServers(), nats.Timeout(20 * time.Second)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	stream := c.ns.TaskStream(wire.PlainLane(DefaultQueue))
	c.dedupFor = 3 * time.Second
	c.unasked.Store(stream, true) // so that an election is all it can think of
	lost, done := link.DeafenAt(`"seq":`), make(chan error, 1)
	go func() {
		<-lost
		done <- past.js.DeleteStream(t.Context(), stream)
		link.Cut()
	}()
	since := time.Now()
	_, err = c.SendRaw(t.Context(), DefaultQueue, "toil", []byte(`1`))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(since); !errors.Is(err, ErrUnconfirmed) || took > absentCluster-2*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}
