package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
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
