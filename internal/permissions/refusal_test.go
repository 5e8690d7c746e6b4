package permissions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// soon is below the 5 s after which a request counts as unanswered.
const soon = 4500 * time.Millisecond

// TestSaidAtOnce: what is forbidden is told with its subject, and neither waited
// for nor tried again.
func TestSaidAtOnce(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	prepared, admin := w.stage(wire.DefaultNamespace, wide, "_INBOX")
	if err := admin.scene(prepared); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.admin.JetStream().Publish(prepared, "pelton.dead.default.print.job-9", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		role, subject string
		ask           func(ctx context.Context, c *engine.Client) error
	}{
		"send": {"waiter", "pelton.task.default.print", func(ctx context.Context, c *engine.Client) error {
			_, err := c.SendRaw(ctx, queue, "print", []byte(`1`))
			return err
		}},
		"send with an id": {"waiter", "pelton.task.default.print.job-1", func(ctx context.Context, c *engine.Client) error {
			_, err := c.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithID("job-1"))
			return err
		}},
		"send elsewhere": {"publisher", "pelton.task.mail.print", func(ctx context.Context, c *engine.Client) error {
			_, err := c.SendRaw(ctx, "mail", "print", []byte(`1`))
			return err
		}},
		"send without waiting": {"waiter", "pelton.task.default.print", func(ctx context.Context, c *engine.Client) error {
			future, err := c.SendRawAsync(ctx, queue, "print", []byte(`1`))
			if err == nil {
				_, err = future.Result(ctx)
			}
			return err
		}},
		"a few":               {"waiter", "pelton.task.default.print", many(20)},
		"many":                {"waiter", "pelton.task.default.print", many(5000)},
		"many with their ids": {"waiter", "pelton.task.default.print", many(5000, engine.WithAllIDs())},
		"all or none":         {"waiter", "pelton.task.default.print", many(200, engine.WithAtomic())},
		"later": {"publisher", "$JS.API.DIRECT.GET." + resultsOf, func(ctx context.Context, c *engine.Client) error {
			_, err := c.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithID("job-1"), engine.WithCountdown(time.Hour))
			return err
		}},
		"one of many for later": {"publisher", "pelton.later.default.", func(ctx context.Context, c *engine.Client) error {
			_, err := c.SendRaw(ctx, queue, "print", []byte(`1`), engine.WithCountdown(time.Hour))
			return err
		}},
		"many for later": {"publisher", "pelton.later.default.", many(200, engine.WithCountdown(time.Hour))},
		"another lane":   {"publisher", "pelton.task.default_high.print", many(5000, engine.WithPriority(wire.PriorityHigh))},
		"cancel": {"publisher", "$JS.API.", func(ctx context.Context, c *engine.Client) error {
			_, err := c.Cancel(ctx, queue, "job-404")
			return err
		}},
		"an unknown id": {"waiter", "$JS.API.STREAM.MSG.GET." + tasksOf, func(ctx context.Context, c *engine.Client) error {
			_, err := c.Lookup(ctx, queue, "job-404")
			return err
		}},
		"a record": {"publisher", "$JS.API.DIRECT.GET." + resultsOf, func(ctx context.Context, c *engine.Client) error {
			_, err := c.Record(ctx, queue, "job-404")
			return err
		}},
		"a wait": {"publisher", "$JS.API.DIRECT.GET." + resultsOf, func(ctx context.Context, c *engine.Client) error {
			_, err := c.Wait(ctx, queue, "job-404")
			return err
		}},
		"a queue's state": {"observer", "$JS.API.DIRECT.GET.", func(ctx context.Context, c *engine.Client) error {
			_, err := c.QueueStatus(ctx, queue)
			return err
		}},
		"the queues": {"publisher", "$JS.API.STREAM.NAMES", func(ctx context.Context, c *engine.Client) error {
			_, err := c.Queues(ctx)
			return err
		}},
		"dead letters": {"observer", "$JS.API.CONSUMER.CREATE.PELTON_DEAD", func(ctx context.Context, c *engine.Client) error {
			_, err := c.DeadLetters(ctx, queue, 0)
			return err
		}},
		"a worker": {"publisher", "$JS.API.STREAM.INFO.PELTON_DEAD", func(ctx context.Context, c *engine.Client) error {
			return engine.NewWorker(c, engine.WorkerConfig{}).Run(ctx)
		}},
		"a worker that does not look": {"publisher", "$JS.API.CONSUMER.INFO." + tasksOf, func(ctx context.Context, c *engine.Client) error {
			return engine.NewWorker(c, engine.WorkerConfig{Setup: engine.SetupOff}).Run(ctx)
		}},
		"to mend streams": {"worker", "$JS.API.STREAM.UPDATE.", func(ctx context.Context, c *engine.Client) error {
			topo, err := topologyOf(wire.DefaultNamespace, nil, queue)
			if err == nil {
				topo = topo.Only(func(s topology.Stream) bool { return s.Kind == topology.Results })
				topo.Streams[0].Config.MaxMsgsPerSubject = 2 // as if the broker had another
				err = c.Ensure(ctx, engine.SetupManage, topo)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			w := w.in(t)
			c := w.client(wire.DefaultNamespace, w.login(tc.role, "_INBOX_"+tc.role, func(error) {}))
			began := time.Now()
			err := tc.ask(ctx, c)
			if !errors.Is(err, engine.ErrForbidden) || !strings.Contains(fmt.Sprint(err), tc.subject) {
				t.Errorf("%v, want that %s is not permitted", err, tc.subject)
			}
			if took := time.Since(began); took > soon {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// many sends tasks at once.
func many(n int, with ...engine.SendOption) func(context.Context, *engine.Client) error {
	return func(ctx context.Context, c *engine.Client) error {
		_, err := c.SendManyRaw(ctx, queue, "print", bodies(n), with...)
		return err
	}
}

// TestSilence is the control: who only waits for the answer to what is forbidden
// waits in vain.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	nc := w.login("waiter", "_INBOX_waiter", func(error) {})
	if _, err := nc.Request("pelton.task.default.print", []byte(`1`), 500*time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("%v, want no answer", err)
	}
}

// TestWaitWithoutLook: who may read records only waits for a task of which there
// is no record yet.
func TestWaitWithoutLook(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	ctx, admin := w.stage(wire.DefaultNamespace, wide, "_INBOX")
	if err := admin.scene(ctx); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 8)
	c := w.client(wire.DefaultNamespace, w.login("waiter", "_INBOX_waiter", func(err error) { refused <- err }))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx, queue, "default-1")
		ended <- err
	}()
	if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) { // it has looked
		t.Fatal(err)
	}
	if err := admin.record(ctx, engine.Record{ID: "default-1", State: wire.StateSucceeded, FinishedAt: time.Now().UTC()}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(ctx, queue, "default-1"); err != nil {
		t.Error(err)
	}
	select {
	case err := <-refused:
		t.Errorf("it asked again: %v", err)
	default:
	}
}

// TestNotStopped shows what no right stops, as the manual says.
func TestNotStopped(t *testing.T) {
	t.Parallel()
	w := serveRoles(t, rolesIn(t, ""))
	ctx, s := w.stage(wire.DefaultNamespace, "publisher", "_INBOX_publisher")
	if err := s.scene(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("the confirmation lands in another queue", func(t *testing.T) {
		landed, err := s.admin.Conn().SubscribeSync("pelton.task.mail.print")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.admin.Conn().FlushWithContext(ctx); err != nil { // the other connection publishes
			t.Fatal(err)
		}
		if err := s.nc.PublishMsg(&nats.Msg{Subject: "pelton.task.default.print", Reply: "pelton.task.mail.print", Data: []byte(`1`)}); err != nil {
			t.Fatal(err)
		}
		m, err := landed.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(m.Data), `"stream":"`+tasksOf+`"`) {
			t.Errorf("body %s: not of the sender's choice", m.Data)
		}
	})
	t.Run("a trusted user aims at another task", func(t *testing.T) {
		ctx, s := w.stage(wire.DefaultNamespace, "trusted", "_INBOX_trusted")
		if _, err := publishAs(ctx, s.nc, scheduled(s.ns, "job-1", "victim")); err != nil {
			t.Fatal(err)
		}
		c := w.client(wire.DefaultNamespace, w.login("worker", "_INBOX_worker", func(error) {}))
		buried := make(chan *engine.Record, 8)
		worker := engine.NewWorker(c, engine.WorkerConfig{Hooks: engine.Hooks{Recorded: func(r *engine.Record) {
			if r.State == wire.StateFailed {
				buried <- r
			}
		}}})
		handlers(worker)
		err := start(ctx, worker.Run).during(ctx, func(ctx context.Context) error {
			select {
			case r := <-buried:
				if r.ID == "victim" || r.Error.Type != wire.FailureBadInput {
					return fmt.Errorf("record %+v", r)
				}
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}
