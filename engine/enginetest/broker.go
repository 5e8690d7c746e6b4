package enginetest

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
)

// TB is what the kit needs of a test; *testing.T and *testing.B have it.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(f func())
	TempDir() string
}

// patience bounds what is only waited for, on a machine that may be busy.
const patience = time.Minute

// Broker is a broker that ends with its test.
type Broker struct {
	*Server
	tb TB
}

// Start starts a broker for a test and ends it with the test.
func Start(tb TB, opts ...func(*ServerConfig)) *Broker {
	tb.Helper()
	cfg := ServerConfig{StoreDir: tb.TempDir()}
	for _, opt := range opts {
		opt(&cfg)
	}
	s, err := NewServer(cfg)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	b := &Broker{Server: s, tb: tb}
	tb.Cleanup(func() { b.Stop() })
	return b
}

// Conn is a new connection that ends with the test.
func (b *Broker) Conn(opts ...nats.Option) *nats.Conn {
	b.tb.Helper()
	nc, err := connect(b.URL(), opts)
	if err != nil {
		b.tb.Fatalf("connect %s: %v", b.URL(), err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	b.tb.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// connect tries again where a busy machine was too slow for the bound of a
// connection.
func connect(url string, opts []nats.Option) (nc *nats.Conn, err error) {
	for range 20 {
		nc, err = nats.Connect(url, opts...)
		var slow net.Error
		if !errors.As(err, &slow) || !slow.Timeout() {
			break
		}
	}
	return nc, err
}

// JetStream is the JetStream of a new connection that ends with the test.
func (b *Broker) JetStream(opts ...nats.Option) jetstream.JetStream {
	b.tb.Helper()
	js, err := jetstream.New(b.Conn(opts...), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		b.tb.Fatalf("jetstream: %v", err)
	}
	return js
}

// Setup makes the streams, consumers and buckets of queues, with the defaults
// of package topology.
func (b *Broker) Setup(queues ...string) {
	b.tb.Helper()
	var cfg topology.Config
	for _, name := range queues {
		cfg.Queues = append(cfg.Queues, topology.Queue{Name: name})
	}
	b.SetupWith(cfg)
}

// SetupWith makes what a configuration describes.
func (b *Broker) SetupWith(cfg topology.Config) {
	b.tb.Helper()
	topo, err := topology.New(cfg)
	if err != nil {
		b.tb.Fatalf("topology: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) //nolint:forbidigo // the kit has no context of the test's
	defer cancel()
	if _, err := topology.Apply(ctx, b.JetStream(), topo); err != nil {
		b.tb.Fatalf("topology: %v", err)
	}
}

// Patient runs the tests of a package and then gives what is on its way to its
// end more time than a check for leaks does of its own. Leaks is that check.
type Patient struct {
	M     interface{ Run() int }
	Leaks func() error
}

// Run returns the exit code of the tests.
func (p Patient) Run() int {
	code := p.M.Run()
	for range 40 { // each takes its time
		if p.Leaks() == nil {
			break
		}
	}
	return code
}
