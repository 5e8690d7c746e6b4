package faulttest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pelton/engine/wire"
)

// Rule is a promise that a history may break.
type Rule string

// The rules.
const (
	RuleEmpty       Rule = "empty"       // a history shows something: sends that were acknowledged, faults, records, and what is left
	RuleLost        Rule = "lost"        // what was acknowledged, or has begun, comes to an end
	RuleTwice       Rule = "twice"       // a run has one end in its record, an attempt one failure
	RuleOlderFence  Rule = "older fence" // an outcome is of the run that claimed the record last
	RuleFence       Rule = "fence"       // a fence is the claim of one run
	RuleInvented    Rule = "invented"    // a recorded result is what a handler returned
	RuleUnpublished Rule = "unpublished" // what runs was sent, and not refused
	RuleEarly       Rule = "early"       // nothing runs before its time
	RuleLeft        Rule = "left"        // nothing is left in a queue when all has ended
)

// Violation is a rule that was broken.
type Violation struct {
	Rule Rule
	ID   string // of the task, where there is one
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Rule, v.ID, v.Text) }

// Verdict is what a history shows.
type Verdict struct {
	Violations []Violation
	Sends      map[Outcome]int
	Faults     map[string]int // by what was done
	Tasks      int            // that have a record
	Runs       int            // of handlers
	Again      int            // of them, runs of an attempt that had begun before
	// Doubled is how many sends have run as several tasks: ones without an id of
	// their own, whose answer was lost, and whose first copy was done and forgotten
	// by a broker that was killed before they were repeated. No rule forbids it
	// there.
	Doubled int
}

// FaultCount is how many faults there were.
func (v Verdict) FaultCount() (n int) {
	for _, count := range v.Faults {
		n += count
	}
	return n
}

// Broken is how often a rule was broken.
func (v Verdict) Broken(rule Rule) (n int) {
	for _, violation := range v.Violations {
		if violation.Rule == rule {
			n++
		}
	}
	return n
}

// String is a line of counts, and a line for each of the first violations.
func (v Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d faults (", v.FaultCount())
	for i, what := range slices.Sorted(maps.Keys(v.Faults)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", what, v.Faults[what])
	}
	fmt.Fprintf(&b, "); sends: %d acknowledged, %d unknown, %d whose id exists, %d refused; %d tasks, %d runs, %d of them again; %d sends doubled; %d violations",
		v.Sends[Acked], v.Sends[Unknown], v.Sends[Exists], v.Sends[Refused], v.Tasks, v.Runs, v.Again, v.Doubled, len(v.Violations))
	for _, violation := range v.Violations[:min(len(v.Violations), 20)] {
		b.WriteString("\n" + violation.String())
	}
	return b.String()
}

// history is a history's events by what they are about.
type history struct {
	verdict Verdict
	sends   map[int]Event // by number
	stored  map[string]bool
	bare    map[string]bool     // by id: keeps no result
	done    map[string][]string // by id: the workers whose handlers have returned a result without a claim
	runs    map[string][]Event  // begins, by id
	ends    map[endKey]bool
	records map[string][]Event // by revision
	left    map[string]uint64
}

// endKey is what tells the ends of handlers apart.
type endKey struct {
	id  string
	run int
	Result
}

// Judge holds a history against the rules.
func Judge(events []Event) Verdict {
	h := &history{
		verdict: Verdict{Sends: map[Outcome]int{}, Faults: map[string]int{}},
		sends:   map[int]Event{}, stored: map[string]bool{}, bare: map[string]bool{}, done: map[string][]string{}, runs: map[string][]Event{},
		ends: map[endKey]bool{}, records: map[string][]Event{}, left: map[string]uint64{},
	}
	for _, e := range events {
		h.add(e)
	}
	h.judgeShown()
	h.countDoubled()
	for _, id := range h.ids() {
		slices.SortFunc(h.records[id], func(a, b Event) int { return cmp.Compare(a.Revision, b.Revision) })
		h.judgeEnd(id)
		h.judgeRecords(id)
		h.judgeRuns(id)
	}
	for _, stream := range slices.Sorted(maps.Keys(h.left)) {
		if n := h.left[stream]; n > 0 {
			h.breaks(RuleLeft, "", "%d messages in %s", n, stream)
		}
	}
	return h.verdict
}

func (h *history) breaks(rule Rule, id, format string, args ...any) {
	h.verdict.Violations = append(h.verdict.Violations, Violation{rule, id, fmt.Sprintf(format, args...)})
}

func (h *history) add(e Event) {
	switch e.Kind {
	case KindSend:
		h.verdict.Sends[e.Outcome]++
		h.sends[e.N] = e
		if e.Outcome == Acked || e.Outcome == Exists {
			h.stored[e.ID] = true
			h.bare[e.ID] = h.bare[e.ID] || e.Bare
		}
	case KindBegin:
		h.verdict.Runs++
		h.runs[e.ID] = append(h.runs[e.ID], e)
		h.bare[e.ID] = h.bare[e.ID] || e.Bare
	case KindEnd:
		if e.Outcome == Done {
			if e.Fence == 0 {
				h.done[e.ID] = append(h.done[e.ID], e.Who)
			}
			h.ends[endKey{e.ID, e.Run, Result{e.N, e.Attempt, e.Fence, e.Who}}] = true
		}
	case KindFault:
		h.verdict.Faults[e.What]++
	case KindRecord:
		h.records[e.ID] = append(h.records[e.ID], e)
	case KindLeft:
		h.left[e.What] = e.Count
	}
}

// ids are all tasks that the history knows of.
func (h *history) ids() []string {
	all := maps.Clone(h.stored)
	for id := range h.runs {
		all[id] = true
	}
	for id := range h.records {
		all[id] = true
	}
	h.verdict.Tasks = len(h.records)
	return slices.Sorted(maps.Keys(all))
}

// countDoubled counts the sends that have run under several ids.
func (h *history) countDoubled() {
	ids := map[int]string{}
	doubled := map[int]bool{}
	for id, runs := range h.runs {
		for _, b := range runs {
			if before, ran := ids[b.N]; ran && before != id {
				doubled[b.N] = true
			}
			ids[b.N] = id
		}
	}
	h.verdict.Doubled = len(doubled)
}

// judgeShown refuses a history in which nothing could have gone wrong.
func (h *history) judgeShown() {
	for what, shown := range map[string]bool{
		"no send was acknowledged": h.verdict.Sends[Acked] > 0,
		"no fault":                 len(h.verdict.Faults) > 0,
		"no record":                len(h.records) > 0,
		"no run":                   len(h.runs) > 0,
		"no stream was looked at":  len(h.left) > 0,
	} {
		if !shown {
			h.breaks(RuleEmpty, "", "%s", what)
		}
	}
}

// judgeEnd: what was stored has come to its end. One that keeps no result has at
// least been run to the end of its handler. Whoever had no claim writes nothing of
// that, so the claim that another has made meanwhile may stay.
func (h *history) judgeEnd(id string) {
	records := h.records[id]
	switch {
	case h.bare[id] && slices.ContainsFunc(h.done[id], func(who string) bool {
		return len(records) == 0 || claimedByOther(records[len(records)-1].Record, who)
	}): // all that is promised of it
	case len(records) == 0:
		h.breaks(RuleLost, id, "no record; acknowledged %v, begun %d times", h.stored[id], len(h.runs[id]))
	case records[len(records)-1].Record == nil:
		h.breaks(RuleLost, id, "its record was removed, or is none")
	case !records[len(records)-1].Record.State.Terminal():
		h.breaks(RuleLost, id, "the last record says %s", records[len(records)-1].Record.State)
	}
}

func claimedByOther(r *wire.Record, who string) bool {
	return r != nil && r.State == wire.StateStarted && r.Worker != who
}

// judgeRecords: one end for each run, one failure for each attempt, and each of
// whoever claimed the record last.
func (h *history) judgeRecords(id string) {
	type attempt struct{ run, attempt int }
	ended, failed := map[int]uint64{}, map[attempt]Event{}
	var claim *wire.Record
	for _, e := range h.records[id] {
		r := e.Record
		if r == nil {
			continue
		}
		if before, is := ended[r.Run]; is {
			h.breaks(RuleTwice, id, "run %d ended at revision %d, and is %s at %d", r.Run, before, r.State, e.Revision)
		}
		if r.State.Terminal() {
			ended[r.Run] = e.Revision
		}
		if r.State == wire.StateRetrying {
			before := failed[attempt{r.Run, r.Attempt}]
			if before.Record != nil && !sameFailure(before.Record, r) {
				h.breaks(RuleTwice, id, "attempt %d is owed at revisions %d and %d", r.Attempt, before.Revision, e.Revision)
			}
			failed[attempt{r.Run, r.Attempt}] = e
		}
		if r.State == wire.StateStarted {
			claim = r
			continue
		}
		h.judgeOutcome(id, e, claim)
	}
}

// sameFailure reports whether two records tell of one failure: whoever parks its
// next attempt once more writes the record again as it is.
func sameFailure(a, b *wire.Record) bool {
	return a.Worker == b.Worker && a.StartedAt.Equal(b.StartedAt) && a.ETA.Equal(b.ETA)
}

// judgeOutcome: an outcome that a handler has led to is of the run that claimed
// the record last, if one did. A result is one that a handler returned.
func (h *history) judgeOutcome(id string, e Event, claim *wire.Record) {
	r := e.Record
	ran := r.State == wire.StateSucceeded || r.State == wire.StateRetrying || r.State == wire.StateFailed && r.Error != nil && r.Error.Type != wire.FailurePoison
	if ran && claim != nil && claim.Run == r.Run && (claim.Worker != r.Worker || !claim.StartedAt.Equal(r.StartedAt)) {
		h.breaks(RuleOlderFence, id, "revision %d, %s, is of %s, begun %s; claimed by %s, %s", e.Revision, r.State,
			r.Worker, r.StartedAt.Format(time.RFC3339Nano), claim.Worker, claim.StartedAt.Format(time.RFC3339Nano))
	}
	if r.State != wire.StateSucceeded || h.bare[id] {
		return
	}
	var result Result
	if err := json.Unmarshal(r.Result, &result); err != nil || !h.ends[endKey{id, r.Run, result}] {
		h.breaks(RuleInvented, id, "revision %d: no handler returned %s", e.Revision, r.Result)
	}
}

// judgeRuns: what runs was sent, not before its time, and under a claim of its
// own where it has one.
func (h *history) judgeRuns(id string) {
	claims := map[uint64]*wire.Record{}
	for _, e := range h.records[id] {
		if e.Record != nil {
			claims[e.Revision] = e.Record
		}
	}
	fences := map[uint64]bool{}
	begun := map[int]bool{}
	for _, b := range h.runs[id] {
		if begun[b.Attempt] {
			h.verdict.Again++
		}
		begun[b.Attempt] = true
		sent, is := h.sends[b.N]
		if !is || sent.Outcome == Refused {
			h.breaks(RuleUnpublished, id, "%s ran send %d, which was %q", b.Who, b.N, sent.Outcome)
		}
		if b.At < sent.ETA {
			h.breaks(RuleEarly, id, "attempt %d began %s early", b.Attempt, time.Duration(sent.ETA-b.At))
		}
		if b.Fence == 0 {
			continue
		}
		if fences[b.Fence] {
			h.breaks(RuleFence, id, "two runs have the fence %d", b.Fence)
		}
		fences[b.Fence] = true
		if r := claims[b.Fence]; r == nil || r.State != wire.StateStarted || r.Run != b.Run || r.Attempt != b.Attempt {
			h.breaks(RuleFence, id, "attempt %d ran with the fence %d, which is no claim of it", b.Attempt, b.Fence)
		}
		h.judgeWait(id, b)
	}
}

// judgeWait: an attempt begins no sooner than the record before its claim said.
func (h *history) judgeWait(id string, b Event) {
	var due time.Time
	for _, e := range h.records[id] {
		if e.Revision < b.Fence && e.Record != nil && e.Record.Run == b.Run && e.Record.Attempt == b.Attempt &&
			e.Record.State == wire.StateRetrying {
			due = e.Record.ETA
		}
	}
	if early := due.Sub(time.Unix(0, b.At)); !due.IsZero() && early > 0 {
		h.breaks(RuleEarly, id, "attempt %d began %s early", b.Attempt, early)
	}
}
