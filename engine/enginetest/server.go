// Package enginetest is the test kit of Pelton, for its own tests and for those
// of its users: a real broker in the process, on a free port of the loopback,
// with its files in a folder of the test.
//
// It stands beside the path, not on it. [Start] is for tests; [NewServer] is
// the same broker for a program that carries one within it.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ErrPortTaken is returned by [NewServer] where something else listens on the
// port asked for.
var ErrPortTaken = errors.New("port is taken")

// ServerConfig says how a broker in the process is started.
type ServerConfig struct {
	// StoreDir is the folder of the JetStream files. Required.
	StoreDir string
	// Host to listen on; 127.0.0.1 unless set.
	Host string
	// Port to listen on; 0 takes a free one.
	Port int
	// SyncInterval is how often written messages are forced to disk; 0 leaves
	// the server's default of two minutes.
	SyncInterval time.Duration
	// SyncAlways forces every message to disk before it is acknowledged.
	SyncAlways bool
	// Node makes it one of a cluster.
	Node *Node
	// MaxStore bounds the disk space of JetStream in bytes; 0 leaves it to the
	// server.
	MaxStore int64
	// ConfigFile is a configuration of nats-server to start with: its users and
	// permissions, say. What stands above goes before what it says.
	ConfigFile string
	// Logger gets what the server logs; nothing is logged unless set.
	Logger *slog.Logger
	// Monitor opens the server's HTTP port, a free one, see MonitorURL.
	Monitor bool
}

// Node is what makes a broker one of several. Each has a name of its own; the
// names and ports of all are known before any starts.
type Node struct {
	Name   string   // of the node
	Port   int      // for the other nodes
	Routes []string // nats://host:port of every node's Port
}

// Server is a broker in the process.
type Server struct {
	ns  *server.Server
	cfg ServerConfig // with the port in use
}

// NewServer starts a broker and waits until it takes connections. Errors name
// the folder or the port.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.StoreDir == "" {
		return nil, errors.New("store folder: must be set")
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Port != 0 {
		if err := checkPort(cfg.Host, cfg.Port); err != nil {
			return nil, err
		}
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, fmt.Errorf("embedded nats-server: %w", err)
	}
	if c := cfg.Node; c != nil {
		opts.ServerName = c.Name
		opts.Cluster = server.ClusterOpts{Name: "pelton", Host: cfg.Host, Port: c.Port}
		for _, route := range c.Routes {
			u, err := url.Parse(route)
			if err != nil {
				return nil, fmt.Errorf("route: %w", err)
			}
			opts.Routes = append(opts.Routes, u)
		}
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded nats-server: %w", err)
	}
	if cfg.Logger != nil {
		ns.SetLoggerV2(serverLog{cfg.Logger}, false, false, false)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded nats-server: not ready on %s, store %s", net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)), cfg.StoreDir)
	}
	if !ns.JetStreamEnabled() {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, fmt.Errorf("embedded nats-server: store %s: JetStream did not start", cfg.StoreDir)
	}
	cfg.Port = ns.Addr().(*net.TCPAddr).Port
	return &Server{ns: ns, cfg: cfg}, nil
}

// options are those of the server: the configuration file's, then our own.
func (cfg ServerConfig) options() (*server.Options, error) {
	opts := &server.Options{}
	if cfg.ConfigFile != "" {
		var err error
		if opts, err = server.ProcessConfigFile(cfg.ConfigFile); err != nil {
			return nil, err
		}
	}
	opts.ServerName = "pelton-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	opts.Host, opts.Port = cfg.Host, cfg.Port
	if cfg.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if cfg.Monitor {
		opts.HTTPHost, opts.HTTPPort = cfg.Host, server.RANDOM_PORT
	}
	opts.JetStream, opts.StoreDir = true, cfg.StoreDir
	if cfg.MaxStore != 0 {
		opts.JetStreamMaxStore = cfg.MaxStore
	}
	if cfg.SyncInterval != 0 {
		opts.SyncInterval = cfg.SyncInterval
	}
	opts.SyncAlways = opts.SyncAlways || cfg.SyncAlways
	opts.NoSigs, opts.NoLog = true, cfg.Logger == nil
	return opts, nil
}

// serverLog hands the server's lines to a logger.
type serverLog struct{ log *slog.Logger }

func (l serverLog) line(level slog.Level, format string, v []any) {
	l.log.Log(context.Background(), level, "nats-server", "line", fmt.Sprintf(format, v...)) //nolint:forbidigo // the server has no context to log with
}

func (l serverLog) Noticef(format string, v ...any) { l.line(slog.LevelInfo, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.line(slog.LevelWarn, format, v) }
func (l serverLog) Fatalf(format string, v ...any)  { l.line(slog.LevelError, format, v) }
func (l serverLog) Errorf(format string, v ...any)  { l.line(slog.LevelError, format, v) }
func (l serverLog) Debugf(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }
func (l serverLog) Tracef(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }

func checkPort(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))) //nolint:noctx // closed at once
	if err != nil {
		return fmt.Errorf("%s:%d: %w: %w", host, port, ErrPortTaken, err)
	}
	return l.Close()
}

// URL is the broker's address, nats://127.0.0.1:4222.
func (s *Server) URL() string { return s.ns.ClientURL() }

// MonitorURL is the server's HTTP port, http://127.0.0.1:8222, where Monitor was
// set.
func (s *Server) MonitorURL() string { return "http://" + s.ns.MonitorAddr().String() }

// InProcess is the option that connects without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.ns) }

// Stop ends the broker and waits for it. The files stay.
func (s *Server) Stop() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

// Restart ends the broker, if it still runs, and starts it again on the same
// port and files.
func (s *Server) Restart() error {
	s.Stop()
	again, err := NewServer(s.cfg)
	if err != nil {
		return err
	}
	s.ns = again.ns
	return nil
}
