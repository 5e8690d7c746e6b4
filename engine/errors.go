package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

// What can be asked of an error of this package by errors.Is.
var (
	// ErrInvalidName: a queue, task, id or header breaks its rule; the message
	// names all three. Nothing was sent.
	ErrInvalidName = wire.ErrInvalidName
	// ErrTooLarge: a body or a result is over the limit. Nothing was sent.
	ErrTooLarge = errors.New("too large")
	// ErrQueueFull: the queue refused the task; nothing is stored.
	ErrQueueFull = errors.New("queue is full")
	// ErrNoQueue: no stream takes the queue's tasks; nothing is stored. While a
	// cluster elects a leader Send, Wait and SendMany wait, for up to 15 s; what
	// does not wait (a future, a task of many with a time ahead, Lookup) may be
	// told so then.
	ErrNoQueue = errors.New("queue does not exist")
	// ErrExists: a task with this explicit id waits or runs.
	ErrExists = errors.New("id exists")
	// ErrNotFound: nobody has seen this id.
	ErrNotFound = errors.New("not found")
	// ErrUnconfirmed: the broker did not answer and nobody can know whether the
	// task is stored.
	ErrUnconfirmed = errors.New("unconfirmed: the task may be stored")
	// ErrRevoked and ErrExpired: the task ended without a result.
	ErrRevoked = errors.New("revoked")
	ErrExpired = errors.New("expired")
	// ErrTooLate: the task runs or has ended, and cannot be changed any more.
	ErrTooLate = errors.New("too late")
	// ErrUnreachable: the broker cannot be reached.
	ErrUnreachable = errors.New("unreachable")
	// ErrForbidden: the broker's permissions do not let this user do it; the
	// message names the subject. Nothing was sent or read.
	ErrForbidden = errors.New("not permitted")
	// ErrClosed: the client or the worker has been closed.
	ErrClosed = errors.New("closed")
)

// TaskError is how a task failed, as its record tells it. It is what
// [Result.Wait] returns for a task that ended failed.
type TaskError struct {
	ID      string
	Type    string // "error", "panic", "timeout", "bad_input", …
	Message string
	Stack   string // of a panic, or of a handler that did not stop when its time was up
	Attempt int    // the last attempt
}

// Error has the form `task mail-4 failed at attempt 5: error: no such mailbox`.
func (e *TaskError) Error() string {
	return fmt.Sprintf("task %s failed at attempt %d: %s: %s", e.ID, e.Attempt, e.Type, e.Message)
}

// Permanent wraps a handler's error that no further attempt can mend: the task
// is dead-lettered at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// RetryIn wraps a handler's error with the wait before the next attempt, in
// place of the back-off. The attempt counts. RetryIn(d, nil) is nil.
func RetryIn(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryInError{wait: min(max(d, 0), wire.MaxDuration), err: err}
}

// RetryAt is [RetryIn] with a time: not before it, and at most a year ahead.
// RetryAt(t, nil) is nil.
func RetryAt(t time.Time, err error) error { return RetryIn(time.Until(t), err) }

// Snooze is what a handler returns that wants to run again after a wait without
// having failed: no attempt is used, and nothing is added to the record but the
// new time. A task that snoozes for ever is ended by its expiry.
func Snooze(d time.Duration) error { return &snoozeError{min(max(d, 0), wire.MaxDuration)} }

type snoozeError struct{ wait time.Duration }

func (e *snoozeError) Error() string { return "snoozes for " + e.wait.String() }

// Drop wraps a handler's error after which the task is of no use to anybody: it
// ends revoked, with the error in its record, and leaves no dead letter.
// Drop(nil) is nil.
func Drop(err error) error {
	if err == nil {
		return nil
	}
	return &dropError{err}
}

type dropError struct{ err error }

func (e *dropError) Error() string { return e.err.Error() }
func (e *dropError) Unwrap() error { return e.err }

type retryInError struct {
	wait time.Duration
	err  error
}

func (e *retryInError) Error() string { return e.err.Error() }
func (e *retryInError) Unwrap() error { return e.err }

// Causes with which the context of a handler is cancelled.
var (
	errLeaseLost = errors.New("lease lost: the broker could not be told that the task is held")
	errShutdown  = errors.New("worker shuts down")
	errRevoked   = fmt.Errorf("task %w", ErrRevoked)
	errDeadline  = fmt.Errorf("attempt ran out of time: %w", context.DeadlineExceeded)
)

// outcome is what an answer of the broker to a publish means.
type outcome int

const (
	outcomeStored  outcome = iota
	outcomeUnknown         // no answer: it may be stored
	outcomeRefused         // the expected sequence did not match
	outcomeFull            // no room
	outcomeAbsent          // nobody takes the subject
	outcomeInvalid         // will never be taken
)

// The server's codes that decide an outcome, from nats-server's errors.json.
const (
	codeMaxMessages  = 10077 // also used for max bytes
	codeWrongLast    = 10071
	codeWrongLastNo  = 10164
	codeNotLeader    = 10008 // JetStream system temporarily unavailable
	codeNoResources  = 10023
	codeStorageFull  = 10047
	codeAccountLimit = 10002
)

// classify is the one place that reads publish errors.
func classify(err error) outcome {
	if err == nil {
		return outcomeStored
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case codeWrongLast, codeWrongLastNo:
			return outcomeRefused
		case codeMaxMessages, codeNoResources, codeStorageFull, codeAccountLimit:
			return outcomeFull
		case codeNotLeader:
			return outcomeUnknown
		}
		return outcomeInvalid
	}
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return outcomeAbsent
	case errors.Is(err, ErrForbidden), errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrInvalidMsg),
		errors.Is(err, nats.ErrBadHeaderMsg):
		return outcomeInvalid
	}
	return outcomeUnknown
}

// saysCode reports whether the broker refused something by a code of its own.
func saysCode(err error, code jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == code
}

// isBatchDisabled reports whether a stream takes no fast batches.
func isBatchDisabled(err error) bool { return saysCode(err, codeBatchDisabled) }
