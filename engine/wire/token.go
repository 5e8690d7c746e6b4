package wire

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalidName is what every [NameError] is, for errors.Is.
var ErrInvalidName = errors.New("invalid name")

// The rules for names, as error messages print them.
const (
	RuleNamespace = "must match [a-z0-9][a-z0-9-]{0,31}"
	RuleQueue     = "must match [a-z0-9][a-z0-9-]{0,63}"
	RuleLane      = "must be a queue, [a-z0-9][a-z0-9-]{0,63}, and at most the suffix _high or _low"
	RuleTask      = "must match [A-Za-z0-9][A-Za-z0-9_-]{0,63}"
	RuleID        = "must match [A-Za-z0-9_=-]{1,128}"
	RuleRoute     = "must match [a-z0-9][a-z0-9-]{0,63}"
	RuleWriter    = "must match [A-Za-z0-9_=-]{1,128}"
	RuleHeader    = "must match [A-Za-z0-9!#$%&'*+.^_`|~-]+"
)

// ReservedTaskPrefix begins the names of Pelton's own tasks. Users cannot
// register handlers below it.
const ReservedTaskPrefix = "pelton-"

// Tasks that Pelton itself publishes.
const (
	// TaskDead carries a record that no rule of an edge accepts. The worker
	// that gets it moves it to the dead letters and writes a failed record.
	TaskDead = ReservedTaskPrefix + "dead"
	// TaskInvalid stands for the name of a task whose own name breaks the
	// rules; it occurs only in dead letters and records.
	TaskInvalid = ReservedTaskPrefix + "invalid"
)

// NameError says which field holds a bad value and which rule it breaks. It is
// [ErrInvalidName].
type NameError struct {
	Field string // "queue", "task", "id", a header's name, …
	Value string
	Rule  string
}

// Error has the form `queue "Email": must match [a-z0-9][a-z0-9-]{0,63}`. Long
// values are cut.
func (e *NameError) Error() string {
	value := e.Value
	if len(value) > maxShown {
		value = value[:maxShown] + "…"
	}
	return fmt.Sprintf("%s %q: %s", e.Field, value, e.Rule)
}

// Is makes every NameError an [ErrInvalidName].
func (e *NameError) Is(target error) bool { return target == ErrInvalidName }

// maxShown bounds, in bytes, how much of a stranger's value an error repeats.
const maxShown = 80

// CheckQueue reports whether a queue's name is legal.
func CheckQueue(queue string) error {
	if !lowerToken(queue, 64) {
		return &NameError{"queue", queue, RuleQueue}
	}
	return nil
}

// CheckTask reports whether a task's name is legal. Reserved names are legal
// here: they travel; only registering a handler refuses them.
func CheckTask(task string) error {
	if len(task) == 0 || len(task) > 64 || !alphanumeric(task[0]) || !allBytes(task, taskByte) {
		return &NameError{"task", task, RuleTask}
	}
	return nil
}

// CheckID reports whether an id is legal as a subject token and as the key of a
// record. It does not tell explicit ids from free ones; see [CheckExplicitID].
func CheckID(id string) error {
	if len(id) == 0 || len(id) > 128 || !allBytes(id, idByte) {
		return &NameError{"id", id, RuleID}
	}
	return nil
}

// CheckRoute reports whether a route's name, its key in the configuration, is
// legal.
func CheckRoute(route string) error {
	if !lowerToken(route, 64) {
		return &NameError{"route", route, RuleRoute}
	}
	return nil
}

// Priority is a lane of a queue: the empty one for the plain lane.
type Priority string

// The lanes a queue with priorities has beside its plain one.
const (
	PriorityNone Priority = ""
	PriorityHigh Priority = "high"
	PriorityLow  Priority = "low"
)

// Lane is a queue with one of its priorities: the unit that has streams and
// consumers of its own. Records of every lane are kept in their queue's bucket.
type Lane struct {
	Queue    string
	Priority Priority
}

// PlainLane is the lane of a queue without priorities.
func PlainLane(queue string) Lane { return Lane{Queue: queue} }

// ParseLane reads the queue token of a subject, `mail` or `mail_high`.
func ParseLane(token string) (Lane, error) {
	queue, priority, found := strings.Cut(token, "_")
	lane := Lane{Queue: queue, Priority: Priority(priority)}
	if CheckQueue(queue) != nil || found && lane.Priority != PriorityHigh && lane.Priority != PriorityLow {
		return Lane{}, &NameError{"queue", token, RuleLane}
	}
	return lane, nil
}

// String is the lane as a subject token.
func (l Lane) String() string {
	if l.Priority == PriorityNone {
		return l.Queue
	}
	return l.Queue + "_" + string(l.Priority)
}

func lowerToken(s string, most int) bool {
	return len(s) > 0 && len(s) <= most && s[0] != '-' && allBytes(s, lowerByte)
}

func allBytes(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

// CheckHeaderName reports whether the name of a header is legal. Brokers, and
// clients in other languages, take more; the Go client does not, and a task that
// has such a header could not be stored again.
func CheckHeaderName(name string) error {
	if name == "" || !allBytes(name, headerByte) {
		return &NameError{"header", name, RuleHeader}
	}
	return nil
}

func lowerByte(c byte) bool    { return c >= 'a' && c <= 'z' || digit(c) || c == '-' }
func taskByte(c byte) bool     { return alphanumeric(c) || c == '_' || c == '-' }
func idByte(c byte) bool       { return taskByte(c) || c == '=' }
func headerByte(c byte) bool   { return alphanumeric(c) || strings.IndexByte("!#$%&'*+.^_`|~-", c) >= 0 }
func digit(c byte) bool        { return c >= '0' && c <= '9' }
func alphanumeric(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || digit(c) }
