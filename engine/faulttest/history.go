package faulttest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"pelton/engine/wire"
)

// Kind says what an event is.
type Kind string

// The kinds of events.
const (
	KindSend   Kind = "send"   // a task was sent: N, Outcome, and ID where it is known
	KindBegin  Kind = "begin"  // a handler began: N, ID, Run, Attempt, Fence, Who
	KindEnd    Kind = "end"    // and returned: the same, with its Outcome
	KindFault  Kind = "fault"  // What was done, to Who
	KindRecord Kind = "record" // a revision of a task's record, or what else stands under its key
	KindLeft   Kind = "left"   // Count messages are left in the stream What
)

// Outcome is how a send or a handler ended.
type Outcome string

// The outcomes of sends, then of handlers.
const (
	Acked   Outcome = "acked"   // the sender knows that it is stored
	Unknown Outcome = "unknown" // it may be stored
	Exists  Outcome = "exists"  // its id has a task: another's, or its own whose answer was lost
	Refused Outcome = "refused" // the sender knows that it is not stored

	Done   Outcome = "done"
	Failed Outcome = "failed"
)

// Event is one line of a history. Which fields count depends on its kind.
type Event struct {
	At       int64        `json:"at"` // nanoseconds since 1970
	Kind     Kind         `json:"kind"`
	N        int          `json:"n,omitempty"` // number of the send; its task carries it
	ID       string       `json:"id,omitempty"`
	Run      int          `json:"run,omitempty"`
	Attempt  int          `json:"attempt,omitempty"`
	Fence    uint64       `json:"fence,omitempty"`
	ETA      int64        `json:"eta,omitempty"`  // before which the task is not to run, as At
	Bare     bool         `json:"bare,omitempty"` // of sends and begins: the task keeps no result, it has a record only where one was needed
	Outcome  Outcome      `json:"outcome,omitempty"`
	Who      string       `json:"who,omitempty"`
	What     string       `json:"what,omitempty"`
	Count    uint64       `json:"count,omitempty"`
	Revision uint64       `json:"revision,omitempty"`
	Record   *wire.Record `json:"record,omitempty"`
}

// Result is the result of a task's handler, by which its record tells which run
// it is of.
type Result struct {
	N       int    `json:"n"`
	Attempt int    `json:"attempt"`
	Fence   uint64 `json:"fence"`
	Who     string `json:"who"`
}

// Writer appends to a history's file. Several processes may each have one for the
// same file; a Writer is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	file *os.File
}

// OpenWriter appends to a file, which is made where there is none.
func OpenWriter(path string) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Writer{file: file}, nil
}

// Write appends an event, at the present time where it has none. It is one
// write of a whole line, so that a process that is killed leaves no half of one.
func (w *Writer) Write(e Event) error {
	if e.At == 0 {
		e.At = time.Now().UnixNano()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("history: event %s: %w", e.Kind, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

// lineMost bounds a line of a history, in bytes.
const lineMost = 4 << 20

// Read reads a history. The error names the line that cannot be read.
func Read(r io.Reader) ([]Event, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, lineMost)
	var events []Event
	for n := 1; lines.Scan(); n++ {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("history: after line %d: %w", len(events), err)
	}
	return events, nil
}
