package engine

import (
	"context"
	"fmt"
	"slices"
)

// Handler runs a task with its types erased: body in, result out. The result
// must be JSON; nil is null.
type Handler func(ctx context.Context, m *Message) ([]byte, error)

// Middleware wraps a handler: what it returns runs in place of next, and calls
// next or does not. It sees every task that has a handler, with what
// [InfoFrom] and the message tell of it, and the error as the handler returned
// it, [RetryIn] and the like included. It runs in the slot of the task: what it
// returns is the outcome, its panic is the task's panic, and the context that it
// passes on should come of the one it got, for that is how a task is stopped.
//
// It is called once for each handler, when that is registered; what it keeps
// between tasks must be safe for concurrent use.
type Middleware func(next Handler) Handler

// wrap puts the middleware around a handler, the first one outermost.
func (w *Worker) wrap(task string, h Handler) Handler {
	for i, around := range slices.Backward(w.cfg.Middleware) {
		if around == nil {
			continue // Run reports it
		}
		if h = around(h); h == nil {
			panic(fmt.Errorf("task %s: middleware %d returned no handler", task, i))
		}
	}
	return h
}
