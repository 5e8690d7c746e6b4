//go:build e2e

package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	neturl "net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// brokers are broker processes that can be killed and started again.
type brokers struct {
	t        *testing.T
	nodes    []enginetest.ServerConfig
	children []*exec.Cmd
	urls     []string
}

// startBrokers starts one broker, or the nodes of a cluster.
func startBrokers(t *testing.T, n int, opts ...func(*enginetest.ServerConfig)) *brokers {
	t.Helper()
	b := &brokers{t: t, nodes: make([]enginetest.ServerConfig, n), children: make([]*exec.Cmd, n), urls: make([]string, n)}
	var routes []string
	for i := range b.nodes {
		b.nodes[i].StoreDir = t.TempDir()
		for _, opt := range opts {
			opt(&b.nodes[i])
		}
		if n > 1 {
			b.nodes[i].Node = &enginetest.Node{Name: fmt.Sprintf("n%d", i), Port: freePort(t)}
			routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", b.nodes[i].Node.Port))
		}
	}
	for i := range b.nodes {
		if n > 1 {
			b.nodes[i].Node.Routes = routes
		}
		b.start(i)
	}
	t.Cleanup(func() {
		for _, child := range b.children {
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	})
	return b
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts a node; the second time on the port it had.
func (b *brokers) start(i int) {
	b.t.Helper()
	node, err := json.Marshal(b.nodes[i])
	if err != nil {
		b.t.Fatal(err)
	}
	child := exec.CommandContext(context.Background(), os.Args[0])
	child.Env, child.Stderr = append(os.Environ(), "PELTON_TEST_NODE="+string(node)), os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.children[i] = child
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.t.Fatalf("broker %d: %v", i, err)
	}
	b.urls[i] = strings.TrimSpace(line)
	u, err := neturl.Parse(b.urls[i])
	if err != nil {
		b.t.Fatal(err)
	}
	if b.nodes[i].Port, err = strconv.Atoi(u.Port()); err != nil {
		b.t.Fatal(err)
	}
}

// kill ends a node with SIGKILL and starts it again.
func (b *brokers) kill(i int) {
	b.t.Helper()
	if err := b.children[i].Process.Kill(); err != nil {
		b.t.Fatal(err)
	}
	_ = b.children[i].Wait()
	b.start(i)
}

// outage is a run of tasks while brokers die.
type outage struct {
	mu       sync.Mutex
	runs     map[string]map[int]int // by id and attempt
	terminal map[string]int         // terminal records written, by id
	early    time.Duration          // by how much one ran before its time, at most
	etas     sync.Map               // times of the clock alone, as those in messages are
}

func (o *outage) record(r *Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.State.Terminal() {
		o.terminal[r.ID]++
	}
}

func (o *outage) ran(info Info) {
	now := time.Now().Round(0)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.runs[info.ID] == nil {
		o.runs[info.ID] = map[int]int{}
	}
	o.runs[info.ID][info.Attempt]++
	if eta, ok := o.etas.Load(info.ID); ok {
		o.early = max(o.early, eta.(time.Time).Sub(now))
	}
}

func (o *outage) done() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.terminal)
}

func TestKilledBrokerLosesNoDelayedTask(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) { delayedUnderKills(t, nodes, 5000) })
	}
}

func TestKilledBrokerLosesNoRetry(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) { retriesUnderKills(t, nodes, 200, 30) })
	}
}

// outageWorld is brokers, a worker and a client.
func outageWorld(ctx context.Context, t *testing.T, nodes int, o *outage, attempts int) (*brokers, *Client) {
	t.Helper()
	b := startBrokers(t, nodes)
	nc, err := nats.Connect(strings.Join(b.urls, ","), ConnectOptions(nil)...)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() { nc.Close(); <-closed })
	c, err := NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	topo, err := topology.New(topology.Config{Replicas: nodes, Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	for { // a cluster has no leader at first
		trying, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := topology.Apply(trying, c.js, topo)
		cancel()
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	w := NewWorker(c, WorkerConfig{Queues: []Queue{{Name: DefaultQueue, Slots: 8}}, Hooks: Hooks{Recorded: o.record}})
	HandleRaw(w, "toil", func(_ context.Context, m *Message) ([]byte, error) {
		o.ran(m.Info)
		if m.Info.Attempt < attempts {
			return nil, RetryIn(time.Duration(rand.Int64N(int64(1200*time.Millisecond))), errors.New("again")) // kept, or parked
		}
		return m.Body, nil
	})
	stop := background(func(working context.Context) {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(stop)
	return b, c
}

func newOutage() *outage { return &outage{runs: map[string]map[int]int{}, terminal: map[string]int{}} }

func delayedUnderKills(t *testing.T, nodes, tasks int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	o := newOutage()
	b, c := outageWorld(ctx, t, nodes, o, 1)
	var sent []string
	var mu sync.Mutex
	var group sync.WaitGroup
	const callers = 32
	for caller := range callers {
		group.Go(func() {
			for i := caller; i < tasks; i += callers {
				id := fmt.Sprintf("job-x%d", i)
				eta := time.Now().Round(0).Add(5*time.Second + time.Duration(rand.Int64N(int64(8*time.Second))))
				o.etas.Store(id, eta)
				if err := sendUntilStored(ctx, c, id, eta); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				mu.Lock()
				sent = append(sent, id)
				mu.Unlock()
			}
		})
	}
	kills := killWhile(ctx, t, b, o, tasks)
	group.Wait()
	settle(ctx, t, c, o, sent, 1)
	t.Logf("%d delayed tasks, %d kills, %d nodes", len(sent), kills, nodes)
}

func retriesUnderKills(t *testing.T, nodes, tasks, attempts int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	o := newOutage()
	b, c := outageWorld(ctx, t, nodes, o, attempts)
	var sent []string
	for i := range tasks {
		r, err := c.SendRaw(ctx, DefaultQueue, "toil", fmt.Appendf(nil, "%d", i), WithMaxAttempts(attempts))
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, r.ID())
	}
	kills := killWhile(ctx, t, b, o, tasks)
	settle(ctx, t, c, o, sent, attempts)
	t.Logf("%d attempts, %d kills, %d nodes", tasks*attempts, kills, nodes)
}

// sendUntilStored repeats under its id what the brokers cannot confirm.
func sendUntilStored(ctx context.Context, c *Client, id string, eta time.Time) error {
	for doubt := false; ; doubt = true {
		_, err := c.SendRaw(ctx, DefaultQueue, "toil", []byte(`1`), WithID(id), WithETA(eta))
		switch {
		case err == nil, doubt && errors.Is(err, ErrExists):
			return nil
		case !errors.Is(err, ErrUnconfirmed) || ctx.Err() != nil:
			return err
		}
	}
}

// killWhile kills brokers, one each second and a half, until all tasks have
// ended; a cluster has the time to find itself again in between.
func killWhile(ctx context.Context, t *testing.T, b *brokers, o *outage, tasks int) (kills int) {
	t.Helper()
	for ; o.done() < tasks; kills++ {
		if kills == 12 {
			return kills // what is left shall come to its end in peace
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d of %d tasks ended: %v", o.done(), tasks, ctx.Err())
		case <-time.After(time.Duration(1+len(b.nodes)) * 750 * time.Millisecond):
		}
		b.kill(rand.IntN(len(b.nodes)))
	}
	if kills < 5 {
		t.Errorf("only %d kills", kills)
	}
	return kills
}

// withJanitor has a janitor put right what a killed broker has forgotten.
func withJanitor(t *testing.T, c *Client) (stop func()) {
	t.Helper()
	j := NewJanitor(c, JanitorConfig{Every: time.Second})
	return background(func(ctx context.Context) {
		if err := j.Run(ctx); err != nil {
			t.Errorf("janitor: %v", err)
		}
	})
}

// settle waits for the end of each task and compares.
func settle(ctx context.Context, t *testing.T, c *Client, o *outage, sent []string, attempts int) {
	t.Helper()
	defer withJanitor(t, c)()
	for _, id := range sent {
		r, err := c.Wait(ctx, DefaultQueue, id)
		if err != nil || r.State != wire.StateSucceeded {
			left(t, c, id)
			t.Fatalf("%s is lost: %+v, %v", id, r, err)
		}
	}
	awaitDrained(ctx, t, c)
	o.mu.Lock()
	defer o.mu.Unlock()
	twice := 0
	for _, id := range sent {
		if o.terminal[id] > 1 {
			t.Errorf("%s has %d terminal records", id, o.terminal[id])
		}
		for attempt := 1; attempt <= attempts; attempt++ {
			if n := o.runs[id][attempt]; n == 0 {
				t.Errorf("%s: attempt %d never ran", id, attempt)
			} else if n > 1 {
				twice++
			}
		}
	}
	if twice > 0 || o.early > 0 {
		t.Errorf("%d attempts ran twice, one early by %s", twice, o.early)
	}
}

// left logs what the broker has of a task that does not end.
func left(t *testing.T, c *Client, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, revision, err := c.readRecord(ctx, DefaultQueue, id)
	t.Logf("record %+v at %d, %v", r, revision, err)
	lane := wire.PlainLane(DefaultQueue)
	for name, durable := range map[string]string{c.ns.TaskStream(lane): wire.WorkersDurable, c.ns.LaterStream(lane): wire.DueDurable} {
		consumer, err := c.consumerInfo(ctx, name, durable)
		if err != nil || consumer == nil {
			t.Logf("%s/%s: %v", name, durable, err)
			continue
		}
		t.Logf("%s/%s: delivered %+v, floor %+v, %d to be acked, %d delivered again, %d pending, %d requests", name, durable,
			consumer.Delivered, consumer.AckFloor, consumer.NumAckPending, consumer.NumRedelivered, consumer.NumPending, consumer.NumWaiting)
		stream, err := c.js.Stream(ctx, name)
		if err != nil {
			t.Log(err)
			continue
		}
		state := stream.CachedInfo().State
		t.Logf("%s: %+v", name, state)
		for seq, n := state.FirstSeq, 0; seq <= state.LastSeq && n < 10; seq++ {
			if m, err := stream.GetMsg(ctx, seq); err == nil {
				n++
				t.Logf("%d: %s %v", seq, m.Subject, m.Header)
			}
		}
	}
}

// TestKilledWorkersLoseNoDelayedTask kills workers while tasks become due.
func TestKilledWorkersLoseNoDelayedTask(t *testing.T) {
	if lost := delayedUnderWorkerKills(t, false); lost != 0 {
		t.Errorf("%d tasks lost", lost)
	}
}

// TestAckBeforeParkingLoses is the control: workers that acknowledge a task
// before its next attempt is parked must lose some, or the test above is blind.
func TestAckBeforeParkingLoses(t *testing.T) {
	if lost := delayedUnderWorkerKills(t, true); lost == 0 {
		t.Error("nothing lost: this test cannot see a loss")
	}
}

func delayedUnderWorkerKills(t *testing.T, ackFirst bool) (lost int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: 2 * time.Second}}})
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	terminal := map[string]int{}
	stop := watchTerminal(t, c, terminal)
	const tasks = 1500
	for i := range tasks {
		delay := 600*time.Millisecond + time.Duration(i)*4*time.Millisecond
		if _, err := c.SendRaw(ctx, DefaultQueue, "toil", fmt.Appendf(nil, "%d", i), WithCountdown(delay)); err != nil {
			t.Fatal(err)
		}
	}
	workers := startWorkers(t, broker.URL(), 3, ackFirst)
	for range 20 {
		<-time.After(time.Duration(50+rand.IntN(250)) * time.Millisecond)
		workers.kill(rand.IntN(3))
	}
	awaitDrained(ctx, t, c)
	workers.stop()
	stop()
	for id, n := range terminal {
		if n != 1 {
			t.Errorf("%s has %d terminal records", id, n)
		}
	}
	return tasks - len(terminal)
}
