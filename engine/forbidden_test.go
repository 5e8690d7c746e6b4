package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine/enginetest"
)

func TestForbidden(t *testing.T) {
	t.Parallel()
	says := func(text string) error { return fmt.Errorf("%w: %s", nats.ErrPermissionViolation, text) }
	for name, tc := range map[string]struct {
		err    error
		prefix string
		want   string
	}{
		"publish":         {says(`Permissions Violation for Publish to "pelton.task.mail.send"`), "pelton.task.", "not permitted to publish to pelton.task.mail.send"},
		"subscribe":       {says(`Permissions Violation for Subscription to "pelton.done.mail.x"`), "pelton.done.", "not permitted to subscribe to pelton.done.mail.x"},
		"another subject": {says(`Permissions Violation for Publish to "pelton.task.mail.send"`), "$JS.API.", ""},
		"cut off":         {says(`Permissions Violation for Publish to "pelton.task.`), "pelton.task.", ""},
		"other words":     {says("no"), "", ""},
		"another error":   {nats.ErrTimeout, "", ""},
		"none":            {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := forbidden(tc.err, tc.prefix)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("%v, want none", err)
			case tc.want != "" && (err == nil || err.Error() != tc.want || !errors.Is(err, ErrForbidden)):
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// bystander may publish anything but tasks.
const bystander = `authorization: {users: [{user: bystander, password: bystander, permissions: {publish: {deny: "pelton.task.>"}}}]}`

// TestFirstPublishEndsBeforeWatch: what becomes of the first publish of a client
// is seen though watch runs only later.
func TestFirstPublishEndsBeforeWatch(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(bystander), 0o600); err != nil {
		t.Fatal(err)
	}
	b := enginetest.Start(t, func(cfg *enginetest.ServerConfig) { cfg.ConfigFile = file })
	refused := func(w *window) error { return w.nc.Flush() } // the refusal comes before the answer
	gone := func(w *window) error { w.nc.Close(); return nil }
	for name, tc := range map[string]struct {
		ends func(*window) error
		late func(*window) // as if the window began to look only now
		want error
	}{
		"forbidden":                 {refused, func(*window) {}, ErrForbidden},
		"control: forbidden unseen": {refused, func(w *window) { w.seen = w.nc.LastError() }, errNoAnswer},
		"lost":                      {gone, func(*window) {}, errLost},
		"lost, nobody said so":      {gone, func(w *window) { w.nc.RemoveStatusListener(w.lost); w.lost = nil }, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := newWindow(b.Conn(nats.UserInfo("bystander", "bystander"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(w.close)
			a := &awaited{landed: make(chan struct{}, 1)}
			if _, err := w.send(t.Context(), nats.NewMsg("pelton.task.default.print"), a); err != nil {
				t.Fatal(err)
			}
			if err := tc.ends(w); err != nil {
				t.Fatal(err)
			}
			tc.late(w)
			w.group.Go(w.watch)
			select {
			case <-a.landed:
			case <-time.After(4 * publishTimeout):
				t.Fatal("the publish has no end")
			}
			if !errors.Is(a.err, tc.want) {
				t.Errorf("%v, want %v", a.err, tc.want)
			}
		})
	}
}
