// Package dev is the whole system in one process: both brokers, the producer,
// the edges, a beat and a worker, on files of its own and on the loopback alone.
//
// It holds every station of the path, in order, and nothing that the path does
// not have: the parts are those that run as processes elsewhere, and they speak
// to real servers. What it adds is a view, one line for each step of each
// message, and an account at the end, counted from the topics and streams
// themselves.
package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/pulse"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/builtin"
	"pelton/schedules"
)

// The topics and the queue of the system.
const (
	commandsTopic = "commands"
	resultsTopic  = "results"
	queue         = engine.DefaultQueue
	partitions    = 4
)

// Config says how the system is run. The zero value works.
type Config struct {
	// StoreDir keeps the brokers' files; unless set they are temporary.
	StoreDir string
	// NATSPort and KafkaPort; unless set 4222 and 9092, or another free one
	// where those are taken. A port that is set must be free.
	NATSPort, KafkaPort int
	// Interval between two messages of the producer; a second unless set.
	Interval time.Duration
	// For ends the run by itself; 0 runs until the context is done.
	For time.Duration
	// Assert makes Run fail with ErrAssert unless every message produced in
	// this run was ingested, finished and emitted exactly once.
	Assert bool
	// Quiet leaves out the lines of the steps.
	Quiet bool
	// BrokersOnly starts the brokers and nothing else.
	BrokersOnly bool
	// Stdout gets the view. Terminal says that it is one, of which the last
	// line may be written anew.
	Stdout   io.Writer
	Terminal bool
	// Logger is the logger of a component; nothing is logged unless set.
	Logger func(component string) *slog.Logger
	// Watch is told of each part that runs, and how to ask for its health.
	Watch func(name string, check func() pulse.Health)

	defaults [2]int        // ports in place of 4222 and 9092, of the tests alone
	tick     time.Duration // in place of beatEvery, likewise
}

// ErrCannotStart is what Run ends with where a folder or a port that was asked
// for cannot be had; the message names it.
var ErrCannotStart = errors.New("cannot start")

// ErrAssert is what a run with Assert ends with when the account does not add
// up.
var ErrAssert = errors.New("the account does not add up")

// drainQuiet is how long a run with an end waits for messages that make no
// progress.
const drainQuiet = 20 * time.Second

// Run runs the system until ctx is done or For has passed, then stops it in the
// order of the path, so that what was taken in comes out.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	}
	if cfg.Stdout == nil {
		cfg.Stdout = io.Discard
	}
	if cfg.defaults == [2]int{} {
		cfg.defaults = [2]int{defaultNATSPort, defaultKafkaPort}
	}
	if cfg.tick == 0 {
		cfg.tick = beatEvery
	}
	if cfg.Watch == nil {
		cfg.Watch = func(string, func() pulse.Health) {}
	}
	b, err := startBrokers(cfg)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotStart, err)
	}
	defer b.stop()
	if cfg.BrokersOnly {
		for _, taken := range b.taken {
			cfg.Logger("dev").Warn("a default port is not free", "note", taken)
		}
		if err := b.ensureTopics(ctx); err != nil {
			return err
		}
		_, err := fmt.Fprint(cfg.Stdout, b.exports())
		if err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		cfg.Watch("brokers", func() pulse.Health { return pulse.Health{} })
		<-ctx.Done()
		return nil
	}
	s := &system{cfg: cfg, brokers: b, view: newView(cfg.Stdout, cfg.Terminal, cfg.Quiet), failed: make(chan error, 8)}
	return s.run(ctx)
}

// system is the parts between the brokers.
type system struct {
	cfg     Config
	brokers *brokers
	view    *view
	failed  chan error
}

func (s *system) run(ctx context.Context) error {
	if err := s.setup(ctx); err != nil {
		return err
	}
	opening, err := openAccount(ctx, s.brokers.kafka)
	if err != nil {
		return err
	}
	s.view.banner(s.brokers)
	emitter, err := s.emit()
	if err != nil {
		return err
	}
	defer emitter.stop()
	worker, err := s.worker()
	if err != nil {
		return err
	}
	defer worker.stop()
	ingester, err := s.ingest()
	if err != nil {
		return err
	}
	defer ingester.stop()
	producer, err := s.produce()
	if err != nil {
		return err
	}
	defer producer.stop()
	beat, err := s.beat()
	if err != nil {
		return err
	}
	defer beat.stop()
	stopStatus := s.view.status(time.Second)
	defer stopStatus()
	if err := s.wait(ctx); err != nil {
		return err
	}
	producer.stop()
	beat.stop()
	if s.cfg.For > 0 || s.cfg.Assert {
		s.view.settle(context.WithoutCancel(ctx), drainQuiet)
	}
	ingester.stop()
	worker.stop()
	emitter.stop()
	stopStatus()
	return s.close(context.WithoutCancel(ctx), opening)
}

// wait ends with the time, the context or the first part that fails.
func (s *system) wait(ctx context.Context) error {
	var over <-chan time.Time
	if s.cfg.For > 0 {
		timer := time.NewTimer(s.cfg.For)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case err := <-s.failed:
		return err
	case err := <-s.view.broken:
		return err
	case <-over:
	case <-ctx.Done():
	}
	return nil
}

// close counts, and says what came of it.
func (s *system) close(ctx context.Context, opening account) error {
	select {
	case err := <-s.failed:
		return err
	default:
	}
	if !s.cfg.Assert {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nc, err := s.brokers.connect(s.cfg.Logger("nats"))
	if err != nil {
		return err
	}
	defer nc.Close()
	total, err := opening.count(ctx, s.brokers.kafka, nc)
	if err != nil {
		return err
	}
	if err := s.view.total(total); err != nil {
		return err
	}
	if !total.even() {
		return fmt.Errorf("%w: %s", ErrAssert, total)
	}
	return nil
}

func (s *system) setup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nc, err := s.brokers.connect(s.cfg.Logger("nats"))
	if err != nil {
		return err
	}
	defer nc.Close()
	c, err := engine.NewClient(nc)
	if err != nil {
		return err
	}
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: queue}}})
	if err != nil {
		return err
	}
	if _, err := topology.Apply(ctx, c.JetStream(), topo); err != nil {
		return err
	}
	return s.brokers.ensureTopics(ctx)
}

// part is a role that runs beside the others.
type part struct {
	cancel context.CancelFunc
	done   chan struct{}
	nc     *nats.Conn
}

// start runs a role under its own context, so that the parts can be stopped one
// after the other.
func (s *system) start(name string, nc *nats.Conn, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // each part has a life of its own, ended by stop
	p := &part{cancel: cancel, done: make(chan struct{}), nc: nc}
	go func() {
		defer close(p.done)
		if err := run(ctx); err != nil {
			s.failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
	return p
}

// stop ends the part and waits for it. It may be called again.
func (p *part) stop() {
	p.cancel()
	<-p.done
	if p.nc != nil {
		p.nc.Close()
	}
}

// client is one of a part's own, with its connection.
func (s *system) client() (*nats.Conn, *engine.Client, error) {
	nc, err := s.brokers.connect(s.cfg.Logger("nats"))
	if err != nil {
		return nil, nil, err
	}
	c, err := engine.NewClient(nc, engine.ClientConfig{Logger: s.cfg.Logger("engine")})
	return nc, c, err
}

func (s *system) worker() (*part, error) {
	nc, c, err := s.client()
	if err != nil {
		return nil, err
	}
	w := engine.NewWorker(c, engine.WorkerConfig{
		Queues: []engine.Queue{{Name: queue, Slots: 8}},
		Setup:  engine.SetupManage,
		Grace:  5 * time.Second,
		Logger: s.cfg.Logger("worker"),
		OnRecord: func(r *engine.Record) {
			if r.State != wire.StateStarted {
				s.view.record(r)
			}
		},
	})
	builtin.Register(w, s.view.printer())
	s.cfg.Watch("worker", w.Health)
	return s.start("worker", nc, w.Run), nil
}

func (s *system) ingest() (*part, error) {
	nc, err := s.brokers.connect(s.cfg.Logger("nats"))
	if err != nil {
		return nil, err
	}
	cfg := ingest.Config{
		NATS:    nc,
		Route:   ingest.Route{Topic: commandsTopic, Queue: queue, Task: "print"},
		Logger:  s.cfg.Logger("ingest"),
		OnBatch: s.view.ingested,
	}
	cfg.Kafka.Brokers, cfg.Kafka.Logger = s.brokers.kafka, s.cfg.Logger("kafka")
	in, err := ingest.New(cfg)
	if err != nil {
		return nil, err
	}
	s.cfg.Watch("ingest", in.Health)
	return s.start("ingest", nc, in.Run), nil
}

func (s *system) emit() (*part, error) {
	nc, err := s.brokers.connect(s.cfg.Logger("nats"))
	if err != nil {
		return nil, err
	}
	cfg := s.emitConfig()
	cfg.NATS, cfg.OnEmit = nc, s.view.emitted
	out, err := emit.New(cfg)
	if err != nil {
		return nil, err
	}
	s.cfg.Watch("emit", out.Health)
	return s.start("emit", nc, out.Run), nil
}

func (s *system) emitConfig() emit.Config {
	return emitConfig(s.brokers.kafka, s.cfg.Logger)
}

func emitConfig(kafka []string, logger func(component string) *slog.Logger) emit.Config {
	cfg := emit.Config{Queues: []string{queue}, Topic: resultsTopic, Logger: logger("emit")}
	cfg.Kafka.Brokers, cfg.Kafka.Logger = kafka, logger("kafka")
	return cfg
}

func (s *system) produce() (*part, error) {
	p, err := produce.New(produce.Config{
		Kafka:      produce.Kafka{Brokers: s.brokers.kafka, Logger: s.cfg.Logger("kafka")},
		Topic:      commandsTopic,
		Interval:   s.cfg.Interval,
		OnDelivery: s.view.produced,
		Logger:     s.cfg.Logger("produce"),
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Watch("produce", p.Health)
	return s.start("produce", nil, p.Run), nil
}

// beatEvery is how often the one entry is due that comes with the system.
const beatEvery = 5 * time.Second

// beat runs that entry, and those that somebody adds to the bucket.
func (s *system) beat() (*part, error) {
	nc, c, err := s.client()
	if err != nil {
		return nil, err
	}
	b, err := schedules.NewBeat(c, schedules.Config{
		Entries: schedules.List(schedules.Entry{
			Name: "tick", Every: s.cfg.tick, Task: "print", Queue: queue, Body: json.RawMessage(`{"message":"tick"}`),
		}),
		Place:        func(string) string { return "pelton dev" },
		OnOccurrence: s.view.occurred,
		Logger:       s.cfg.Logger("beat"),
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Watch("beat", b.Health)
	return s.start("beat", nc, b.Run), nil
}
