package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
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
	Rounds     int    `json:"rounds"`
}

// String is the line above the figures.
func (c Conditions) String() string {
	return fmt.Sprintf("pelton %s %s nats-server %s nats.go %s %s cores=%d R%d %s sync=%s %s payload=%dB rounds=%d",
		c.Version, c.Go, c.Server, c.Client, c.Connection, c.Cores, c.Replicas, c.Storage, c.Sync, c.Retention, c.Body, c.Rounds)
}

// Round is one round of a path. It is what -o json writes.
type Round struct {
	Path  string `json:"path"`
	Round int    `json:"round"` // from 1
	First string `json:"first"` // raw or pelton: who began
	Conditions
	Pelton Figures `json:"pelton"`
	Raw    Figures `json:"raw"`
	Ratio  float64 `json:"ratio"` // of the rates
}

// Figures is one run.
type Figures struct {
	Rate        float64 `json:"tasks_per_second"`
	SenderCPU   float64 `json:"sender_cpu_us_per_task"`
	BrokerCPU   float64 `json:"broker_cpu_us_per_task"`
	Allocations float64 `json:"allocations_per_task"`
	Bytes       float64 `json:"bytes_per_task"`
}

// Path is a kind of work that is done in two ways.
type Path struct {
	Name       string
	Says       string // what is done, in a few words
	Tasks      int    // of one run, unless told otherwise
	SyncAlways bool
	Headers    int
	Raw        func(ctx context.Context, r *Run) error
	Pelton     func(ctx context.Context, r *Run) error
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
			func() (err error) { r.Raw, err = b.run(ctx, cfg, p, p.Raw, fmt.Sprintf("raw-%d", n)); return err },
			func() (err error) {
				r.Pelton, err = b.run(ctx, cfg, p, p.Pelton, fmt.Sprintf("pelton-%d", n))
				return err
			},
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
		r.Ratio = r.Pelton.Rate / r.Raw.Rate
		rounds = append(rounds, r)
		if cfg.Report != nil {
			cfg.Report(r)
		}
	}
	return rounds, nil
}

func (cfg Config) conditions(p Path) Conditions {
	sync := "2m"
	if p.SyncAlways {
		sync = "always"
	}
	return Conditions{
		Version: cfg.Version, Go: runtime.Version(), Server: server.VERSION, Client: nats.Version, Connection: "tcp",
		Cores: runtime.GOMAXPROCS(0), Replicas: 1, Storage: "file", Sync: sync, Retention: "workqueue",
		Tasks: p.Tasks, Body: cfg.Body, Headers: p.Headers, Rounds: cfg.Rounds,
	}
}

// run makes a queue, does the work once, checks that all of it is there, and
// removes the queue.
func (b *broker) run(ctx context.Context, cfg Config, p Path, work func(context.Context, *Run) error, queue string) (f Figures, err error) {
	r, err := b.newRun(ctx, cfg, p, queue)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.end(ctx)) }()
	f, err = b.timed(p.Tasks, func() error { return work(ctx, r) })
	if err != nil {
		return f, err
	}
	s, err := r.JS.Stream(ctx, wire.DefaultNamespace.TaskStream(wire.PlainLane(queue)))
	if err != nil {
		return f, err
	}
	if have := s.CachedInfo().State.Msgs; have != uint64(p.Tasks) {
		return f, fmt.Errorf("%d tasks were sent to queue %s, %d are there", p.Tasks, queue, have)
	}
	return f, nil
}

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
	)
}

func (b *broker) timed(tasks int, work func() error) (Figures, error) {
	brokerBefore, err := b.used()
	if err != nil {
		return Figures{}, err
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	senderBefore, began := processorTime(), time.Now()
	if err := work(); err != nil {
		return Figures{}, err
	}
	took, sender := time.Since(began), processorTime()-senderBefore
	runtime.ReadMemStats(&after)
	brokerAfter, err := b.used()
	n := float64(tasks)
	return Figures{
		Rate:        n / took.Seconds(),
		SenderCPU:   float64(sender.Microseconds()) / n,
		BrokerCPU:   float64((brokerAfter - brokerBefore).Microseconds()) / n,
		Allocations: float64(after.Mallocs-before.Mallocs) / n,
		Bytes:       float64(after.TotalAlloc-before.TotalAlloc) / n,
	}, err
}
