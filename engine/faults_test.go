//go:build e2e

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	neturl "net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/faulttest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// ackWaitUnderFaults is the lease of the tasks: short, so that what dies comes
// back while the faults go on.
const ackWaitUnderFaults = 2 * time.Second

// faultPlan is which faults a run does, and how often one next to the others.
type faultPlan struct {
	brokers int
	faults  int
	pause   time.Duration // between two faults, at most
	weights map[string]int
	slow    int // of 100 tasks, those that are slow besides the usual
	without protections
	blind   bool
}

// TestFaultsOfOneBroker kills, freezes and ends workers, cuts and silences
// connections, and kills a broker on its own, hundreds of times while tasks of
// all kinds are sent and run: what was acknowledged has one recorded end, and
// nothing is left. The seed is printed; PELTON_TEST_SEED plays the same faults
// again, though not to the microsecond. The history stays where the test fails,
// or in the folder PELTON_TEST_HISTORY.
func TestFaultsOfOneBroker(t *testing.T) {
	holds(t, faultPlan{brokers: 1, faults: faultsOfOne, pause: 150 * time.Millisecond, weights: map[string]int{
		"kill worker": 60, "freeze worker": 6, "end worker": 6, "cut": 14, "silence": 5, "deafen": 4, "kill broker": 5,
	}})
}

// TestFaultsOfLinksDoubleNothing: as long as the broker lives no send is stored
// twice, however often its answer is lost.
func TestFaultsOfLinksDoubleNothing(t *testing.T) {
	verdict := holds(t, faultPlan{brokers: 1, faults: 50, pause: 300 * time.Millisecond, weights: map[string]int{
		"kill worker": 10, "cut": 40, "silence": 3, "deafen": 6,
	}})
	if verdict.Doubled > 0 {
		t.Errorf("%d sends are stored more than once", verdict.Doubled)
	}
}

// TestFaultsOfThreeBrokers is the same on a cluster that keeps all three times,
// whose streams and consumers change their leaders besides.
func TestFaultsOfThreeBrokers(t *testing.T) {
	holds(t, faultPlan{brokers: 3, faults: faultsOfThree, pause: 400 * time.Millisecond, weights: map[string]int{
		"kill worker": 40, "freeze worker": 5, "end worker": 5, "cut": 10, "silence": 4, "deafen": 4, "kill broker": 12, "step down": 20,
	}})
}

// holds runs a plan and fails where the history breaks a rule.
func holds(t *testing.T, plan faultPlan) faulttest.Verdict {
	t.Helper()
	w := startFaults(t, plan)
	w.play()
	events := w.events()
	verdict := faulttest.Judge(events)
	t.Logf("%s", verdict)
	if len(verdict.Violations) > 0 {
		t.Errorf("seed %d, history %s: %d violations", w.seed, w.path, len(verdict.Violations))
		w.tell(events, verdict.Violations[0].ID)
	}
	if n := verdict.FaultCount(); n < plan.faults {
		t.Errorf("%d faults, want %d", n, plan.faults)
	}
	return verdict
}

// faults is a system under faults.
type faults struct {
	t       *testing.T
	ctx     context.Context
	plan    faultPlan
	seed    uint64
	path    string
	history *faulttest.Writer
	brokers *brokers
	links   []*enginetest.Link // before each broker one of the sender and one of the workers
	linked  []*victim
	nodes   *victim
	toilers []*toilerChild
	c       *Client // past the links: of the test alone
	sender  *Client // by way of them
	sent    atomic.Int64
	group   sync.WaitGroup // what goes on beside the one who does faults
}

// victim is what one fault at a time is done to.
type victim struct{ atomic.Bool }

func (b *victim) take() bool { return b.CompareAndSwap(false, true) }
func (b *victim) free()      { b.Store(false) }

func startFaults(t *testing.T, plan faultPlan) *faults {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(plan.faults)*time.Second)
	t.Cleanup(cancel)
	w := &faults{t: t, ctx: ctx, plan: plan, seed: uint64(time.Now().UnixNano()), nodes: &victim{}}
	if given, err := strconv.ParseUint(os.Getenv("PELTON_TEST_SEED"), 10, 64); err == nil {
		w.seed = given
	}
	w.openHistory()
	t.Logf("seed %d, history %s", w.seed, w.path)
	w.brokers = startBrokers(t, plan.brokers, func(cfg *enginetest.ServerConfig) {
		cfg.SyncAlways = plan.brokers == 1 // what a task is promised under, see Durability
	})
	w.c = clusterClient(t, w.brokers.urls)
	w.sender = clusterClient(t, w.link())
	w.setup()
	w.startToilers(strings.Join(w.link(), ","))
	return w
}

// link starts a link before each broker.
func (w *faults) link() (urls []string) {
	w.t.Helper()
	for _, broker := range w.brokers.urls {
		u, err := neturl.Parse(broker)
		if err != nil {
			w.t.Fatal(err)
		}
		link := enginetest.StartLink(w.t, u.Host)
		w.links, w.linked, urls = append(w.links, link), append(w.linked, &victim{}), append(urls, link.URL())
	}
	return urls
}

// openHistory makes the file. One that a test fails with stays.
func (w *faults) openHistory() {
	w.t.Helper()
	folder := os.Getenv("PELTON_TEST_HISTORY")
	keep := folder != ""
	if !keep {
		var err error
		if folder, err = os.MkdirTemp("", "pelton-faults-"); err != nil {
			w.t.Fatal(err)
		}
	}
	w.path = filepath.Join(folder, fmt.Sprintf("history-%d.jsonl", w.seed))
	var err error
	if w.history, err = faulttest.OpenWriter(w.path); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.history.Close(); err != nil {
			w.t.Error(err)
		}
		if !w.t.Failed() && !keep {
			_ = os.RemoveAll(folder)
		}
	})
}

func (w *faults) note(e faulttest.Event) {
	if err := w.history.Write(e); err != nil {
		w.t.Error(err)
	}
}

// setup makes the queue, and has the bucket keep every revision of a record.
func (w *faults) setup() {
	w.t.Helper()
	topo, err := topology.New(topology.Config{
		Replicas: w.plan.brokers, Queues: []topology.Queue{{Name: DefaultQueue, AckWait: ackWaitUnderFaults}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.ctx, w.t, func(ctx context.Context) error {
		_, err := topology.Apply(ctx, w.c.js, topo)
		return err
	})
	stream := w.c.ns.ResultsStream(DefaultQueue)
	eventually(w.ctx, w.t, func(ctx context.Context) error { return keepAll(ctx, w.c, stream) })
}

// keepAll lifts the limit of one message for each subject of a stream, as JSON,
// so that what the library does not know of its settings stays.
func keepAll(ctx context.Context, c *Client, stream string) error {
	m, err := c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.INFO."+stream, nil)
	if err != nil {
		return err
	}
	var info struct {
		Config map[string]any `json:"config"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Config == nil {
		return fmt.Errorf("stream %s: %s", stream, m.Data)
	}
	info.Config["max_msgs_per_subject"] = -1
	body, err := json.Marshal(info.Config)
	if err != nil {
		return err
	}
	if m, err = c.nc.RequestWithContext(ctx, apiPrefix+"STREAM.UPDATE."+stream, body); err != nil {
		return err
	}
	var updated struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &updated); err != nil {
		return err
	}
	if updated.Error != nil {
		return updated.Error
	}
	return nil
}

// play sends and does faults, then heals all and waits for the end.
func (w *faults) play() {
	w.t.Helper()
	sending, stop := context.WithCancel(w.ctx)
	var senders sync.WaitGroup
	for i := range 6 {
		random := rand.New(rand.NewPCG(w.seed, uint64(i)+1))
		senders.Go(func() { w.send(sending, random) })
	}
	w.doFaults(rand.New(rand.NewPCG(w.seed, 0)))
	stop()
	w.group.Wait()
	for _, link := range w.links {
		link.Cut()
	}
	senders.Wait()
	w.drain()
	for _, child := range w.toilers {
		child.end(w.t)
	}
	w.readRecords()
}

// doFaults does the planned faults, each as soon as a victim is there.
func (w *faults) doFaults(random *rand.Rand) {
	var bag []string
	for _, what := range []string{"kill worker", "freeze worker", "end worker", "cut", "silence", "deafen", "kill broker", "step down"} {
		for range w.plan.weights[what] {
			bag = append(bag, what)
		}
	}
	for done := 0; done < w.plan.faults && w.ctx.Err() == nil; {
		<-time.After(time.Duration(30+random.Int64N(int64(w.plan.pause/time.Millisecond))) * time.Millisecond)
		if w.fault(bag[random.IntN(len(bag))], random) {
			done++
		}
	}
}

// fault does one fault, unless its victim suffers already.
func (w *faults) fault(what string, random *rand.Rand) bool {
	child := w.toilers[random.IntN(len(w.toilers))]
	n := random.IntN(len(w.links))
	wait := time.Duration(random.Int64N(int64(time.Second)))
	switch what {
	case "kill worker", "freeze worker", "end worker":
		return w.harm(child, what, wait)
	case "kill broker":
		return w.killBroker(random.IntN(len(w.brokers.nodes)))
	case "step down":
		return w.stepDown(random.IntN(4))
	}
	if !w.linked[n].take() {
		return false
	}
	w.note(faulttest.Event{Kind: faulttest.KindFault, What: what, Who: "link " + strconv.Itoa(n)})
	link := w.links[n]
	if what == "cut" {
		link.Cut()
		w.linked[n].free()
		return true
	}
	if what == "silence" {
		link.Silence()
	} else {
		link.Deafen()
	}
	w.group.Go(func() { // for less than a lease, or for more
		defer w.linked[n].free()
		<-time.After(100*time.Millisecond + 3*wait)
		link.Cut()
	})
	return true
}

// harm kills, freezes or ends a worker; another is started for one that is gone.
func (w *faults) harm(child *toilerChild, what string, wait time.Duration) bool {
	if !child.take() {
		return false
	}
	w.note(faulttest.Event{Kind: faulttest.KindFault, What: what, Who: child.name})
	w.group.Go(func() {
		defer child.free()
		switch what {
		case "kill worker":
			child.kill(w.t)
			child.start(w.t)
		case "end worker":
			child.end(w.t)
			child.start(w.t)
		case "freeze worker":
			child.freeze(w.t, ackWaitUnderFaults+200*time.Millisecond+wait)
		}
	})
	return true
}

// killBroker kills one at a time: the next waits until the cluster had a moment
// to find itself.
func (w *faults) killBroker(n int) bool {
	if !w.nodes.take() {
		return false
	}
	w.note(faulttest.Event{Kind: faulttest.KindFault, What: "kill broker", Who: "broker " + strconv.Itoa(n)})
	w.group.Go(func() {
		defer w.nodes.free()
		w.brokers.kill(n)
		if len(w.brokers.nodes) > 1 {
			<-time.After(2 * time.Second)
		}
	})
	return true
}

// stepDown has the leader of a stream or of a consumer give up. A request that
// nobody answers is no fault.
func (w *faults) stepDown(n int) bool {
	lane := wire.PlainLane(DefaultQueue)
	tasks, later := w.c.ns.TaskStream(lane), w.c.ns.LaterStream(lane)
	what := []string{
		"STREAM.LEADER.STEPDOWN." + tasks, "STREAM.LEADER.STEPDOWN." + w.c.ns.ResultsStream(DefaultQueue),
		"CONSUMER.LEADER.STEPDOWN." + tasks + "." + wire.WorkersDurable, "CONSUMER.LEADER.STEPDOWN." + later + "." + wire.DueDurable,
	}[n]
	if _, err := w.c.nc.Request(apiPrefix+what, nil, time.Second); err != nil {
		return false
	}
	w.note(faulttest.Event{Kind: faulttest.KindFault, What: "step down", Who: what})
	return true
}

// send sends tasks of all kinds until ctx is done.
func (w *faults) send(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		body := toilBody{Work: time.Duration(random.Int64N(int64(20 * time.Millisecond)))}
		task, id := "toil", ""
		var eta time.Time
		if random.IntN(100) < w.plan.slow {
			body.Work = startedAfter + time.Duration(random.Int64N(int64(500*time.Millisecond)))
		}
		switch kind := random.IntN(100); {
		case kind < 25: // plain
		case kind < 45:
			id = fmt.Sprintf("job-%d-x", random.Uint32())
		case kind < 60:
			eta = time.Now().Add(time.Duration(random.Int64N(int64(3 * time.Second))))
		case kind < 70:
			body.Fails, body.Wait = 1+random.IntN(3), time.Duration(random.Int64N(int64(1200*time.Millisecond)))
		case kind < 75:
			body.Panics = 1 + random.IntN(2)
		case kind < 80:
			body.Work = startedAfter + time.Duration(random.Int64N(int64(500*time.Millisecond)))
		case kind < 83:
			body.Bury = true
		case kind < 90:
			task = "bare"
		case kind < 97: // twice under one id
			id = fmt.Sprintf("job-%d-x", random.Uint32())
			w.group.Go(func() { w.sendOne("toil", body, id, time.Time{}, 20*time.Second) })
		default: // so many at once that workers write their outcomes together
			for range 50 {
				w.group.Go(func() { w.sendOne("toil", toilBody{}, "", time.Time{}, 20*time.Second) })
			}
		}
		patience := 20 * time.Second
		if random.IntN(2) == 0 {
			patience = time.Second // too little for many an outage: it cannot know
		}
		w.sendOne(task, body, id, eta, patience)
		<-time.After(time.Duration(random.Int64N(int64(100 * time.Millisecond)))) // the pace
	}
}

func (w *faults) sendOne(task string, body toilBody, id string, eta time.Time, patience time.Duration) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	body.N = int(w.sent.Add(1))
	e := faulttest.Event{Kind: faulttest.KindSend, N: body.N, ID: id, Bare: task == "bare", Outcome: faulttest.Acked}
	var opts []SendOption
	if id != "" {
		opts = append(opts, WithID(id))
	}
	if !eta.IsZero() {
		opts, e.ETA = append(opts, WithETA(eta)), eta.UnixNano()
	}
	r, err := w.sender.SendRaw(ctx, DefaultQueue, task, must(json.Marshal(body)), opts...)
	switch {
	case err == nil:
		e.ID = r.ID()
	case errors.Is(err, ErrUnconfirmed):
		e.Outcome = faulttest.Unknown
	case errors.Is(err, ErrExists):
		e.Outcome = faulttest.Exists
	case errors.Is(err, ErrNoQueue), errors.Is(err, ErrUnreachable):
		e.Outcome = faulttest.Refused
	default:
		w.t.Errorf("send %d: %v", body.N, err)
	}
	w.note(e)
}

// drain waits until nothing is left in the lanes, and notes what is when that
// does not come. What killed brokers have forgotten a janitor puts right.
func (w *faults) drain() {
	w.t.Helper()
	defer withJanitor(w.t, w.c)()
	lane := wire.PlainLane(DefaultQueue)
	streams := []string{w.c.ns.TaskStream(lane), w.c.ns.LaterStream(lane)}
	patience := time.Now().Add(time.Minute)
	left := map[string]uint64{}
	eventually(w.ctx, w.t, func(ctx context.Context) error {
		total := uint64(0)
		for _, name := range streams {
			stream, err := w.c.js.Stream(ctx, name)
			if err != nil {
				return err
			}
			left[name] = stream.CachedInfo().State.Msgs
			total += left[name]
		}
		if total > 0 && time.Now().Before(patience) {
			return fmt.Errorf("%d messages are left", total)
		}
		return nil
	})
	for name, n := range left {
		w.note(faulttest.Event{Kind: faulttest.KindLeft, What: name, Count: n})
	}
}

// readRecords adds every revision of every record to the history.
func (w *faults) readRecords() {
	w.t.Helper()
	name := w.c.ns.ResultsStream(DefaultQueue)
	var consumer jetstream.Consumer
	eventually(w.ctx, w.t, func(ctx context.Context) (err error) {
		consumer, err = w.c.js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
		return err
	})
	messages, err := consumer.Messages()
	if err != nil {
		w.t.Fatal(err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(w.ctx))
		if err != nil {
			w.t.Fatal(err)
		}
		md, err := m.Metadata()
		if err != nil {
			w.t.Fatal(err)
		}
		id := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
		e := faulttest.Event{At: md.Timestamp.UnixNano(), Kind: faulttest.KindRecord, ID: id, Revision: md.Sequence.Stream}
		if r, err := wire.DecodeRecord(id, m.Data()); err == nil {
			e.Record = r
		}
		w.note(e)
		if md.NumPending == 0 {
			return
		}
	}
}

// tell writes what the history has of a task to the log, for where the file goes
// with the machine.
func (w *faults) tell(events []faulttest.Event, id string) {
	w.t.Helper()
	for _, e := range events {
		if id != "" && e.ID == id {
			w.t.Logf("%s", must(json.Marshal(e)))
		}
	}
}

// events reads the history back.
func (w *faults) events() []faulttest.Event {
	w.t.Helper()
	file, err := os.Open(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	events, err := faulttest.Read(file)
	if err != nil {
		w.t.Fatal(err)
	}
	return events
}
