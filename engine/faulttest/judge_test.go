package faulttest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pelton/engine/wire"
)

// story makes histories, event by event; each is a moment after the one before.
type story struct {
	at       int64
	revision uint64
	events   []Event
}

func (s *story) add(e Event) {
	s.at++
	e.At = s.at
	s.events = append(s.events, e)
}

func (s *story) send(n int, id string, outcome Outcome) {
	s.add(Event{Kind: KindSend, N: n, ID: id, Outcome: outcome})
}

// record writes a revision of a record: of the worker who, as begun when.
func (s *story) record(id string, state wire.State, attempt int, who string, began int64, result any) uint64 {
	s.revision++
	r := &wire.Record{ID: id, Run: 1, State: state, Attempt: attempt, Worker: who, StartedAt: time.Unix(0, began).UTC()}
	if result != nil {
		r.Result, _ = json.Marshal(result) //nolint:errchkjson // a struct of numbers and text
	}
	s.add(Event{Kind: KindRecord, ID: id, Revision: s.revision, Record: r})
	return s.revision
}

// run is a run of a handler that succeeds; its record is not written yet.
func (s *story) run(n int, id string, attempt int, fence uint64, who string) Result {
	s.add(Event{Kind: KindBegin, N: n, ID: id, Run: 1, Attempt: attempt, Fence: fence, Who: who})
	s.add(Event{Kind: KindEnd, N: n, ID: id, Run: 1, Attempt: attempt, Fence: fence, Who: who, Outcome: Done})
	return Result{N: n, Attempt: attempt, Fence: fence, Who: who}
}

func (s *story) drained() {
	s.add(Event{Kind: KindFault, What: "kill", Who: "worker 1"})
	s.add(Event{Kind: KindLeft, What: "TASKS"})
	s.add(Event{Kind: KindLeft, What: "LATER"})
}

// plain is one task that a worker runs and one that is run again after a death.
func plain() *story {
	s := &story{}
	s.send(1, "a", Acked)
	s.record("a", wire.StateSucceeded, 1, "w1", 5, s.run(1, "a", 1, 0, "w1"))
	s.send(2, "b", Acked)
	s.add(Event{Kind: KindBegin, N: 2, ID: "b", Run: 1, Attempt: 1, Who: "w1"})
	s.record("b", wire.StateStarted, 1, "w1", 8, nil)
	fence := s.record("b", wire.StateStarted, 1, "w2", 9, nil)
	s.record("b", wire.StateSucceeded, 1, "w2", 9, s.run(2, "b", 1, fence, "w2"))
	return s
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name string
		tell func(*story)
		want []Rule
	}{
		{"nothing is wrong", func(*story) {}, nil},
		{"a duplicate is told so, others are not stored", func(s *story) {
			s.send(3, "b", Exists)
			s.send(6, "d", Refused)
			s.send(4, "", Unknown)
			s.send(5, "c", Unknown)
		}, nil},
		{"an unknown one was stored", func(s *story) {
			s.send(3, "", Unknown)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 0, "w1"))
		}, nil},
		{"an attempt fails and the next succeeds", func(s *story) {
			s.send(3, "c", Acked)
			s.add(Event{Kind: KindBegin, N: 3, ID: "c", Run: 1, Attempt: 1, Who: "w1"})
			s.record("c", wire.StateRetrying, 2, "w1", 5, nil)
			fence := s.record("c", wire.StateStarted, 2, "w2", 6, nil)
			s.record("c", wire.StateSucceeded, 2, "w2", 6, s.run(3, "c", 2, fence, "w2"))
		}, nil},
		{"a worker hands back what it has claimed", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateStarted, 1, "w1", 5, nil)
			s.record("c", wire.StateQueued, 1, "w1", 5, nil)
			fence := s.record("c", wire.StateStarted, 1, "w2", 6, nil)
			s.record("c", wire.StateSucceeded, 1, "w2", 6, s.run(3, "c", 1, fence, "w2"))
		}, nil},
		{"one that keeps no result has run", func(s *story) {
			s.add(Event{Kind: KindSend, N: 3, ID: "c", Outcome: Acked, Bare: true})
			s.run(3, "c", 1, 0, "w1")
		}, nil},
		{"one that keeps no result has run, and its message was another's too", func(s *story) {
			s.add(Event{Kind: KindSend, N: 3, ID: "c", Outcome: Acked, Bare: true})
			s.run(3, "c", 1, 0, "w1")
			s.record("c", wire.StateStarted, 1, "w2", 5, nil)
		}, nil},

		{"one that keeps no result has not been recorded by who has said that it runs", func(s *story) {
			s.add(Event{Kind: KindSend, N: 3, ID: "c", Outcome: Acked, Bare: true})
			s.run(3, "c", 1, 0, "w1")
			s.record("c", wire.StateStarted, 1, "w1", 5, nil)
		}, []Rule{RuleLost}},
		{"one that keeps no result has not run", func(s *story) {
			s.add(Event{Kind: KindSend, N: 3, ID: "c", Outcome: Acked, Bare: true})
			s.add(Event{Kind: KindBegin, N: 3, ID: "c", Run: 1, Attempt: 1, Who: "w1", Bare: true})
		}, []Rule{RuleLost}},
		{"acknowledged and never heard of again", func(s *story) { s.send(3, "c", Acked) }, []Rule{RuleLost}},
		{"said to exist and never heard of", func(s *story) { s.send(3, "c", Exists) }, []Rule{RuleLost}},
		{"begun and without a record", func(s *story) {
			s.send(3, "", Unknown)
			s.run(3, "c", 1, 0, "w1")
		}, []Rule{RuleLost}},
		{"the record says started for ever", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateStarted, 1, "w1", 5, nil)
		}, []Rule{RuleLost}},
		{"something else stands under the key", func(s *story) {
			s.add(Event{Kind: KindRecord, ID: "a", Revision: 100})
		}, []Rule{RuleLost}},
		{"two outcomes of one run", func(s *story) {
			s.record("a", wire.StateSucceeded, 1, "w2", 5, s.run(1, "a", 1, 0, "w2"))
		}, []Rule{RuleTwice}},
		{"an outcome, and then it is claimed", func(s *story) {
			fence := s.record("a", wire.StateStarted, 1, "w2", 7, nil)
			s.record("a", wire.StateSucceeded, 1, "w2", 7, s.run(1, "a", 1, fence, "w2"))
		}, []Rule{RuleTwice, RuleTwice}},
		{"an attempt fails twice", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateRetrying, 2, "w1", 5, nil)
			s.record("c", wire.StateRetrying, 2, "w1", 5, nil) // the same, written again
			s.record("c", wire.StateRetrying, 2, "w2", 6, nil)
			fence := s.record("c", wire.StateStarted, 2, "w2", 6, nil)
			s.record("c", wire.StateSucceeded, 2, "w2", 6, s.run(3, "c", 2, fence, "w2"))
		}, []Rule{RuleTwice}},
		{"a zombie's outcome replaces a claim", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateStarted, 1, "w1", 5, nil)
			s.record("c", wire.StateStarted, 1, "w2", 6, nil)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 0, "w1"))
		}, []Rule{RuleOlderFence}},
		{"a result of nobody", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, Result{N: 3, Attempt: 1, Who: "w9"})
		}, []Rule{RuleInvented}},
		{"a result that is none", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, "x")
		}, []Rule{RuleInvented}},
		{"a refused send runs", func(s *story) {
			s.send(3, "c", Refused)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 0, "w1"))
		}, []Rule{RuleUnpublished}},
		{"what nobody sent runs", func(s *story) {
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 0, "w1"))
		}, []Rule{RuleUnpublished}},
		{"a task runs before its time", func(s *story) {
			s.add(Event{Kind: KindSend, N: 3, ID: "c", Outcome: Acked, ETA: 1000})
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 0, "w1"))
		}, []Rule{RuleEarly}},
		{"an attempt runs before its time", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateRetrying, 2, "w1", 5, nil)
			s.events[len(s.events)-1].Record.ETA = time.Unix(1, 0)
			fence := s.record("c", wire.StateStarted, 2, "w2", 6, nil)
			s.record("c", wire.StateSucceeded, 2, "w2", 6, s.run(3, "c", 2, fence, "w2"))
		}, []Rule{RuleEarly}},
		{"two runs under one fence", func(s *story) {
			s.send(3, "c", Acked)
			fence := s.record("c", wire.StateStarted, 1, "w1", 5, nil)
			s.run(3, "c", 1, fence, "w1")
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, fence, "w1"))
		}, []Rule{RuleFence}},
		{"a fence that is no claim", func(s *story) {
			s.send(3, "c", Acked)
			s.record("c", wire.StateSucceeded, 1, "w1", 5, s.run(3, "c", 1, 77, "w1"))
		}, []Rule{RuleFence}},
		{"messages are left", func(s *story) {
			s.add(Event{Kind: KindLeft, What: "TASKS", Count: 3})
		}, []Rule{RuleLeft}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := plain()
			tc.tell(s)
			if !slices.Contains(tc.want, RuleLeft) {
				s.drained()
			} else {
				s.events = slices.Insert(s.events, 0, Event{Kind: KindFault, What: "kill"})
			}
			verdict := Judge(s.events)
			var got []Rule
			for _, v := range verdict.Violations {
				got = append(got, v.Rule)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("broken %v, want %v\n%s", got, tc.want, verdict)
			}
		})
	}
}

// TestHistoryThatShowsNothing: a history in which nothing can be seen is no proof.
func TestHistoryThatShowsNothing(t *testing.T) {
	if v := Judge(nil); v.Broken(RuleEmpty) != 5 {
		t.Errorf("%s", v)
	}
	whole := plain()
	whole.drained()
	for _, kind := range []Kind{KindSend, KindBegin, KindFault, KindRecord, KindLeft} {
		without := slices.DeleteFunc(slices.Clone(whole.events), func(e Event) bool { return e.Kind == kind })
		if v := Judge(without); v.Broken(RuleEmpty) != 1 {
			t.Errorf("without %s: %s", kind, v)
		}
	}
}

// TestVerdictsCount: what was done is told with the verdict.
func TestVerdictsCount(t *testing.T) {
	s := plain()
	s.send(9, "z", Acked)
	s.record("e", wire.StateSucceeded, 1, "w1", 5, s.run(2, "e", 1, 0, "w1"))
	s.drained()
	got := Judge(s.events).String()
	const want = "1 faults (kill 1); sends: 3 acknowledged, 0 unknown, 0 whose id exists, 0 refused; 3 tasks, 4 runs, 1 of them again; 1 sends doubled; 1 violations\n" +
		"lost: z: no record; acknowledged true, begun 0 times"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// TestFile: what is written is read again as it was, from any order of writers.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	s := plain()
	s.drained()
	for part := range slices.Chunk(s.events, 3) {
		w, err := OpenWriter(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range part {
			if err := w.Write(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	events, err := Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if v := Judge(events); len(v.Violations) > 0 || v.String() != Judge(s.events).String() {
		t.Errorf("%s", v)
	}
	if _, err := OpenWriter(t.TempDir()); err == nil || !strings.HasPrefix(err.Error(), "history: ") {
		t.Errorf("a folder: %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"half a line":   {`{"at":1,"kind":"send"}` + "\n" + `{"at":2,"ki`, "history: line 2: "},
		"no JSON":       {"x\n", "history: line 1: "},
		"a long line":   {strings.Repeat("x", lineMost+1), "history: after line 0: "},
		"another shape": {"[]\n", "history: line 1: "},
	} {
		if _, err := Read(strings.NewReader(tc.text)); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if events, err := Read(bytes.NewReader(nil)); len(events) != 0 || err != nil {
		t.Errorf("nothing: %v, %v", events, err)
	}
}
