package topology

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// What [Verify] finds, for errors.Is; a [*DriftError] may be both.
var (
	ErrDrift   = errors.New("broker differs from the contract")
	ErrMissing = errors.New("stream or consumer is missing")
)

// DriftError names every stream and consumer that is missing or differs, each
// field with its value and the one it must have, and the command that mends it.
type DriftError struct {
	Changes []Change
}

// mostNamed is how many objects an error names.
const mostNamed = 8

// Error has the form `stream PELTON_TASKS_mail: discard is old, must be new; to
// mend it: pelton setup apply`.
func (e *DriftError) Error() string {
	parts := make([]string, 0, mostNamed+2)
	for _, c := range e.Changes[:min(mostNamed, len(e.Changes))] {
		parts = append(parts, c.String())
	}
	if more := len(e.Changes) - mostNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	mend := "to mend it: pelton setup apply"
	if slices.ContainsFunc(e.Changes, isReplace) {
		mend = "to mend it: remove what cannot be changed in place (a stream goes with its messages), then: pelton setup apply"
	}
	return strings.Join(append(parts, mend), "; ")
}

// Is tells ErrMissing and ErrDrift apart.
func (e *DriftError) Is(target error) bool {
	switch target {
	case ErrMissing:
		return slices.ContainsFunc(e.Changes, isCreate)
	case ErrDrift:
		return slices.ContainsFunc(e.Changes, func(c Change) bool { return !isCreate(c) })
	}
	return false
}

func isCreate(c Change) bool  { return c.Action == Create }
func isReplace(c Change) bool { return c.Action == Replace }

// Verify reports whether the broker meets the contract: everything is there and
// no contract field differs. Settings may differ. It returns a [*DriftError]
// where the contract is not met, another error where the broker did not answer
// or the caller may not look.
func Verify(ctx context.Context, js jetstream.JetStream, t Topology) error {
	steps, err := t.differences(ctx, js)
	if err != nil {
		return err
	}
	var broken []Change
	for _, c := range changes(steps) {
		c.Fields = slices.DeleteFunc(c.Fields, func(f Field) bool { return !f.Contract })
		if isCreate(c) || len(c.Fields) > 0 {
			broken = append(broken, c)
		}
	}
	if len(broken) > 0 {
		return &DriftError{Changes: broken}
	}
	return nil
}
