package kafkatest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// Journal keeps what is logged at info and above, for a test to look at and to
// wait for. The zero value is ready; it is safe for concurrent use.
type Journal struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

// Logger returns a logger that writes to the journal.
func (j *Journal) Logger() *slog.Logger { return slog.New(journalHandler{j}) }

// Lines returns each line so far as "LEVEL message".
func (j *Journal) Lines() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// Wait returns when line has been logged, or with the cause of ctx and all
// lines where that ends first.
func (j *Journal) Wait(ctx context.Context, line string) error {
	for {
		j.mu.Lock()
		if slices.Contains(j.lines, line) {
			j.mu.Unlock()
			return nil
		}
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q among %q: %w", line, j.Lines(), context.Cause(ctx))
		}
	}
}

func (j *Journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

type journalHandler struct{ journal *Journal }

func (journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

func (h journalHandler) Handle(_ context.Context, record slog.Record) error {
	h.journal.add(record.Level.String() + " " + record.Message)
	return nil
}

func (h journalHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h journalHandler) WithGroup(string) slog.Handler { return h }
