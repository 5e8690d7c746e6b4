package ledger

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Trim removes every entry but the newest: each batch leaves one, and in the
// task stream they count against the queue's limit. The fence stays what it is.
//
// It purges the one exact subject; a purge of a wildcard would keep one entry in
// all and destroy the other ledgers. It takes the right to purge the stream,
// with which a queue can be emptied: where the writer shall not have that,
// somebody else must trim.
func (l *Ledger) Trim(ctx context.Context) error {
	stream, err := l.js.Stream(ctx, l.stream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(l.subject), jetstream.WithPurgeKeep(1))
	}
	if err != nil {
		return fmt.Errorf("ledger %s: trim: %w", l.subject, err)
	}
	return nil
}
