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
	return c.unless(ctx, func(err error) error { return forbidden(err, prefix) }, ask)
}

// permittedAt is permitted for one subject alone: who may not send a task with
// an id may be free to send it without one.
func (c *Client) permittedAt(ctx context.Context, subject string, ask func(context.Context) error) error {
	return c.unless(ctx, func(err error) error { return forbiddenAt(err, subject) }, ask)
}

// unless asks until refusal makes an error of the connection's last one.
func (c *Client) unless(ctx context.Context, refusal func(error) error, ask func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before := c.nc.LastError()
	watch := time.AfterFunc(refusalFirst, func() {
		for wait := refusalFirst; ; wait = min(2*wait, refusalMost) {
			if last := c.nc.LastError(); last != before { //nolint:errorlint // whether it is the same one, not alike
				if err := refusal(last); err != nil {
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
	verb, subject := violation(err)
	if verb == "" || !strings.HasPrefix(subject, prefix) {
		return nil
	}
	return fmt.Errorf("%w to %s to %s", ErrForbidden, verb, subject)
}

// forbiddenAt is forbidden for one subject alone.
func forbiddenAt(err error, subject string) error {
	if _, at := violation(err); at != subject {
		return nil
	}
	return forbidden(err, subject)
}

// violation is what an error of a connection says is not permitted: to publish
// or to subscribe, and the subject. Both are empty for any other error.
func violation(err error) (verb, subject string) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", ""
	}
	text := err.Error()
	for _, kind := range []struct{ says, verb string }{{`Publish to "`, "publish"}, {`Subscription to "`, "subscribe"}} {
		_, rest, found := strings.Cut(text, kind.says)
		subject, _, ended := strings.Cut(rest, `"`)
		if found && ended {
			return kind.verb, subject
		}
	}
	return "", ""
}
