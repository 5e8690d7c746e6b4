package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// Config says what is measured.
type Config struct {
	// Broker is the command of the broker's process, see [ServeBroker]. Required.
	Broker func(ctx context.Context, folder string, syncAlways bool) *exec.Cmd
	Paths  []string // names of paths; all unless set
	Rounds int      // that count; one more warms up
	Tasks  int      // of each run; 0 leaves it to the path
	Body   int      // bytes of a task's body, at least 2
	// Report gets each round as it ends. May be nil.
	Report func(Round)
	// Version of Pelton, to be told.
	Version string
}

// Conditions is what decides the figures.
type Conditions struct {
	Version    string `json:"version"`
	Go         string `json:"go"`
	Server     string `json:"nats_server"`
	Client     string `json:"nats_go"`
	Connection string `json:"connection"`
	Cores      int    `json:"cores"`
	Replicas   int    `json:"replicas"`
	Storage    string `json:"storage"`
	Sync       string `json:"sync"`
	Retention  string `json:"retention"`
	Tasks      int    `json:"tasks"`
	Body       int    `json:"body_bytes"`
	Headers    int    `json:"headers"`
	Slots      int    `json:"slots,omitempty"`       // of the worker
	FiredEarly int    `json:"fired_early,omitempty"` // milliseconds before a task's time
	Rounds     int    `json:"rounds"`
}

// String is the line above the figures.
func (c Conditions) String() string {
	worker := ""
	if c.Slots > 0 {
		worker = fmt.Sprintf(" fired-early=%dms slots=%d results=on", c.FiredEarly, c.Slots)
	}
	return fmt.Sprintf("pelton %s %s nats-server %s nats.go %s %s cores=%d R%d %s sync=%s %s payload=%dB%s rounds=%d",
		c.Version, c.Go, c.Server, c.Client, c.Connection, c.Cores, c.Replicas, c.Storage, c.Sync, c.Retention, c.Body, worker, c.Rounds)
}

// Round is one round of a path. It is what -o json writes.
type Round struct {
	Path  string `json:"path"`
	Round int    `json:"round"` // from 1
	First string `json:"first"` // raw or pelton: who began
	Conditions
	Pelton Figures `json:"pelton"`
	Raw    Figures `json:"raw"`
	// Ratio is that of the rates; of the 99th percentiles where lateness is
	// measured, and RatioP50 that of the medians.
	Ratio    float64 `json:"ratio"`
	RatioP50 float64 `json:"ratio_p50,omitempty"`
}

// Figures is one run.
type Figures struct {
	Rate        float64 `json:"tasks_per_second"`
	SenderCPU   float64 `json:"sender_cpu_us_per_task"`
	BrokerCPU   float64 `json:"broker_cpu_us_per_task"`
	Allocations float64 `json:"allocations_per_task"`
	Bytes       float64 `json:"bytes_per_task"`
	// Late is of tasks that were run. The other figures then count from when all
	// were sent, the rate from when the first was due.
	Late *Lateness `json:"lateness,omitempty"`
}

// Path is a kind of work that is done in two ways.
type Path struct {
	Name       string
	Says       string // what is done, in a few words
	Tasks      int    // of one run, unless told otherwise
	SyncAlways bool
	Headers    int
	Due        bool // a worker runs the tasks at their time: lateness is measured
	// Check tells whether a run has done its work; that all tasks wait in the
	// queue unless set.
	Check  func(ctx context.Context, r *Run) error
	Raw    func(ctx context.Context, r *Run) error
	Pelton func(ctx context.Context, r *Run) error
}

// Run is one run of a path: a queue that nobody else uses, and connections of
// its own.
type Run struct {
	NC      *nats.Conn
	JS      jetstream.JetStream
	Client  *engine.Client
	Queue   string
	Subject string // of the task
	Tasks   int
	Body    []byte

	restart func() error // counts the figures from now on
	late    *Lateness    // with took, where lateness is measured
	took    time.Duration
}

// Measure runs the rounds of each path, one path after the other.
func Measure(ctx context.Context, cfg Config, all []Path) ([]Round, error) {
	paths, err := choose(cfg.Paths, all)
	if err != nil {
		return nil, err
	}
	var rounds []Round
	for _, p := range paths {
		of, err := measure(ctx, cfg, p)
		rounds = append(rounds, of...)
		if err != nil {
			return rounds, fmt.Errorf("bench %s: %w", p.Name, err)
		}
	}
	return rounds, nil
}

// ErrNoPath is a path that does not exist.
var ErrNoPath = errors.New("no such path")

func choose(names []string, all []Path) ([]Path, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []Path
	for _, name := range names {
		i := slices.IndexFunc(all, func(p Path) bool { return p.Name == name })
		if i < 0 {
			var known []string
			for _, p := range all {
				known = append(known, p.Name)
			}
			return nil, fmt.Errorf("path %q: %w, must be one of %s", name, ErrNoPath, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func measure(ctx context.Context, cfg Config, p Path) ([]Round, error) {
	b, err := startBroker(ctx, cfg.Broker, p.SyncAlways)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	if cfg.Tasks > 0 {
		p.Tasks = cfg.Tasks
	}
	conditions := cfg.conditions(p)
	var rounds []Round
	for n := 0; n <= cfg.Rounds; n++ {
		r := Round{Path: p.Name, Round: n, First: "raw", Conditions: conditions}
		order := []func() error{
			func() (err error) { r.Raw, err = b.labelled(ctx, cfg, p, "raw", n); return err },
			func() (err error) { r.Pelton, err = b.labelled(ctx, cfg, p, "pelton", n); return err },
		}
		if n%2 == 1 {
			r.First = "pelton"
			slices.Reverse(order)
		}
		for _, run := range order {
			if err := run(); err != nil {
				return rounds, err
			}
		}
		if n == 0 {
			continue // to warm up
		}
		r.compare()
		rounds = append(rounds, r)
		if cfg.Report != nil {
			cfg.Report(r)
		}
	}
	return rounds, nil
}

func (r *Round) compare() {
	r.Ratio = r.Pelton.Rate / r.Raw.Rate
	if r.Pelton.Late != nil {
		r.Ratio, r.RatioP50 = r.Pelton.Late.P99/r.Raw.Late.P99, r.Pelton.Late.P50/r.Raw.Late.P50
	}
}

func (cfg Config) conditions(p Path) Conditions {
	sync := "2m"
	if p.SyncAlways {
		sync = "always"
	}
	c := Conditions{
		Version: cfg.Version, Go: runtime.Version(), Server: server.VERSION, Client: nats.Version, Connection: "tcp",
		Cores: runtime.GOMAXPROCS(0), Replicas: 1, Storage: "file", Sync: sync, Retention: "workqueue",
		Tasks: p.Tasks, Body: cfg.Body, Headers: p.Headers, Rounds: cfg.Rounds,
	}
	if p.Due {
		c.Slots, c.FiredEarly = slots, int(firedEarly.Milliseconds())
	}
	return c
}

// labelled is a run of one side, whose samples in a profile tell path and side.
func (b *broker) labelled(ctx context.Context, cfg Config, p Path, side string, round int) (f Figures, err error) {
	work := p.Raw
	if side == "pelton" {
		work = p.Pelton
	}
	pprof.Do(ctx, pprof.Labels("path", p.Name, "side", side), func(ctx context.Context) {
		f, err = b.run(ctx, cfg, p, work, fmt.Sprintf("%s-%d", side, round))
	})
	return f, err
}

// run makes a queue, does the work once, checks that all of it is there, and
// removes the queue.
func (b *broker) run(ctx context.Context, cfg Config, p Path, work func(context.Context, *Run) error, queue string) (f Figures, err error) {
	r, err := b.newRun(ctx, cfg, p, queue)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.end(ctx)) }()
	if f, err = b.timed(ctx, r, work); err != nil {
		return f, err
	}
	if p.Check != nil {
		return f, p.Check(ctx, r)
	}
	return f, r.holds(ctx, wire.DefaultNamespace.TaskStream(wire.PlainLane(queue)))
}

// holds checks that all tasks of the run are in a stream.
func (r *Run) holds(ctx context.Context, stream string) error {
	s, err := r.JS.Stream(ctx, stream)
	if err != nil {
		return err
	}
	if have := s.CachedInfo().State.Msgs; have != uint64(r.Tasks) {
		return fmt.Errorf("%d tasks were sent to queue %s, %d are there", r.Tasks, r.Queue, have)
	}
	return nil
}

// stall is how long a publish waits for room in the window: whatever a busy
// machine needs. The client library would give up after 200 ms.
const stall = 10 * time.Second

// published waits for the answers to all that was published without waiting.
func (r *Run) published(ctx context.Context) error {
	select {
	case <-r.JS.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bodies of all tasks of the run.
func (r *Run) bodies() [][]byte { return slices.Repeat([][]byte{r.Body}, r.Tasks) }

func (b *broker) newRun(ctx context.Context, cfg Config, p Path, queue string) (*Run, error) {
	nc, err := nats.Connect(b.url, engine.ConnectOptions(nil)...)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		nc.Close()
		return nil, err
	}
	client, err := engine.NewClient(nc, engine.ClientConfig{Durability: durability(p)})
	if err != nil {
		nc.Close()
		return nil, err
	}
	r := &Run{
		NC: nc, JS: js, Client: client, Queue: queue, Tasks: p.Tasks,
		Subject: wire.DefaultNamespace.TaskSubject(wire.Address{Lane: wire.PlainLane(queue), Task: "nop"}),
		Body:    []byte(`"` + strings.Repeat("x", max(cfg.Body-2, 0)) + `"`),
	}
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: queue, MaxPending: -1}}})
	if err == nil {
		_, err = topology.Apply(ctx, js, topo)
	}
	if err != nil {
		client.Close()
		nc.Close()
		return nil, err
	}
	return r, nil
}

func durability(p Path) engine.Durability {
	if p.SyncAlways {
		return engine.PowerSafe
	}
	return engine.DurabilityDefault
}

func (r *Run) end(ctx context.Context) error {
	defer r.NC.Close()
	defer r.Client.Close()
	lane := wire.PlainLane(r.Queue)
	return errors.Join(
		r.JS.DeleteStream(ctx, wire.DefaultNamespace.TaskStream(lane)),
		r.JS.DeleteStream(ctx, wire.DefaultNamespace.LaterStream(lane)),
		r.JS.DeleteStream(ctx, wire.DefaultNamespace.ResultsStream(r.Queue)),
	)
}
