package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// The broker answers what its permissions forbid with an error on the
// connection and the request itself with silence. How soon the connection's
// last error is looked at after a request, and how long the pauses grow.
const (
	refusalFirst = 20 * time.Millisecond
	refusalMost  = time.Second
)

// permitted asks something of the broker. Where the broker says meanwhile that
// this user may not publish or subscribe to a subject that begins with the
// prefix, the context of ask ends and the error is [ErrForbidden], at once and
// not when the request has timed out.
func (c *Client) permitted(ctx context.Context, prefix string, ask func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before := c.nc.LastError()
	watch := time.AfterFunc(refusalFirst, func() {
		for wait := refusalFirst; ; wait = min(2*wait, refusalMost) {
			if last := c.nc.LastError(); last != before { //nolint:errorlint // whether it is the same one, not alike
				if err := forbidden(last, prefix); err != nil {
					cancel(err)
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
	defer watch.Stop()
	err := ask(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrForbidden) {
		return cause
	}
	return err
}

// AskAPI runs what asks the API of JetStream by other means than the client's
// own. Where the broker's permissions forbid any of it the context of ask ends
// and the error is [ErrForbidden], at once and not when the time is up.
func (c *Client) AskAPI(ctx context.Context, ask func(context.Context) error) error {
	return c.permitted(ctx, apiPrefix, ask)
}

// forbidden reads an error of a connection. It is nil unless the error says
// that a subject that begins with the prefix is not permitted.
func forbidden(err error, prefix string) error {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	text := err.Error()
	for _, kind := range []struct{ says, verb string }{{`Publish to "`, "publish"}, {`Subscription to "`, "subscribe"}} {
		_, rest, found := strings.Cut(text, kind.says)
		subject, _, ended := strings.Cut(rest, `"`)
		if found && ended && strings.HasPrefix(subject, prefix) {
			return fmt.Errorf("%w to %s to %s", ErrForbidden, kind.verb, subject)
		}
	}
	return nil
}
