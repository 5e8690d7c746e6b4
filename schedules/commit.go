package schedules

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pelton/engine/ledger"
)

// errTogether is a refusal of which the one to blame is not known.
var errTogether = fmt.Errorf("written together with others: %w", ledger.ErrFenced)

// committer writes what the entries of one queue have decided together: a batch
// costs the broker milliseconds, however small. While one is on its way the next
// one gathers, so a single entry does not wait for others. The zero value is
// ready; it is safe for concurrent use.
type committer struct {
	mu      sync.Mutex
	streams map[string]*gathering
}

// gathering is what waits for the batch under way.
type gathering struct {
	busy  bool
	parts []*part
}

type part struct {
	ledger.Part
	ctx   context.Context // of who waits for it, who need not be who writes it
	entry ledger.Entry
	err   error
	done  chan struct{}
}

// write is ledger.Write, together with others unless alone. The error is
// errTogether where the batch was refused: then nothing of it is stored.
func (c *committer) write(ctx context.Context, p ledger.Part, alone bool) (ledger.Entry, error) {
	if alone {
		return p.Ledger.Write(ctx, p.Fence, p.Tasks, p.Position)
	}
	mine := &part{Part: p, ctx: ctx, done: make(chan struct{})}
	stream := p.Ledger.Stream()
	c.mu.Lock()
	if c.streams == nil {
		c.streams = map[string]*gathering{}
	}
	g := c.streams[stream]
	if g == nil {
		g = &gathering{}
		c.streams[stream] = g
	}
	g.parts = append(g.parts, mine)
	lead := !g.busy
	g.busy = true
	c.mu.Unlock()
	if lead {
		c.drain(g)
	}
	select {
	case <-mine.done:
		return mine.entry, mine.err
	case <-ctx.Done():
		return ledger.Entry{}, fmt.Errorf("%w: %w", ledger.ErrUnknown, context.Cause(ctx))
	}
}

// drain writes until nothing has gathered any more.
func (c *committer) drain(g *gathering) {
	for {
		c.mu.Lock()
		parts := g.take()
		if len(parts) == 0 {
			g.busy = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		writeParts(parts)
	}
}

// take is as many parts as fit into one batch.
func (g *gathering) take() []*part {
	messages := 0
	for i, p := range g.parts {
		if messages += len(p.Tasks) + 1; messages > ledger.MaxTasks+1 && i > 0 {
			taken := g.parts[:i:i]
			g.parts = g.parts[i:]
			return taken
		}
	}
	taken := g.parts
	g.parts = nil
	return taken
}

// writeParts writes one batch. Where it is not known to be stored or refused,
// each part finds out by itself.
func writeParts(parts []*part) {
	if len(parts) == 1 {
		parts[0].alone()
		return
	}
	all := make([]ledger.Part, len(parts))
	for i, p := range parts {
		all[i] = p.Part
	}
	entries, err := ledger.WriteTogether(parts[0].ctx, all)
	for i, p := range parts {
		switch {
		case err == nil:
			p.entry = entries[i]
		case errors.Is(err, ledger.ErrFenced):
			p.err = errTogether
		default:
			p.alone()
			continue
		}
		close(p.done)
	}
}

func (p *part) alone() {
	p.entry, p.err = p.Ledger.Write(p.ctx, p.Fence, p.Tasks, p.Position)
	close(p.done)
}
