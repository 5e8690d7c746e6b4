package ledger

import (
	"errors"
	"fmt"
)

// What can be asked of an error of this package by errors.Is.
var (
	// ErrFenced: there is another entry than the fence. The batch is not stored,
	// unless the position found already includes it: then an earlier try was,
	// and somebody has gone on from there. It comes as a [*FencedError].
	ErrFenced = errors.New("fenced")
	// ErrFull: the stream has no room for the batch, and nothing of it is
	// stored. A smaller one may fit.
	ErrFull = errors.New("queue is full")
	// ErrUnknown: a try was sent and nobody knows yet whether it is stored. It
	// stands beside the reason for which Write gave up. The fence has not
	// changed for the caller: a batch written with it is stored only if the
	// unknown one was not.
	ErrUnknown = errors.New("outcome unknown")
	// ErrTooLarge: a batch, a message or a position is over its limit. Nothing
	// was sent.
	ErrTooLarge = errors.New("too large")
	// ErrUnreadable: what stands under the ledger's subject is no entry.
	ErrUnreadable = errors.New("entry cannot be read")
)

// FencedError says which entry stands in a batch's way. It is [ErrFenced].
type FencedError struct {
	Subject string
	Fence   uint64 // what the batch expected
	// Found is the newest entry. Where it is older than the fence, or no entry
	// at all, only its sequence is known: the stream has lost its end, or
	// somebody has removed the ledger.
	Found Entry
}

// Error names the subject, both sequences and the other writer.
func (e *FencedError) Error() string {
	return fmt.Sprintf("ledger %s: %s: expected entry %d, found %d of instance %q", e.Subject, ErrFenced, e.Fence, e.Found.Sequence, e.Found.Instance)
}

// Is makes every FencedError an [ErrFenced].
func (e *FencedError) Is(target error) bool { return target == ErrFenced }

// Backwards reports whether the newest entry is older than the fence.
func (e *FencedError) Backwards() bool { return e.Found.Sequence < e.Fence }
