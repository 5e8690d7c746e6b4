package permissions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/wire"
)

func rolesIn(t *testing.T, ns wire.Namespace, lanes ...wire.Lane) []Role {
	t.Helper()
	roles, err := Roles(Config{Namespace: ns, Lanes: lanes})
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

// oneLane is that the queue declares one of its two lanes, so that there are
// rights of both kinds.
var oneLane = []wire.Lane{{Queue: queue, Priority: wire.PriorityHigh}}

// TestRolesWork has each role do its work with its rights.
func TestRolesWork(t *testing.T) {
	t.Run("plain lane", func(t *testing.T) { rolesWork(t) })
	t.Run("one lane more", func(t *testing.T) { rolesWork(t, oneLane...) })
}

func rolesWork(t *testing.T, lanes ...wire.Lane) {
	t.Helper()
	roles := rolesIn(t, "", lanes...)
	for _, r := range roles {
		if work[r.Name] == nil {
			t.Fatalf("role %s has no work", r.Name)
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			w := serveRoles(t, roles)
			w.lanes = lanes
			ctx, s := w.stage(wire.DefaultNamespace, r.Name, r.Inbox())
			if err := done(ctx, work[r.Name](ctx, s)); err != nil {
				t.Error(err)
			}
			if seen := w.log.violations(); len(seen) > 0 {
				t.Errorf("the server saw %q", seen)
			}
		})
	}
}

// done tells what came of a role's work. What the broker forbids may come after
// the last answer, but before that to one more request.
func done(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(cause, err)
	}
	return err
}

// refused reports whether the broker has forbidden something. The client may read
// that before the connection's handler tells of it.
func refused(err error) bool {
	return errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, engine.ErrForbidden)
}

// TestNoRightTooMany takes away the rights one by one. Without any one of them
// the role cannot do its work, or something of it is forbidden.
func TestNoRightTooMany(t *testing.T) {
	type cut struct {
		ns     wire.Namespace
		role   string // whose work it is
		inbox  string
		user   Role // with one right less
		lacked string
	}
	var cuts []cut
	for i, r := range rolesIn(t, "", oneLane...) {
		for j := range len(r.Publish) + len(r.Subscribe) {
			ns := wire.Namespace(fmt.Sprintf("n%dx%d", i, j))
			user := rolesIn(t, ns, oneLane...)[i]
			c := cut{ns: ns, role: r.Name, inbox: r.Inbox()}
			if n := len(user.Publish); j < n {
				c.lacked = "publish " + user.Publish[j].Subject
				user.Publish = slices.Delete(user.Publish, j, j+1)
			} else {
				c.lacked = "subscribe " + user.Subscribe[j-n].Subject
				user.Subscribe = slices.Delete(user.Subscribe, j-n, j-n+1)
			}
			user.Name = strings.ToUpper(string(ns))
			c.user = user
			cuts = append(cuts, c)
		}
	}
	users := make([]Role, len(cuts))
	for i := range cuts {
		users[i] = cuts[i].user
		// An empty list would allow everything.
		if len(users[i].Publish) == 0 {
			users[i].Publish = []Right{{"nothing", "an empty list allows all"}}
		}
		if len(users[i].Subscribe) == 0 {
			users[i].Subscribe = []Right{{"nothing", "an empty list allows all"}}
		}
	}
	w := serveRoles(t, users)
	w.lanes = oneLane
	for _, c := range cuts {
		t.Run(c.role+" without "+c.lacked, func(t *testing.T) {
			t.Parallel()
			w := w.in(t)
			ctx, s := w.stage(c.ns, c.user.Name, c.inbox)
			err := done(ctx, work[c.role](ctx, s))
			if err == nil {
				// What was not waited for was forbidden at the latest now.
				_ = s.nc.FlushWithContext(ctx)
				err = done(ctx, s.nc.LastError())
			}
			if !refused(err) {
				t.Errorf("nothing was forbidden: %v", err)
			}
		})
	}
}
