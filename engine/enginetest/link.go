package enginetest

import (
	"bytes"
	"net"
	"sync"
)

// Link is a connection to a broker that can be made to fail: a proxy on the
// loopback, with a port of its own. It is safe for concurrent use.
type Link struct {
	target string
	listen net.Listener
	group  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // that stand; true of those that are whole
	deaf  bool              // what the broker says is lost
	mute  bool              // what the client says is lost
	at    []byte            // the link goes deaf where the broker says this
	went  chan struct{}     // closed when that has happened
	lost  []byte            // what the client says with this in it is lost, once
	gone  chan struct{}     // closed when that has happened
}

// Link starts a link to the broker that ends with the test.
func (b *Broker) Link() *Link {
	b.tb.Helper()
	return StartLink(b.tb, b.ns.Addr().String())
}

// StartLink starts a link to a broker at an address, host:port, that ends with
// the test. The broker may be another process, and come and go.
func StartLink(tb TB, target string) *Link {
	tb.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed with the test
	if err != nil {
		tb.Fatalf("link: %v", err)
	}
	l := &Link{target: target, listen: listen, conns: map[net.Conn]bool{}, went: make(chan struct{})}
	l.group.Go(l.accept)
	tb.Cleanup(l.close)
	return l
}

// URL is the address of the link.
func (l *Link) URL() string { return "nats://" + l.listen.Addr().String() }

// Deafen loses what the broker says from now on; what the client says arrives.
func (l *Link) Deafen() { l.set(func() { l.deaf = true }) }

// DeafenAt is Deafen from the moment on at which the broker says a text, which
// is lost too. The channel is closed then.
func (l *Link) DeafenAt(text string) <-chan struct{} {
	went := make(chan struct{})
	l.set(func() { l.at, l.went = []byte(text), went })
	return went
}

// Silence loses everything in both directions while the connections stand.
func (l *Link) Silence() { l.set(func() { l.deaf, l.mute = true, true }) }

// HalfOpen loses everything on the connections that stand, as where a peer has
// gone without a word. New ones are whole.
func (l *Link) HalfOpen() {
	l.set(func() {
		for c := range l.conns {
			l.conns[c] = false
		}
	})
}

// Lose loses the next piece that the client says with a text in it. The channel
// is closed then.
func (l *Link) Lose(text string) <-chan struct{} {
	gone := make(chan struct{})
	l.set(func() { l.lost, l.gone = []byte(text), gone })
	return gone
}

// Cut ends all connections. New ones are whole.
func (l *Link) Cut() {
	l.set(func() {
		l.deaf, l.mute, l.at, l.lost = false, false, nil, nil
		for c := range l.conns {
			_ = c.Close()
			delete(l.conns, c)
		}
	})
}

func (l *Link) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *Link) close() {
	_ = l.listen.Close()
	l.Cut()
	l.group.Wait()
}

func (l *Link) accept() {
	for {
		client, err := l.listen.Accept()
		if err != nil {
			return
		}
		broker, err := net.Dial("tcp", l.target) //nolint:noctx // the loopback
		if err != nil {
			_ = client.Close()
			continue
		}
		l.set(func() { l.conns[client], l.conns[broker] = true, true })
		l.group.Go(func() { l.carry(client, broker, false) })
		l.group.Go(func() { l.carry(broker, client, true) })
	}
}

// carry copies one direction until either end is closed.
func (l *Link) carry(from, to net.Conn, fromBroker bool) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && l.passes(from, buf[:n], fromBroker) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// passes decides on what was read, in one piece.
func (l *Link) passes(from net.Conn, b []byte, fromBroker bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if whole, stands := l.conns[from]; stands && !whole {
		return false
	}
	if !fromBroker && l.lost != nil && bytes.Contains(b, l.lost) {
		l.lost = nil
		close(l.gone)
		return false
	}
	if fromBroker && l.at != nil && bytes.Contains(b, l.at) {
		l.at, l.deaf = nil, true
		close(l.went)
	}
	if fromBroker {
		return !l.deaf
	}
	return !l.mute
}
