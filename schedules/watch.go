package schedules

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// change is what the bucket says: one key, or all of them.
type change struct {
	entry   jetstream.KeyValueEntry
	all     bool
	entries []jetstream.KeyValueEntry
}

// watch hears of changes of the bucket.
type watch struct {
	store   *Store
	nc      *nats.Conn
	log     *slog.Logger
	changes chan change
}

// run tells all keys, and then each change, until ctx is done. When the
// connection is back all are told again: the watcher would take ten seconds to
// see that it is not told any more.
func (w *watch) run(ctx context.Context) {
	reconnected := w.nc.StatusChanged(nats.CONNECTED)
	defer w.nc.RemoveStatusListener(reconnected)
	for told := false; ctx.Err() == nil; {
		err := w.follow(ctx, reconnected)
		if err != nil && !told && ctx.Err() == nil {
			told = true
			w.log.WarnContext(ctx, "cannot read the bucket of entries, trying on", "err", err)
		}
		if err == nil {
			told = false
			continue
		}
		_ = pause(ctx, retryTurn)
	}
}

// follow tells what one watcher hears until the connection has been away.
func (w *watch) follow(ctx context.Context, reconnected <-chan nats.Status) error {
	watcher, err := w.store.kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = watcher.Stop() }()
	var all []jetstream.KeyValueEntry
	for reading := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-reconnected:
			return nil
		case entry, more := <-watcher.Updates():
			switch {
			case !more:
				return nil
			case entry == nil:
				reading = false
				w.tell(ctx, change{all: true, entries: all})
				all = nil
			case reading:
				all = append(all, entry)
			default:
				w.tell(ctx, change{entry: entry})
			}
		}
	}
}

func (w *watch) tell(ctx context.Context, c change) {
	select {
	case w.changes <- c:
	case <-ctx.Done():
	}
}
