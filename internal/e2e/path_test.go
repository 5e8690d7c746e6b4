//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// world is two brokers in the test's process, and roles as processes of their
// own.
type world struct {
	t      *testing.T
	binary string
	nats   *enginetest.Broker
	kafka  *kfake.Cluster
	port   int
	data   string
	env    []string
}

func newWorld(t *testing.T, more ...kfake.Opt) *world {
	t.Helper()
	w := emptyWorld(t, enginetest.Start(t), more...)
	if out, code := w.pelton("setup", "apply"); code != 0 {
		t.Fatalf("setup: exit %d\n%s", code, out)
	}
	return w
}

// emptyWorld is one in which nothing is set up.
func emptyWorld(t *testing.T, broker *enginetest.Broker, more ...kfake.Opt) *world {
	t.Helper()
	w := &world{t: t, binary: filepath.Join(t.TempDir(), "pelton"), nats: broker, data: t.TempDir()}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", w.binary, "pelton/cmd/pelton")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	w.startKafka(append(more, kfake.SeedTopics(4, "commands", "results"))...)
	t.Cleanup(func() { w.kafka.Close() })
	w.env = append(os.Environ(),
		"NATS_URL="+w.nats.URL(),
		"KAFKA_BOOTSTRAP_SERVERS="+w.kafka.ListenAddrs()[0],
		"PELTON_QUEUES__DEFAULT__ACK_WAIT=2s",
		"PELTON_WORKER__MAX_DEATHS=1000", // the test kills them, not their tasks
		"PELTON_EDGES__INGEST__COMMANDS__SESSION_TIMEOUT=1s",
		"PELTON_EDGES__INGEST__COMMANDS__REBALANCE_TIMEOUT=4s",
		"PELTON_EDGES__EMIT__RESULTS__SESSION_TIMEOUT=1s",
		"PELTON_EDGES__EMIT__RESULTS__GRACE=2s",
	)
	return w
}

// startKafka starts an imitation of Kafka on the world's data, and on the same
// port as before.
func (w *world) startKafka(opts ...kfake.Opt) {
	w.t.Helper()
	opts = append(opts, kfake.NumBrokers(1), kfake.Ports(w.port), kfake.DataDir(w.data), kfake.SyncWrites(), kfake.GroupMinSessionTimeout(200*time.Millisecond))
	var err error
	if w.kafka, err = kfake.NewCluster(opts...); err != nil {
		w.t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", w.kafka.ListenAddrs()[0])
	if err != nil {
		w.t.Fatal(err)
	}
	w.port = addr.Port
}

// pelton runs a command to its end.
func (w *world) pelton(args ...string) (output string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.binary, args...)
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// role is a process that is killed and made again.
type role struct {
	w     *world
	args  []string
	cmd   *exec.Cmd
	log   *tail
	out   *count // of the process that runs now
	kills int
}

// count counts what is written.
type count struct{ atomic.Int64 }

func (c *count) Write(b []byte) (int, error) {
	c.Add(int64(len(b)))
	return len(b), nil
}

// tail keeps the end of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-16<<10):]
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

func (w *world) start(args ...string) *role {
	w.t.Helper()
	r := &role{w: w, args: args, log: &tail{}}
	r.run()
	w.t.Cleanup(func() {
		if r.cmd != nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", strings.Join(args, " "), r.log)
		}
	})
	return r
}

func (r *role) run() {
	r.w.t.Helper()
	r.cmd = exec.CommandContext(context.Background(), r.w.binary, r.args...)
	r.out = &count{}
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = r.w.env, r.out, r.log
	if err := r.cmd.Start(); err != nil {
		r.w.t.Fatal(err)
	}
}

// kill ends the process without a word and starts another.
func (r *role) kill() {
	r.w.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		r.w.t.Fatal(err)
	}
	_ = r.cmd.Wait()
	r.kills++
	r.run()
}

// stop ends the process as a supervisor does; it must end cleanly.
func (r *role) stop() {
	r.w.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.w.t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.w.t.Errorf("%s after SIGTERM: %v", strings.Join(r.args, " "), err)
	}
	r.cmd = nil
}

// stopAtWork stops the process once it has told of its work: one that was made
// just now may not yet listen.
func (r *role) stopAtWork() {
	r.w.t.Helper()
	r.w.until("a word of "+strings.Join(r.args, " "), time.Minute, func() bool { return r.out.Load() > 0 })
	r.stop()
}

// records reads a topic to where it ends now, read committed.
func (w *world) records(topic string) []*kgo.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	open := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			open[o.Partition] = o.Offset
		}
	})
	var out []*kgo.Record
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			w.t.Fatalf("read %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
			if end, ok := open[r.Partition]; ok && r.Offset >= end-1 {
				delete(open, r.Partition)
			}
		})
	}
	return out
}

// until asks again until it holds.
func (w *world) until(what string, within time.Duration, holds func() bool) {
	w.t.Helper()
	over := time.After(within)
	for tick := time.NewTicker(200 * time.Millisecond); !holds(); {
		select {
		case <-over:
			w.t.Fatalf("not within %s: %s", within, what)
		case <-tick.C:
		}
	}
}

// allResults waits until there are as many results; if not, it tells where the
// rest is.
func (w *world) allResults(commands int, within time.Duration) {
	w.t.Helper()
	w.t.Cleanup(func() {
		if w.t.Failed() {
			out, _ := w.pelton("queue", "ls")
			w.t.Logf("%d commands, %d results\n%s%s", commands, len(w.records("results")), out, w.groups())
		}
	})
	w.until("as many results as commands", within, func() bool { return len(w.records("results")) >= commands })
}

// evictDead does what a broker does by itself: it removes members of a group
// whose process is gone. The imitation forgets to, for a member that dies while
// it waits for the answer to its join. It cannot tell which is the dead one, so
// it removes all; the living one comes back.
func (w *world) evictDead(ctx context.Context, cl *kgo.Client) {
	described, err := kadm.NewClient(cl).DescribeGroups(ctx)
	if err != nil {
		return
	}
	for _, g := range described {
		if len(g.Members) < 2 {
			continue
		}
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group = g.Group
		for _, m := range g.Members {
			member := kmsg.NewLeaveGroupRequestMember()
			member.MemberID = m.MemberID
			leave.Members = append(leave.Members, member)
		}
		_, _ = leave.RequestWith(ctx, cl)
	}
}

// evicting evicts until the function returned is called.
func (w *world) evicting() (stop func()) {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cl.Close()
		for tick := time.NewTicker(2 * time.Second); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.evictDead(ctx, cl)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// groups tells how the consumer groups are.
func (w *world) groups() string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...))
	if err != nil {
		return err.Error()
	}
	defer cl.Close()
	described, err := kadm.NewClient(cl).DescribeGroups(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, g := range described.Sorted() {
		fmt.Fprintf(&b, "group %s: %s\n", g.Group, g.State)
		for _, m := range g.Members {
			assigned, _ := m.Assigned.AsConsumer()
			fmt.Fprintf(&b, "  %s: %v\n", m.MemberID, assigned)
		}
	}
	return b.String()
}

func commandID(r *kgo.Record) string {
	return wire.KafkaOrigin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}.ID()
}

// TestEveryRecordOneResult kills every role again and again: for each record
// that is found in the commands topic there is exactly one in the results.
func TestEveryRecordOneResult(t *testing.T) {
	const records, kills = 2000, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	producer := w.start("produce", "--every", "4ms", "--topic", "commands")
	roles := []*role{
		producer,
		w.start("edge", "ingest"),
		w.start("worker", "--queues", "default:8"),
		w.start("worker", "--queues", "default:8"),
		w.start("edge", "emit"),
	}
	enough := func() bool {
		for _, r := range roles {
			if r.kills < kills {
				return false
			}
		}
		return len(w.records("commands")) >= records
	}
	for i := 0; i%10 != 0 || !enough(); i++ {
		<-time.After(time.Duration(200+random.IntN(500)) * time.Millisecond) // the pace of the kills
		roles[random.IntN(len(roles))].kill()
	}
	producer.stopAtWork()
	stop := w.evicting()
	defer stop()
	commands := w.records("commands")
	w.allResults(len(commands), 90*time.Second)
	// What a worker had recorded and not acked when it was killed comes again.
	w.until("an empty queue", time.Minute, func() bool { return len(w.stored()) == 0 })
	for _, r := range roles[1:] {
		r.stop()
	}
	results := w.records("results")
	for _, r := range roles {
		t.Logf("%s: %d kills", strings.Join(r.args, " "), r.kills)
	}
	t.Logf("%d commands, %d results", len(commands), len(results))
	w.oneEach(commands, results)
	w.drained()
}

// oneEach fails unless each command has one result, which succeeded and holds
// what the command held.
func (w *world) oneEach(commands, results []*kgo.Record) {
	w.t.Helper()
	got := map[string][]*kgo.Record{}
	for _, r := range results {
		got[string(r.Key)] = append(got[string(r.Key)], r)
	}
	missing, doubled, wrong := 0, 0, 0
	for _, c := range commands {
		found := got[commandID(c)]
		delete(got, commandID(c))
		switch {
		case len(found) == 0:
			missing++
		case len(found) > 1:
			doubled++
		default:
			var record wire.Record
			if err := json.Unmarshal(found[0].Value, &record); err != nil || record.State != wire.StateSucceeded || !bytes.Equal(record.Result, c.Value) {
				wrong++
			}
		}
	}
	if missing+doubled+wrong+len(got) > 0 {
		w.t.Errorf("of %d commands %d have no result, %d several, %d a wrong one; %d results of nothing", len(commands), missing, doubled, wrong, len(got))
	}
}

// drained fails unless the queue holds nothing but ledgers.
func (w *world) drained() {
	w.t.Helper()
	for _, id := range w.stored() {
		w.t.Errorf("left in the queue: %s", id)
	}
}

// stored is the origins of the tasks in the queue, in order.
func (w *world) stored() (origins []string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := w.nats.JetStream().Stream(ctx, "PELTON_TASKS_default")
	if err != nil {
		w.t.Fatal(err)
	}
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; {
		m, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("pelton.task.default.>"))
		if err != nil {
			break
		}
		origins = append(origins, wire.NearestOrigin(m.Header.Get(wire.HeaderOrigin)))
		seq = m.Sequence + 1
	}
	return origins
}

// TestKilledIngestStoresEachRecordOnce counts tasks, with no worker to hide a
// double: a record written once has the same id however often it was ingested.
func TestKilledIngestStoresEachRecordOnce(t *testing.T) {
	perOrigin, records := ingestUnderKills(t, func(w *world) *role { return w.start("edge", "ingest") })
	for origin, n := range perOrigin {
		if n != 1 {
			t.Errorf("%s is stored %d times", origin, n)
		}
	}
	if len(perOrigin) != records {
		t.Errorf("%d of %d records are stored", len(perOrigin), records)
	}
}

// TestOffsetsAfterPublishingDouble is the control: the usual consumer, which
// publishes and then commits its offsets, must double or lose under the same
// kills, or the test above is blind.
func TestOffsetsAfterPublishingDouble(t *testing.T) {
	perOrigin, records := ingestUnderKills(t, func(w *world) *role {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		w.binary = self
		w.env = append(w.env, "PELTON_TEST_CONTROL=ingest")
		return w.start()
	})
	doubled := 0
	for _, n := range perOrigin {
		if n > 1 {
			doubled++
		}
	}
	t.Logf("%d of %d records stored, %d doubled", len(perOrigin), records, doubled)
	if doubled == 0 && len(perOrigin) == records {
		t.Error("no double and no loss: this test cannot see one")
	}
}

// ingestUnderKills lets an ingest be killed while records come, and counts the
// tasks by origin once all have been taken.
func ingestUnderKills(t *testing.T, start func(*world) *role) (perOrigin map[string]int, records int) {
	t.Helper()
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	producer := w.start("produce", "--every", "2ms", "--topic", "commands")
	ingest := start(w)
	for ingest.kills < 8 {
		<-time.After(time.Duration(1500+random.IntN(700)) * time.Millisecond) // a session timeout, and some work
		ingest.kill()
	}
	producer.stopAtWork()
	stop := w.evicting()
	defer stop()
	records = len(w.records("commands"))
	perOrigin = map[string]int{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d of %d records are stored\n%s", len(perOrigin), records, w.groups())
		}
	})
	w.until("every record is stored", time.Minute, func() bool {
		clear(perOrigin)
		for _, origin := range w.stored() {
			perOrigin[origin]++
		}
		return len(perOrigin) >= records
	})
	ingest.stop()
	return perOrigin, records
}

// TestMain is also the main of the control.
func TestMain(m *testing.M) {
	if os.Getenv("PELTON_TEST_CONTROL") == "ingest" {
		if err := ingestWithoutLedger(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// warnings counts the lines of level warn in what the process has said.
func (r *role) warnings() int {
	return strings.Count(r.log.String(), `"level":"WARN"`)
}
