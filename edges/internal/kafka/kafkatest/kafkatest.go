// Package kafkatest is what the tests of the edges share: a Kafka in the
// process, a line to it that can be cut, and a log that can be waited for.
//
// It stands beside the path, not on it.
package kafkatest

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Start runs a cluster of one broker until the test ends.
func Start(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// Read returns the first n records of a topic, oldest first within each
// partition. It waits for them until ctx is done.
func Read(ctx context.Context, t testing.TB, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	opts = append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var records []*kgo.Record
	for len(records) < n {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records of %s: %v", len(records), n, topic, context.Cause(ctx))
		}
		records = append(records, fetches.Records()...)
	}
	slices.SortStableFunc(records, func(a, b *kgo.Record) int { return int(a.Partition) - int(b.Partition) })
	return records
}

// Link is a line to the brokers that can be cut: its Dial is for a client's
// configuration. It is safe for concurrent use.
type Link struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	cut   bool
	conns []*linkConn
}

// NewLink returns a line that stands. It dials as dial does; in a bubble of
// testing/synctest that is a [kfake.VirtualNetwork].
func NewLink(dial func(ctx context.Context, network, address string) (net.Conn, error)) *Link {
	return &Link{dial: dial}
}

// Dial connects, or is refused as by a machine on which nobody listens.
func (l *Link) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return nil, refused(network)
	}
	conn, err := l.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = conn.Close()
		return nil, refused(network)
	}
	linked := &linkConn{Conn: conn}
	l.conns = append(l.conns, linked)
	return linked, nil
}

// linkConn fails as a connection does that the other side has reset, though it
// is closed on this one.
type linkConn struct {
	net.Conn
	reset atomic.Bool
}

func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.translate("read", err)
}

func (c *linkConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.translate("write", err)
}

func (c *linkConn) translate(op string, err error) error {
	if err == nil || !c.reset.Load() {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
}

func refused(network string) error {
	return &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// Cut ends all connections and refuses new ones.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, conn := range l.conns {
		conn.reset.Store(true)
		_ = conn.Close()
	}
	l.conns = nil
}

// Restore lets connections through again.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}
