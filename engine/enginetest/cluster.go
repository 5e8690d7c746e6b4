package enginetest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/topology"
)

// Cluster is three brokers that keep everything three times. It ends with its
// test.
type Cluster struct {
	tb      TB
	servers []*server.Server
}

// StartCluster starts three brokers and waits until they have a leader.
func StartCluster(tb TB) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb}
	tb.Cleanup(c.stop)
	ports := freePorts(tb, 3)
	var routes []*url.URL
	for _, port := range ports {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("node-%d", i+1),
			Host:       "127.0.0.1", Port: server.RANDOM_PORT,
			JetStream: true, StoreDir: tb.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:  routes, NoSigs: true, NoLog: true,
		})
		if err != nil {
			tb.Fatalf("cluster: %v", err)
		}
		c.servers = append(c.servers, s)
		s.Start()
	}
	for _, s := range c.servers {
		if !s.ReadyForConnections(patience) {
			tb.Fatalf("cluster: %s is not ready", s.Name())
		}
	}
	c.awaitLeader()
	return c
}

// freePorts are ports that nobody uses at the moment: the brokers of a cluster
// have to know each other's before they start.
func freePorts(tb TB, n int) []int {
	tb.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			tb.Fatalf("cluster: %v", err)
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// awaitLeader asks until JetStream answers.
func (c *Cluster) awaitLeader() {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) //nolint:forbidigo // the kit has no context of the test's
	defer cancel()
	nc := c.Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		c.tb.Fatalf("cluster: %v", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		asked, end := context.WithTimeout(ctx, 5*time.Second)
		_, err := js.AccountInfo(asked)
		end()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.tb.Fatalf("cluster: no leader: %v", err)
		}
	}
}

// Conn is a new connection that ends with the test.
func (c *Cluster) Conn(opts ...nats.Option) *nats.Conn {
	c.tb.Helper()
	nc, err := connect(c.servers[0].ClientURL(), opts)
	if err != nil {
		c.tb.Fatalf("connect: %v", err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	c.tb.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

// Setup makes queues with three replicas.
func (c *Cluster) Setup(queues ...string) {
	c.tb.Helper()
	cfg := topology.Config{Replicas: 3}
	for _, name := range queues {
		cfg.Queues = append(cfg.Queues, topology.Queue{Name: name})
	}
	topo, err := topology.New(cfg)
	if err != nil {
		c.tb.Fatalf("topology: %v", err)
	}
	js, err := jetstream.New(c.Conn())
	if err != nil {
		c.tb.Fatalf("topology: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) //nolint:forbidigo // the kit has no context of the test's
	defer cancel()
	if _, err := topology.Apply(ctx, js, topo); err != nil {
		c.tb.Fatalf("topology: %v", err)
	}
}

// StepDown makes the leader of a stream give up. It asks again where nobody
// answers: the request may have met no leader, or its answer was lost with one.
func (c *Cluster) StepDown(stream string) {
	c.tb.Helper()
	nc := c.Conn()
	var err error
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if _, err = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 5*time.Second); err == nil {
			return
		}
	}
	c.tb.Fatalf("step down %s: %v", stream, err)
}

func (c *Cluster) stop() {
	for _, s := range c.servers {
		s.Shutdown()
	}
	for _, s := range c.servers {
		s.WaitForShutdown()
	}
}
