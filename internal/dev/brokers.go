package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/edges/emit"
	"pelton/engine"
	"pelton/engine/enginetest"
)

// The ports on which both brokers are found unless they are taken.
const (
	defaultNATSPort  = 4222
	defaultKafkaPort = 9092
)

// syncInterval is how often the embedded nats-server forces its files to disk.
const syncInterval = time.Second

// brokers are the two brokers of the process.
type brokers struct {
	server  *enginetest.Server
	cluster *kfake.Cluster
	kafka   []string
	store   string
	kept    bool
	lock    *os.File // of a store that is kept
	taken   []string // default ports that were taken, in words
	log     *slog.Logger
}

// startBrokers starts both on the loopback. The folder is made if it is not
// there; a temporary one goes with stop.
func startBrokers(cfg Config) (*brokers, error) {
	b := &brokers{store: cfg.StoreDir, kept: cfg.StoreDir != "", log: cfg.Logger("dev")}
	if err := b.openStore(); err != nil {
		return nil, err
	}
	if err := b.startNATS(cfg.NATSPort, cfg.defaults[0]); err != nil {
		b.stop()
		return nil, err
	}
	if err := b.startKafka(cfg.KafkaPort, cfg.defaults[1]); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// openStore makes the folder and shows that it can be written.
func (b *brokers) openStore() error {
	if !b.kept {
		dir, err := os.MkdirTemp("", "pelton-dev-")
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		b.store = dir
		return nil
	}
	for _, dir := range []string{"nats", "kafka"} {
		if err := os.MkdirAll(filepath.Join(b.store, dir), 0o750); err != nil {
			return fmt.Errorf("--store %s: must be a folder that can be written: %w", b.store, err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(b.store, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("--store %s: must be a folder that can be written: %w", b.store, err)
	}
	// Two brokers on the same files would ruin them. The lock goes with the
	// process, however it ends.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("--store %s: must not be in use by another pelton dev: %w", b.store, err), lock.Close())
	}
	b.lock = lock
	return nil
}

func (b *brokers) startNATS(port, otherwise int) error {
	cfg := enginetest.ServerConfig{StoreDir: filepath.Join(b.store, "nats"), Port: port, SyncInterval: syncInterval}
	if port == 0 {
		cfg.Port = otherwise
	}
	server, err := enginetest.NewServer(cfg)
	if errors.Is(err, enginetest.ErrPortTaken) && port == 0 {
		b.taken = append(b.taken, fmt.Sprintf("port %d is taken: nats has another", otherwise))
		cfg.Port = 0
		server, err = enginetest.NewServer(cfg)
	}
	if err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	b.server = server
	return nil
}

func (b *brokers) startKafka(port, otherwise int) error {
	wanted := port
	if port == 0 {
		wanted = otherwise
	}
	if taken := portTaken(wanted); taken != nil {
		if port != 0 {
			return fmt.Errorf("kafka: 127.0.0.1:%d: %w: %w", port, enginetest.ErrPortTaken, taken)
		}
		b.taken = append(b.taken, fmt.Sprintf("port %d is taken: kafka has another", otherwise))
		wanted = 0
	}
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(wanted), kfake.DefaultNumPartitions(partitions)}
	if b.kept {
		opts = append(opts, kfake.DataDir(filepath.Join(b.store, "kafka")), kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	b.cluster, b.kafka = cluster, cluster.ListenAddrs()
	return nil
}

func portTaken(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // closed at once
	if err != nil {
		return err
	}
	return l.Close()
}

// connect makes a connection within the process.
func (b *brokers) connect(logger *slog.Logger) (*nats.Conn, error) {
	nc, err := nats.Connect("", append(engine.ConnectOptions(logger), b.server.InProcess())...)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	return nc, nil
}

// ensureTopics makes the topics that are not there.
func (b *brokers) ensureTopics(ctx context.Context) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka...))
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	made, err := kadm.NewClient(cl).CreateTopics(ctx, partitions, 1, nil, commandsTopic, resultsTopic)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	for _, topic := range made.Sorted() {
		if topic.Err != nil && !errors.Is(topic.Err, errTopicExists) {
			return fmt.Errorf("kafka topic %s: %w", topic.Topic, topic.Err)
		}
	}
	_, err = emit.EnsureLedger(ctx, emitConfig(b.kafka, func(string) *slog.Logger { return b.log }))
	return err
}

// exports are the lines that point other programs here.
func (b *brokers) exports() string {
	return fmt.Sprintf("export NATS_URL=%s\nexport KAFKA_BOOTSTRAP_SERVERS=%s\n", b.server.URL(), b.kafka[0])
}

// stop ends both, and removes what is temporary.
func (b *brokers) stop() {
	if b.cluster != nil {
		b.cluster.Close()
	}
	if b.server != nil {
		b.server.Stop()
	}
	if b.lock != nil {
		_ = b.lock.Close()
	}
	if !b.kept {
		if err := os.RemoveAll(b.store); err != nil {
			b.log.Warn("temporary files are left", "folder", b.store, "err", err)
		}
	}
}
