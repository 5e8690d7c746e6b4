package permissions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// wide is a user without any limits: it prepares what a role finds, and shows
// in the controls what the rights keep from happening.
const wide = "wide"

func password(user string) string { return "of-" + user }

// withPasswords makes a configuration that nats-server takes without an
// environment, and adds the wide user.
func withPasswords(conf string, users ...string) string {
	for _, user := range users {
		conf = strings.Replace(conf, "password: "+Variable(user)+"\n", "password: "+password(user)+"\n", 1)
	}
	return strings.Replace(conf, "users: [\n", fmt.Sprintf("users: [\n    {user: %s, password: %s}\n", wide, password(wide)), 1)
}

// world is a broker with users.
type world struct {
	t      *testing.T
	broker *enginetest.Broker
	log    *serverLog
	lanes  []wire.Lane // of all queues, beside the plain ones
}

// in is the world for another test.
func (w *world) in(t *testing.T) *world {
	t.Helper()
	other := *w
	other.t = t
	return &other
}

// serve starts a broker with a configuration.
func serve(t *testing.T, conf string) *world {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, log: &serverLog{}}
	w.broker = enginetest.Start(t, func(cfg *enginetest.ServerConfig) {
		cfg.ConfigFile, cfg.Logger = file, slog.New(slog.NewTextHandler(w.log, nil))
	})
	return w
}

// serveRoles starts a broker whose users are these roles.
func serveRoles(t *testing.T, roles []Role) *world {
	t.Helper()
	var conf bytes.Buffer
	if err := Write(&conf, roles, ""); err != nil {
		t.Fatal(err)
	}
	users := make([]string, len(roles))
	for i, r := range roles {
		users[i] = r.Name
	}
	return serve(t, withPasswords(conf.String(), users...))
}

// serverLog keeps what the server says of violations.
type serverLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *serverLog) Write(b []byte) (int, error) {
	if line := string(b); strings.Contains(line, "Violation") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, line)
	}
	return len(b), nil
}

func (l *serverLog) violations() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// login connects as a user. What the broker forbids it goes to forbidden.
func (w *world) login(user, inbox string, forbidden func(error)) *nats.Conn {
	w.t.Helper()
	return w.broker.Conn(as(user, inbox, forbidden)...)
}

// loginBy connects as a user by way of a link.
func (w *world) loginBy(link *enginetest.Link, user, inbox string, forbidden func(error)) *nats.Conn {
	w.t.Helper()
	nc, err := nats.Connect(link.URL(), as(user, inbox, forbidden)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

func as(user, inbox string, forbidden func(error)) []nats.Option {
	return []nats.Option{
		nats.UserInfo(user, password(user)), nats.CustomInboxPrefix(inbox), nats.Timeout(10 * time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { forbidden(err) }),
	}
}

// stage is where a role does its work: its own connection, and a client that
// may do anything.
type stage struct {
	ns    wire.Namespace
	nc    *nats.Conn
	admin *engine.Client
	// lanes that the queues declare.
	lanes []wire.Lane
	// linked is another connection of the role's, by way of a link.
	linked func() (*nats.Conn, *enginetest.Link)
	// cleanup has something done when the test has ended.
	cleanup func(func())
}

// stage is one in a namespace of its own. Its context ends with the first thing
// that the broker forbids.
func (w *world) stage(ns wire.Namespace, user, inbox string) (context.Context, stage) {
	w.t.Helper()
	ctx, cancel := context.WithTimeoutCause(w.t.Context(), time.Minute, fmt.Errorf("%s: the role does not get on", user))
	w.t.Cleanup(cancel)
	ctx, forbid := context.WithCancelCause(ctx)
	w.t.Cleanup(func() { forbid(nil) })
	refused := func(err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			forbid(err)
		}
	}
	s := stage{ns: ns, nc: w.login(user, inbox, refused), admin: w.client(ns, w.login(wide, "_INBOX", refused)), lanes: w.lanes, cleanup: w.t.Cleanup}
	context.AfterFunc(ctx, s.nc.Close)
	s.linked = func() (*nats.Conn, *enginetest.Link) {
		link := w.broker.Link()
		nc := w.loginBy(link, user, inbox, refused)
		context.AfterFunc(ctx, nc.Close)
		return nc, link
	}
	return ctx, s
}

func (w *world) client(ns wire.Namespace, nc *nats.Conn) *engine.Client {
	w.t.Helper()
	c, err := engine.NewClient(nc, engine.ClientConfig{Namespace: ns})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// client is the role's. It closes when the test has ended.
func (s stage) client() (*engine.Client, error) {
	c, err := engine.NewClient(s.nc, engine.ClientConfig{Namespace: s.ns})
	if err == nil {
		s.cleanup(c.Close)
	}
	return c, err
}

// topologyOf is queues with a short lease, and with those of the lanes that are
// theirs.
func topologyOf(ns wire.Namespace, lanes []wire.Lane, queues ...string) (topology.Topology, error) {
	cfg := topology.Config{Namespace: ns}
	for _, name := range queues {
		cfg.Queues = append(cfg.Queues, topology.Queue{Name: name, AckWait: 2 * time.Second, Priorities: prioritiesOf(lanes, name)})
	}
	return topology.New(cfg)
}

func prioritiesOf(lanes []wire.Lane, queue string) []wire.Priority {
	var priorities []wire.Priority
	for _, l := range lanes {
		if l.Queue == queue {
			priorities = append(priorities, l.Priority)
		}
	}
	return priorities
}

// priorities are those of all lanes of the default queue, the plain one first.
func (s stage) priorities() []wire.Priority {
	return append([]wire.Priority{wire.PriorityNone}, prioritiesOf(s.lanes, engine.DefaultQueue)...)
}

// prepare makes the default queue.
func (s stage) prepare(ctx context.Context) error {
	topo, err := topologyOf(s.ns, s.lanes, engine.DefaultQueue)
	if err == nil {
		_, err = topology.Apply(ctx, s.admin.JetStream(), topo)
	}
	return err
}

// record writes a record as a worker does.
func (s stage) record(ctx context.Context, r engine.Record) error {
	r.Run, r.Queue, r.Task, r.Attempt = 1, engine.DefaultQueue, "print", 1
	data, err := r.Encode()
	if err == nil {
		_, err = s.admin.JetStream().Publish(ctx, s.ns.RecordSubject(r.Queue, r.ID), data)
	}
	return err
}

// stream is the admin's.
func (s stage) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	return s.admin.JetStream().Stream(ctx, name)
}
