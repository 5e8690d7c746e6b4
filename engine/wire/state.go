package wire

import "strings"

// State is where a task is in its life. Besides those below a handler may set
// states of its own as progress; a task that nobody has seen has none, it is
// unknown.
type State string

// The states of a task.
const (
	StateQueued    State = "queued"    // waits in its queue
	StateScheduled State = "scheduled" // waits for its time
	StateStarted   State = "started"   // a worker runs it
	StateRetrying  State = "retrying"  // an attempt failed, the next one waits for its time
	StateSucceeded State = "succeeded"
	StateFailed    State = "failed" // out of attempts: it is a dead letter
	StateRevoked   State = "revoked"
	StateExpired   State = "expired"
)

// Terminal reports whether a task in this state has come to its end.
func (s State) Terminal() bool {
	switch s {
	case StateSucceeded, StateFailed, StateRevoked, StateExpired:
		return true
	default:
		return false
	}
}

// celeryStates maps the names that Celery's users type.
var celeryStates = map[string]State{
	"PENDING":  StateQueued,
	"RECEIVED": StateQueued,
	"STARTED":  StateStarted,
	"RETRY":    StateRetrying,
	"SUCCESS":  StateSucceeded,
	"FAILURE":  StateFailed,
	"REJECTED": StateFailed,
	"REVOKED":  StateRevoked,
}

// ParseState reads a state as a user types it: Pelton's names and those set as
// progress in lower case, Celery's in upper case.
func ParseState(s string) (State, error) {
	if state, ok := celeryStates[s]; ok {
		return state, nil
	}
	if len(s) > 64 || s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" || !alphanumeric(s[0]) {
		return "", &NameError{"state", s, "must match [a-z0-9][a-z0-9_-]{0,63}, or be one of Celery's"}
	}
	return State(s), nil
}
