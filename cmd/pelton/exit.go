package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
	"pelton/internal/bench"
	"pelton/internal/config"
	"pelton/internal/dev"
	"pelton/internal/health"
)

// The exit codes. Scripts rely on them.
const (
	exitOK          = 0   // also a role after a clean drain
	exitInternal    = 1   // none of the others
	exitUsage       = 2   // usage or configuration
	exitNotFound    = 3   // no such task, queue or topic
	exitTimeout     = 4   // the task goes on
	exitTaskFailed  = 5   // the task ended failed, revoked or expired
	exitUnreachable = 6   // a broker, or it refused the credentials
	exitRefused     = 7   // queue full, id exists, too late
	exitStopped     = 8   // stopped for safety: somebody has to look
	exitDifference  = 9   // what was compared differs, or doctor found a FAIL
	exitInterrupted = 130 // by a signal
)

// Errors of the commands themselves.
var (
	errInterrupted = errors.New("interrupted")
	errDifference  = errors.New("the brokers differ from the plan")
	errRefused     = errors.New("refused")
	errFindings    = errors.New("something is wrong")
)

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	help string // the command that tells more
}

func (e *usageError) Error() string {
	if e.help == "" {
		return e.err.Error()
	}
	return e.err.Error() + " (see " + e.help + ")"
}

func (e *usageError) Unwrap() error { return e.err }

// timeoutError is a wait that ended before the task did.
type timeoutError struct{ id string }

func (e *timeoutError) Error() string {
	return "task " + e.id + ": not ended in time, it goes on"
}

// exits says which errors end with which code. The first line that fits counts:
// what is certain stands before what it may have come from.
var exits = []struct {
	code int
	errs []error
}{
	{exitInterrupted, []error{errInterrupted}},
	{exitDifference, []error{errDifference, errFindings}},
	{exitStopped, []error{ingest.ErrStopped, emit.ErrStopped}},
	{exitUsage, []error{config.ErrInvalid, bench.ErrNoPath, wire.ErrInvalidName, engine.ErrTooLarge, topology.ErrDrift, dev.ErrCannotStart, health.ErrListen}},
	{exitTaskFailed, []error{engine.ErrRevoked, engine.ErrExpired, dev.ErrAssert}},
	{exitRefused, []error{engine.ErrQueueFull, engine.ErrExists, engine.ErrTooLate, engine.ErrForbidden, errRefused}},
	{exitNotFound, []error{engine.ErrNotFound, engine.ErrNoQueue, topology.ErrMissing, produce.ErrNoTopic}},
	{exitUnreachable, []error{
		health.ErrUnreachable, engine.ErrUnreachable, engine.ErrUnconfirmed, produce.ErrUnreachable, produce.ErrRefused,
		nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		nats.ErrAuthorization, nats.ErrPermissionViolation, jetstream.ErrJetStreamNotEnabled, jetstream.ErrNoStreamResponse,
		context.DeadlineExceeded,
	}},
	{exitInterrupted, []error{context.Canceled}},
}

// exitCode is the one place that turns an error into an exit code.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	var (
		usage   *usageError
		body    *wire.BodyError
		timeout *timeoutError
		failed  *engine.TaskError
	)
	switch {
	case errors.As(err, &usage), errors.As(err, &body):
		return exitUsage
	case errors.As(err, &timeout):
		return exitTimeout
	case errors.As(err, &failed):
		return exitTaskFailed
	}
	for _, exit := range exits {
		for _, target := range exit.errs {
			if errors.Is(err, target) {
				return exit.code
			}
		}
	}
	return exitInternal
}
