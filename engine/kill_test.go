//go:build e2e

package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// killRun is what came of a run under kills.
type killRun struct {
	sent     map[string]bool // acknowledged to the sender
	terminal map[string]int  // terminal records written, by id
	kills    int
}

func (r killRun) lost() (n int) {
	for id := range r.sent {
		if r.terminal[id] == 0 {
			n++
		}
	}
	return n
}

// TestKilledWorkersLoseNothing kills workers at random moments: every task
// that was acknowledged to its sender has exactly one terminal record, and
// nothing is left in the queue.
func TestKilledWorkersLoseNothing(t *testing.T) {
	r := runUnderKills(t, 2000, 20, false)
	t.Logf("%d tasks, %d kills, %d records", len(r.sent), r.kills, len(r.terminal))
	if lost := r.lost(); lost > 0 {
		t.Errorf("%d tasks lost", lost)
	}
	for id, n := range r.terminal {
		if n != 1 {
			t.Errorf("task %s has %d terminal records", id, n)
		}
	}
	if r.kills < 20 {
		t.Errorf("only %d kills", r.kills)
	}
}

// TestAckBeforeTheRecordLoses is the control: workers that acknowledge a task
// before its outcome is recorded must lose some, or the test above is blind.
func TestAckBeforeTheRecordLoses(t *testing.T) {
	r := runUnderKills(t, 2000, 20, true)
	t.Logf("%d tasks, %d kills, %d lost", len(r.sent), r.kills, r.lost())
	if r.lost() == 0 {
		t.Error("nothing lost: this test cannot see a loss")
	}
}

func runUnderKills(t *testing.T, tasks, kills int, ackFirst bool) killRun {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	broker := enginetest.Start(t)
	broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: 2 * time.Second}}})
	c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run := killRun{sent: map[string]bool{}, terminal: map[string]int{}}
	records := watchTerminal(t, c, run.terminal)

	sending, sent := sendAll(ctx, t, c, tasks, run.sent)
	workers := startWorkers(t, broker.URL(), 3, ackFirst)
	for run.kills < kills {
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(time.Duration(50+random.IntN(250)) * time.Millisecond):
		}
		workers.kill(random.IntN(3))
		run.kills++
	}
	<-sending
	t.Logf("sent %d", sent.Load())
	awaitDrained(ctx, t, c)
	workers.stop()
	records()
	return run
}

// watchTerminal counts terminal records as the broker repeats them. The
// function returned ends the count; the map is whole then.
func watchTerminal(t *testing.T, c *Client, terminal map[string]int) (stop func()) {
	t.Helper()
	var mu sync.Mutex
	sub, err := c.nc.Subscribe(c.ns.DoneSubject(DefaultQueue, ">"), func(m *nats.Msg) {
		id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		if r, err := wire.DecodeRecord(id, m.Data); err == nil && r.State.Terminal() {
			mu.Lock()
			terminal[id]++
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := c.nc.Flush(); err != nil {
			t.Error(err)
		}
		drained := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(drained) })
		if err := sub.Drain(); err != nil {
			t.Error(err)
		}
		<-drained
	}
}

// sendAll sends from eight callers at a pace that outlasts the kills.
func sendAll(ctx context.Context, t *testing.T, c *Client, tasks int, acked map[string]bool) (done <-chan struct{}, n *atomic.Int64) {
	t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	n = &atomic.Int64{}
	const callers = 8
	for caller := range callers {
		group.Go(func() {
			for i := caller; i < tasks; i += callers {
				var opts []SendOption
				if i%4 == 0 {
					opts = append(opts, WithID(fmt.Sprintf("job-%d", i)))
				}
				r, err := c.SendRaw(ctx, DefaultQueue, "toil", fmt.Appendf(nil, "%d", i), opts...)
				if err != nil {
					t.Errorf("send %d: %v", i, err)
					return
				}
				mu.Lock()
				acked[r.ID()] = true
				mu.Unlock()
				n.Add(1)
				<-time.After(10 * time.Millisecond) // the pace
			}
		})
	}
	finished := make(chan struct{})
	go func() { group.Wait(); close(finished) }()
	return finished, n
}

// awaitDrained waits until both lanes are empty.
func awaitDrained(ctx context.Context, t *testing.T, c *Client) {
	t.Helper()
	lane := wire.PlainLane(DefaultQueue)
	eventually(ctx, t, func(ctx context.Context) error {
		for _, name := range []string{c.ns.TaskStream(lane), c.ns.LaterStream(lane)} {
			stream, err := c.js.Stream(ctx, name)
			if err != nil {
				return err
			}
			if left := stream.CachedInfo().State.Msgs; left > 0 {
				return fmt.Errorf("%d messages are left in %s", left, name)
			}
		}
		return nil
	})
}

// workers are worker processes, each made again when it is killed.
type workers struct {
	t        *testing.T
	env      []string
	children []*exec.Cmd
}

func startWorkers(t *testing.T, url string, n int, ackFirst bool) *workers {
	t.Helper()
	w := &workers{t: t, env: append(os.Environ(), "PELTON_TEST_WORKER="+url), children: make([]*exec.Cmd, n)}
	if ackFirst {
		w.env = append(w.env, "PELTON_TEST_ACK_FIRST=1")
	}
	for i := range w.children {
		w.start(i)
	}
	t.Cleanup(func() {
		for _, child := range w.children {
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	})
	return w
}

func (w *workers) start(i int) {
	w.t.Helper()
	// Half a GiB of data is more than a worker needs, and soon filled.
	child := exec.CommandContext(context.Background(), "sh", "-c", `ulimit -d 524288 && exec "$0"`, os.Args[0])
	child.Env = w.env
	out, err := child.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.children[i] = child
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		w.t.Fatalf("worker %d: %v", i, err)
	}
}

func (w *workers) kill(i int) {
	w.t.Helper()
	if err := w.children[i].Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	_ = w.children[i].Wait()
	w.start(i)
}

// stop ends the workers as an operator does; they must end cleanly.
func (w *workers) stop() {
	w.t.Helper()
	for _, child := range w.children {
		if err := child.Process.Signal(syscall.SIGTERM); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, child := range w.children {
		if err := child.Wait(); err != nil {
			w.t.Errorf("worker after SIGTERM: %v", err)
		}
	}
}

// TestTaskThatKillsItsWorkersIsBuried: a task that ends its process again and
// again becomes a dead letter. Its neighbours, which die with it each time, do
// not, and those that come later run at once.
func TestTaskThatKillsItsWorkersIsBuried(t *testing.T) {
	for _, how := range []string{"exit", "panic", "memory"} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			broker := enginetest.Start(t)
			broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: time.Second}}})
			c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			t.Setenv("PELTON_TEST_POISON", "1")
			var results []*Result[json.RawMessage]
			for _, task := range []string{"slow", "slow", "kill", "slow", "slow"} {
				r, err := c.SendRaw(ctx, DefaultQueue, task, must(json.Marshal(how)), WithMaxAttempts(1))
				if err != nil {
					t.Fatal(err)
				}
				results = append(results, r)
			}
			killer := results[2]
			neighbours := slices.Delete(results, 2, 3)
			ended := make(chan error, 1)
			go func() {
				_, err := killer.Wait(ctx)
				ended <- err
			}()
			deaths := superviseUntil(ctx, t, broker.URL(), ended, func(err error) {
				if failed, ok := errors.AsType[*TaskError](err); !ok || failed.Type != wire.FailurePoison {
					t.Errorf("wait: %v", err)
				}
			}, func() {
				r, err := c.SendRaw(ctx, DefaultQueue, "toil", []byte(`2`))
				if err != nil {
					t.Errorf("a neighbour: %v", err)
					return
				}
				for _, r := range append(neighbours, r) {
					if _, err := r.Wait(ctx); err != nil {
						t.Errorf("neighbour %s: %v", r.ID(), err)
					}
				}
			})
			// The first death leaves no mark, because nothing is written in the
			// first second of a plain run.
			if deaths != 3 {
				t.Errorf("%d workers died, want 3", deaths)
			}
			record, err := killer.Record(ctx)
			if err != nil || record.State != wire.StateFailed || record.Attempt != 1 {
				t.Errorf("record %+v, %v", record, err)
			}
		})
	}
}

// TestWorkerThatDiesWithAKeptTask ends a worker when the next attempt of a task
// stands in its record, and when that is claimed before its time: the attempt is
// owed, and nothing is lost or counted twice.
func TestWorkerThatDiesWithAKeptTask(t *testing.T) {
	for _, state := range []wire.State{wire.StateRetrying, wire.StateStarted} {
		t.Run(string(state), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			broker := enginetest.Start(t)
			broker.SetupWith(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue, AckWait: time.Second}}})
			c, err := NewClient(broker.Conn(ConnectOptions(nil)...))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			t.Setenv("PELTON_TEST_DIE_AT", string(state))
			t.Setenv("PELTON_TEST_DIED", filepath.Join(t.TempDir(), "died"))
			r, err := c.SendRaw(ctx, DefaultQueue, "chain", []byte(`1`))
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := r.Wait(ctx)
				ended <- err
			}()
			deaths := superviseUntil(ctx, t, broker.URL(), ended, func(err error) {
				if err != nil {
					t.Errorf("wait: %v", err)
				}
			}, func() {})
			if deaths != 1 {
				t.Errorf("%d workers died, want 1", deaths)
			}
			record, err := r.Record(ctx)
			if err != nil || !wholeChain(record) {
				t.Errorf("%+v, %v", record, err)
			}
			awaitDrained(ctx, t, c)
		})
	}
}

// wholeChain reports whether a task "chain" has succeeded after each of its
// attempts was recorded once.
func wholeChain(r *Record) bool {
	if r == nil || r.State != wire.StateSucceeded || r.Attempt != chainAttempts || len(r.Attempts) != chainAttempts-1 {
		return false
	}
	for i, a := range r.Attempts {
		if a.Attempt != i+1 {
			return false
		}
	}
	return true
}

// TestKilledWorkersLoseNoShortRetry kills workers while they keep tasks for
// their next attempts: each has all its attempts, in order, and one end.
func TestKilledWorkersLoseNoShortRetry(t *testing.T) {
	lost := shortRetriesUnderWorkerKills(t, false)
	if lost != 0 {
		t.Errorf("%d tasks lost", lost)
	}
}

// TestAckBeforeKeepingLoses is the control: workers that acknowledge a task
// whose next attempt they keep must lose some, or the test above is blind.
func TestAckBeforeKeepingLoses(t *testing.T) {
	if lost := shortRetriesUnderWorkerKills(t, true); lost == 0 {
		t.Error("nothing lost: this test cannot see a loss")
	}
}

func shortRetriesUnderWorkerKills(t *testing.T, ackFirst bool) (lost int) {
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
	const tasks = 600
	var ids []string
	for i := range tasks {
		r, err := c.SendRaw(ctx, DefaultQueue, "chain", fmt.Appendf(nil, "%d", i))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID())
	}
	kept := make(chan struct{}, 1) // one more attempt is
	sub, err := c.nc.Subscribe(c.ns.DoneSubject(DefaultQueue, ">"), func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(`"state":"retrying"`)) {
			select {
			case kept <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	workers := startWorkers(t, broker.URL(), 3, ackFirst)
	for n, some := 0, true; some && n < 15; n++ { // each in its turn: one of them has them all at times
		select {
		case <-kept:
			<-time.After(time.Duration(rand.IntN(150)) * time.Millisecond)
			workers.kill(n % 3)
		case <-time.After(5 * time.Second): // more than a lease: all are lost, or have ended
			some = false
		}
	}
	awaitDrained(ctx, t, c)
	workers.stop()
	stop()
	for _, id := range ids {
		r, err := c.Record(ctx, DefaultQueue, id)
		if errors.Is(err, ErrNotFound) || err == nil && !r.State.Terminal() {
			lost++
			continue
		}
		if err != nil || !wholeChain(r) || terminal[id] != 1 {
			t.Errorf("%s: %d terminal records, %+v, %v", id, terminal[id], r, err)
		}
	}
	return lost
}

// superviseUntil starts a worker again whenever it has died, until the task has
// ended; then, with a worker that lives, it runs after. It returns the deaths.
func superviseUntil(ctx context.Context, t *testing.T, url string, ended <-chan error, check func(error), after func()) (deaths int) {
	t.Helper()
	for ctx.Err() == nil {
		w := startWorkers(t, url, 1, false)
		died := make(chan struct{})
		go func() {
			_ = w.children[0].Wait()
			close(died)
		}()
		select {
		case <-died:
			deaths++
		case err := <-ended:
			check(err)
			after()
			return deaths
		case <-ctx.Done():
		}
	}
	t.Fatal("never buried")
	return deaths
}
