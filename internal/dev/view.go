package dev

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"pelton/edges/emit"
	"pelton/edges/ingest"
	"pelton/edges/produce"
	"pelton/engine"
	"pelton/engine/wire"
	"pelton/schedules"
)

// view writes one line for each step of each message, and on a terminal a last
// line with the rates. Its methods may be called from any goroutine.
type view struct {
	out      io.Writer
	terminal bool
	quiet    bool

	mu       sync.Mutex
	last     string // shown below everything, on a terminal
	counts   counts
	progress time.Time // when a count last changed
	err      error     // the first of a write
	broken   chan error
}

// counts are what has been seen so far.
type counts struct {
	produced, lost, ingested, finished, emitted, dead, retried int
}

func newView(out io.Writer, terminal, quiet bool) *view {
	return &view{out: out, terminal: terminal, quiet: quiet, progress: time.Now(), broken: make(chan error, 1)}
}

func (v *view) banner(b *brokers) {
	v.mu.Lock()
	defer v.mu.Unlock()
	where := "temporary files (--store DIR keeps them)"
	if b.kept {
		where = "files in " + b.store
	}
	v.write("pelton dev   everything in this process, %s\n", where)
	for _, taken := range b.taken {
		v.write("  note        %s\n", taken)
	}
	v.write("  nats        %s\n", b.server.URL())
	v.write("  kafka       %s   topics %s, %s\n", b.kafka[0], commandsTopic, resultsTopic)
	v.write("  durability  nats: one replica, sync_interval %s: a power cut may lose the last second; kafka: an imitation, %s\n", syncInterval, kafkaDurability(b.kept))
	v.write("%s", b.exports())
	v.write("  try         nats pub -J pelton.task.%s.print '{\"message\":\"hi\"}'\n\n", queue)
}

func kafkaDurability(kept bool) string {
	if kept {
		return "each write synced"
	}
	return "in memory"
}

// write writes to the view. Where nobody can read it any more the run ends.
func (v *view) write(format string, args ...any) {
	if _, err := fmt.Fprintf(v.out, format, args...); err != nil && v.err == nil {
		v.err = fmt.Errorf("stdout: %w", err)
		v.broken <- v.err
	}
}

// line writes one step.
func (v *view) line(step, format string, args ...any) {
	if v.quiet {
		return
	}
	v.erase()
	v.write(" %s  %-8s ", time.Now().Format("15:04:05.000"), step)
	v.write(format, args...)
	v.write("\n")
	v.redraw()
}

func (v *view) moved() { v.progress = time.Now() }

func (v *view) produced(d produce.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d.Err != nil {
		v.counts.lost++
		v.line("LOST", "%s: %v", d.Topic, d.Err)
		return
	}
	v.counts.produced++
	v.moved()
	v.line("record", "%s/%d@%d", d.Topic, d.Partition, d.Offset)
}

func (v *view) ingested(batch ingest.Batch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.moved()
	for _, t := range batch.Tasks {
		v.counts.ingested++
		v.line("task", "%s/%d@%d → %s  %s in %s", batch.Topic, batch.Partition, t.Offset, t.ID, t.Task, batch.Queue)
	}
}

func (v *view) occurred(o schedules.Occurrence) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.moved()
	if o.Outcome == schedules.Fired {
		v.line("beat", "%s → %s  %s in %s", o.Entry, o.ID, o.Task, o.Queue)
	} else {
		v.line("skipped", "%s  %s", o.ID, o.Outcome)
	}
}

func (v *view) record(r *engine.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.moved()
	took := r.FinishedAt.Sub(r.StartedAt).Round(10 * time.Microsecond)
	switch r.State {
	case wire.StateSucceeded:
		v.counts.finished++
		v.line("ok", "%s  %s  %s  attempt %d", r.ID, r.Task, took, r.Attempt)
	case wire.StateRetrying:
		v.counts.retried++
		v.line("retry", "%s  %s  attempt %d at %s: %s", r.ID, r.Task, r.Attempt, r.ETA.Local().Format("15:04:05.000"), r.Error.Message)
	case wire.StateFailed:
		v.counts.finished++
		v.counts.dead++
		v.line("DEAD", "%s  %s  attempt %d  %s: %s", r.ID, r.Task, r.Attempt, r.Error.Type, r.Error.Message)
	default:
		why := ""
		if r.Error != nil {
			why = ": " + r.Error.Message
		}
		v.line(string(r.State), "%s  %s%s", r.ID, r.Task, why)
	}
}

func (v *view) emitted(e emit.Emitted) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if strings.HasPrefix(e.TaskID, commandsTopic+"-") {
		v.counts.emitted++ // not what others have sent beside the producer
	}
	v.moved()
	v.line("result", "%s → %s/%d@%d  %s", e.TaskID, e.Topic, e.Partition, e.Offset, e.State)
}

// printer is where the task `print` prints.
func (v *view) printer() io.Writer { return printer{v} }

type printer struct{ v *view }

func (p printer) Write(b []byte) (int, error) {
	p.v.mu.Lock()
	defer p.v.mu.Unlock()
	p.v.line("print", "%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

// status shows the rates once in a while, on a terminal. The function returned
// ends it and may be called again.
func (v *view) status(every time.Duration) (stop func()) {
	if !v.terminal {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // ended by stop
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.tick(ctx, every)
	}()
	return func() {
		cancel()
		<-done
	}
}

func (v *view) tick(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before counts
	for {
		select {
		case <-ctx.Done():
			v.mu.Lock()
			v.erase()
			v.last = ""
			v.mu.Unlock()
			return
		case <-tick.C:
		}
		v.mu.Lock()
		now, seconds := v.counts, every.Seconds()
		v.erase()
		v.last = fmt.Sprintf("── %.0f in/s  %.0f done/s  %d under way  %d retried  %d dead ── ctrl-c to stop",
			float64(now.produced-before.produced)/seconds, float64(now.finished-before.finished)/seconds,
			now.produced-now.emitted, now.retried, now.dead)
		v.redraw()
		v.mu.Unlock()
		before = now
	}
}

// erase removes the last line, redraw writes it again.
func (v *view) erase() {
	if v.last != "" {
		v.write("\r\x1b[K")
	}
}

func (v *view) redraw() {
	if v.last != "" {
		v.write("%s", v.last)
	}
}

// settle waits until everything produced is emitted, or nothing moves for a
// while.
func (v *view) settle(ctx context.Context, quiet time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		v.mu.Lock()
		done := v.counts.emitted >= v.counts.produced || time.Since(v.progress) > quiet
		v.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (v *view) total(t total) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.write("\ncounted from topics and streams: %s\n", t)
	return v.err
}
