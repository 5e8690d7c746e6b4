package emit

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrStopped is what every [StopError] is, for errors.Is.
var ErrStopped = errors.New("emit stopped for safety")

// StopError says that going on could lose or repeat results, and that somebody
// has to look. Starting again changes nothing. It is [ErrStopped].
type StopError struct {
	Edge  string // the edge's name
	Where string // a bucket's stream or a place in the ledger topic
	What  string // what is wrong there
	Do    string // what an operator does about it
}

// Error has the form `emit stopped for safety: results: KV_…: what: what to do`.
func (e *StopError) Error() string {
	return fmt.Sprintf("%s: %s: %s: %s: %s", ErrStopped, e.Edge, e.Where, e.What, e.Do)
}

// Is makes every StopError an [ErrStopped].
func (e *StopError) Is(target error) bool { return target == ErrStopped }

const (
	doRestore = "restore the stream, or name the sequence to go on from (the first one there is %d) if what came before may be missing or come twice"
	doAccept  = "find the missing results by other means, then name the sequence to go on from (the first one there is %d)"
)

// stop is the StopError about a bucket.
func stop(edge string, info *jetstream.StreamInfo, do, what string, args ...any) error {
	return &StopError{
		Edge:  edge,
		Where: info.Config.Name,
		What:  fmt.Sprintf(what, args...),
		Do:    fmt.Sprintf(do, info.State.FirstSeq),
	}
}

// check reports, as a [StopError], whether emitting from this position on could
// lose or repeat results. It looks for what nobody would notice later.
func (p position) check(edge string, info *jetstream.StreamInfo) error {
	state, limits := info.State, info.Config
	switch {
	case p.Stream != limits.Name:
		return stop(edge, info, doRestore, "the position is one of stream %s", p.Stream)
	case !p.Created.Equal(info.Created):
		return stop(edge, info, doRestore, "it was made anew at %s, the position is one of %s",
			info.Created.Format(time.RFC3339), p.Created.Format(time.RFC3339))
	case p.Sequence > state.LastSeq:
		return stop(edge, info, doRestore, "it ends at sequence %d and results up to %d were emitted: it has lost its end",
			state.LastSeq, p.Sequence)
	case p.missed(state.FirstSeq, info.TimeStamp, limits.MaxAge):
		return stop(edge, info, doAccept, "results after sequence %d were last looked for at %s, longer ago than the %s for which they are kept",
			p.Sequence, p.At.Format(time.RFC3339), limits.MaxAge)
	case state.FirstSeq > p.Sequence+1 && dropsOldest(info):
		return stop(edge, info, doAccept, "it is full and begins at sequence %d, results after %d may have been dropped",
			state.FirstSeq, p.Sequence)
	}
	return nil
}

// missed reports whether results between the position and the next sequence may
// have gone unseen because of their age. A gap alone says nothing: the bucket
// keeps one value a task, so the record of a start is gone as soon as the
// outcome is written. But everything after the position was stored after
// p.At, and until that is one lifetime ago nothing of it can have expired.
func (p position) missed(next uint64, now time.Time, lifetime time.Duration) bool {
	return next > p.Sequence+1 && lifetime > 0 && now.Sub(p.At) >= lifetime
}

// dropsOldest reports whether the bucket makes room by forgetting.
func dropsOldest(info *jetstream.StreamInfo) bool {
	limits := info.Config
	return limits.Discard == jetstream.DiscardOld && limits.MaxMsgs > 0 && info.State.Msgs >= uint64(limits.MaxMsgs)
}
