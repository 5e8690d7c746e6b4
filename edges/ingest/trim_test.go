package ingest

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestLedgerIsTrimmed: a batch for each record leaves an entry each; they do not
// stay.
func TestLedgerIsTrimmed(t *testing.T) {
	w := newWorld(t, 1)
	cfg := w.config()
	cfg.MaxBatch = 1
	w.start(cfg)
	const records = 3*trimAfter + 10
	batch := make([]*kgo.Record, records)
	for i := range batch {
		batch[i] = &kgo.Record{Topic: topicName, Value: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	w.produceAll(batch...)
	w.exact()
	w.until(func() string {
		stream, err := w.js.Stream(w.ctx, "PELTON_TASKS_default")
		if err != nil {
			return err.Error()
		}
		if entries := int(stream.CachedInfo().State.Msgs) - records; entries > trimAfter {
			return fmt.Sprintf("%d entries in the ledger", entries)
		}
		return ""
	})
}
