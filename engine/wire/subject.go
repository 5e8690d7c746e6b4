package wire

import "strings"

// Namespace is the first token of every subject and, in upper case, the first
// part of every stream's and bucket's name. Two namespaces on one account share
// nothing.
type Namespace string

// DefaultNamespace is the namespace unless another is configured.
const DefaultNamespace Namespace = "pelton"

// The durable consumers of a queue, one for each lane that workers read.
const (
	WorkersDurable = "workers" // of the task stream: tasks ready to run
	DueDurable     = "due"     // of the later stream: tasks whose time has come
)

// ParseNamespace checks a configured namespace.
func ParseNamespace(s string) (Namespace, error) {
	if !lowerToken(s, 32) {
		return "", &NameError{"namespace", s, RuleNamespace}
	}
	return Namespace(s), nil
}

// Address is where a task stands: what its subject says. ID is empty for a task
// that is known by its place in the stream.
type Address struct {
	Lane Lane
	Task string
	ID   string
}

// TaskSubject is where a task that is ready to run is published.
func (ns Namespace) TaskSubject(a Address) string {
	s := string(ns) + ".task." + a.Lane.String() + "." + a.Task
	if a.ID != "" {
		s += "." + a.ID
	}
	return s
}

// TaskFilter matches every task of a lane and nothing else in its stream.
func (ns Namespace) TaskFilter(l Lane) string { return string(ns) + ".task." + l.String() + ".>" }

// LaterSubject is where a task waits for its time: publishing there again
// replaces what waits.
func (ns Namespace) LaterSubject(l Lane, id string) string {
	return string(ns) + ".later." + l.String() + "." + id
}

// LaterFilter matches everything that waits for its time in a lane.
func (ns Namespace) LaterFilter(l Lane) string { return string(ns) + ".later." + l.String() + ".>" }

// DueSubject is where the broker puts a task whose time has come.
func (ns Namespace) DueSubject(a Address) string {
	return string(ns) + ".due." + a.Lane.String() + "." + a.Task + "." + a.ID
}

// DueFilter matches every due task of a lane.
func (ns Namespace) DueFilter(l Lane) string { return string(ns) + ".due." + l.String() + ".>" }

// DeadSubject is where the dead letter of a task stands. The lane is given by
// its queue: priorities share their dead letters.
func (ns Namespace) DeadSubject(queue, task, id string) string {
	return string(ns) + ".dead." + queue + "." + task + "." + id
}

// DeadFilter matches the dead letters of a queue, of all queues when it is
// empty.
func (ns Namespace) DeadFilter(queue string) string {
	if queue == "" {
		return string(ns) + ".dead.>"
	}
	return string(ns) + ".dead." + queue + ".>"
}

// LedgerSubject is where the positions of an exactly-once writer stand, in the
// stream of the tasks it writes. The key may have several tokens.
func (ns Namespace) LedgerSubject(l Lane, writer string, key ...string) string {
	return string(ns) + ".ledger." + l.String() + "." + writer + "." + strings.Join(key, ".")
}

// LedgerFilter matches every ledger of a lane.
func (ns Namespace) LedgerFilter(l Lane) string { return string(ns) + ".ledger." + l.String() + ".>" }

// DoneSubject is where the broker repeats every change of a task's record.
func (ns Namespace) DoneSubject(queue, id string) string {
	return string(ns) + ".done." + queue + "." + id
}

// RecordSubject is the subject of a record in its bucket's stream.
func (ns Namespace) RecordSubject(queue, id string) string {
	return "$KV." + ns.ResultsBucket(queue) + "." + id
}

// TaskStream is the work-queue stream of a lane.
func (ns Namespace) TaskStream(l Lane) string { return ns.upper() + "_TASKS_" + l.String() }

// LaterStream holds the tasks of a lane that wait for their time.
func (ns Namespace) LaterStream(l Lane) string { return ns.upper() + "_LATER_" + l.String() }

// DeadStream holds the dead letters of every queue.
func (ns Namespace) DeadStream() string { return ns.upper() + "_DEAD" }

// ResultsBucket is the key-value bucket that holds a queue's records.
func (ns Namespace) ResultsBucket(queue string) string { return ns.upper() + "_RESULTS_" + queue }

// ResultsStream is the stream below [Namespace.ResultsBucket].
func (ns Namespace) ResultsStream(queue string) string { return "KV_" + ns.ResultsBucket(queue) }

// RevokedBucket is the key-value bucket of revoked tasks, of all queues.
func (ns Namespace) RevokedBucket() string { return ns.upper() + "_REVOKED" }

// RevokedStream is the stream below [Namespace.RevokedBucket].
func (ns Namespace) RevokedStream() string { return "KV_" + ns.RevokedBucket() }

// RevokedSubject is the subject of a revoked task in its bucket's stream.
func (ns Namespace) RevokedSubject(queue, id string) string {
	return "$KV." + ns.RevokedBucket() + "." + queue + "." + id
}

// SchedulesBucket is the key-value bucket of beat entries, of all queues.
func (ns Namespace) SchedulesBucket() string { return ns.upper() + "_SCHEDULES" }

// ScheduleSubject is the subject of a key in [Namespace.SchedulesBucket].
func (ns Namespace) ScheduleSubject(key string) string {
	return "$KV." + ns.SchedulesBucket() + "." + key
}

// SchedulesStream is the stream below [Namespace.SchedulesBucket].
func (ns Namespace) SchedulesStream() string { return "KV_" + ns.SchedulesBucket() }

func (ns Namespace) upper() string { return strings.ToUpper(string(ns)) }

// ParseTask reads a subject made by [Namespace.TaskSubject].
func (ns Namespace) ParseTask(subject string) (Address, error) {
	return ns.parse(subject, ".task.", false)
}

// ParseDue reads a subject made by [Namespace.DueSubject].
func (ns Namespace) ParseDue(subject string) (Address, error) {
	return ns.parse(subject, ".due.", true)
}

// ParseDead reads a subject made by [Namespace.DeadSubject].
func (ns Namespace) ParseDead(subject string) (Address, error) {
	return ns.parse(subject, ".dead.", true)
}

func (ns Namespace) parse(subject, kind string, needID bool) (Address, error) {
	rest, ok := strings.CutPrefix(subject, string(ns)+kind)
	if !ok {
		return Address{}, &NameError{"subject", subject, "must begin with " + string(ns) + kind}
	}
	laneToken, rest, _ := strings.Cut(rest, ".")
	task, id, hasID := strings.Cut(rest, ".")
	lane, err := ParseLane(laneToken)
	if err != nil {
		return Address{}, err
	}
	if err := CheckTask(task); err != nil {
		return Address{}, err
	}
	if hasID || needID {
		if err := CheckID(id); err != nil {
			return Address{}, err
		}
	}
	return Address{Lane: lane, Task: task, ID: id}, nil
}
