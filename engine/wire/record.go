package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// KeptAttempts is how many attempts a record remembers, the newest.
const KeptAttempts = 10

// Record is the state of a task, one value in its queue's bucket under the
// task's id. Times are UTC.
type Record struct {
	ID         string          `json:"id"`
	Run        int             `json:"run"`
	Task       string          `json:"task"`
	Queue      string          `json:"queue"`
	State      State           `json:"state"`
	Attempt    int             `json:"attempt"`
	Generation int             `json:"generation,omitempty"`   // how often it was replaced while it waited for its time
	Deaths     int             `json:"deaths,omitempty"`       // runs of this attempt whose worker died
	Priority   Priority        `json:"priority,omitempty"`     // its lane
	Sequence   uint64          `json:"sequence,omitempty"`     // of its message in the task stream, where it was claimed there
	Due        bool            `json:"due,omitempty"`          // it was parked: its message is no more in the task stream
	DueSeq     uint64          `json:"due_sequence,omitempty"` // of the due message that was claimed
	Body       json.RawMessage `json:"body,omitempty"`         // that replaced the one of its message, until it runs
	Result     json.RawMessage `json:"result,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Attempts   []Attempt       `json:"attempts,omitempty"`
	Origin     string          `json:"origin,omitempty"`
	Worker     string          `json:"worker,omitempty"`
	QueuedAt   time.Time       `json:"queued_at,omitzero"`
	ETA        time.Time       `json:"eta,omitzero"` // before which it was not to run; of one that waits, will not
	StartedAt  time.Time       `json:"started_at,omitzero"`
	FinishedAt time.Time       `json:"finished_at,omitzero"`
	Progress   json.RawMessage `json:"progress,omitempty"`
	Parent     string          `json:"parent,omitempty"`
	Root       string          `json:"root,omitempty"`
	ReplyTopic string          `json:"reply_topic,omitempty"`
	ReplyKey   string          `json:"reply_key,omitempty"`
	Trace      string          `json:"trace,omitempty"` // traceparent
	TraceState string          `json:"tracestate,omitempty"`
	Baggage    string          `json:"baggage,omitempty"`
}

// Attempt is one attempt that did not succeed.
type Attempt struct {
	Attempt    int       `json:"attempt"`
	Worker     string    `json:"worker,omitempty"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Error      *Failure  `json:"error,omitempty"`
}

// Failure is why an attempt or a task failed.
type Failure struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Stack   string `json:"stack,omitempty"`
}

// Types of failures that Pelton itself records. Handlers' errors have
// [FailureError].
const (
	FailureError       = "error"
	FailurePanic       = "panic"
	FailureTimeout     = "timeout"
	FailureBadInput    = "bad_input"
	FailureUnknownTask = "unknown_task"
	FailureTooLarge    = "too_large"
	FailurePoison      = "poison"
)

// AddAttempt appends an attempt and forgets the oldest beyond [KeptAttempts].
func (r *Record) AddAttempt(a Attempt) {
	r.Attempts = append(r.Attempts, a)
	if over := len(r.Attempts) - KeptAttempts; over > 0 {
		r.Attempts = append([]Attempt(nil), r.Attempts[over:]...)
	}
}

// DecodeRecord reads a record and refuses one that is not of this id, so that a
// value that somebody else put there is never taken for a task's state.
func DecodeRecord(id string, b []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("record %s: %w", id, err)
	}
	switch {
	case r.ID != id:
		return nil, fmt.Errorf("record %s: %w", id, &NameError{"id", r.ID, "must be the record's own key"})
	case r.Run < 1 || r.State == "":
		return nil, fmt.Errorf("record %s: has no run or no state", id)
	}
	return &r, nil
}
