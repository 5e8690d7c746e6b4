package kafka

import (
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// goneAfter is how many connections in a row must fail, with no answer from any
// broker in between, until the brokers count as gone. One failure is no proof:
// it may be the one broker of several that restarts.
const goneAfter = 3

// watch says once that the brokers are gone and once that they are back. It is
// a hook of one client.
//
// Before the first connection it is silent, for then whoever opened the client
// reports: [Ping] by its error, [WaitReady] by its warning.
type watch struct {
	logger *slog.Logger

	failures atomic.Int32 // connections in a row; read without the lock

	mu        sync.Mutex
	connected bool // at least once
	gone      bool
}

var (
	_ kgo.HookBrokerConnect = (*watch)(nil)
	_ kgo.HookBrokerRead    = (*watch)(nil)
)

// OnBrokerConnect follows every attempt to connect.
func (w *watch) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	switch {
	case err == nil:
		w.alive(meta)
	case Classify(err) != Stopped:
		w.failed(meta, err)
	}
}

// OnBrokerRead follows every answer.
func (w *watch) OnBrokerRead(meta kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err == nil && w.failures.Load() > 0 {
		w.alive(meta)
	}
}

func (w *watch) alive(meta kgo.BrokerMetadata) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		w.logger.Info("kafka reachable again", slog.String("broker", address(meta)))
	}
	w.failures.Store(0)
	w.connected, w.gone = true, false
}

func (w *watch) failed(meta kgo.BrokerMetadata, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures.Add(1) < goneAfter || w.gone || !w.connected {
		return
	}
	w.gone = true
	w.logger.Warn("kafka unreachable", slog.String("broker", address(meta)), slog.Any("err", err))
}

// away reports whether the brokers are known to be gone.
func (w *watch) away() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone
}

func address(meta kgo.BrokerMetadata) string {
	return net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
}

// Away reports whether the brokers of a client that [New] made are known to be
// gone: several connections in a row have failed. It asks nobody.
func Away(cl *kgo.Client) bool {
	log, ok := cl.OptValue(kgo.WithLogger).(*clientLog)
	return ok && log.watch.away()
}
