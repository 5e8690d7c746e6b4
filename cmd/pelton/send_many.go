package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/wire"
	"pelton/internal/config"
	"pelton/internal/logging"
)

const (
	// What is read ahead of the broker.
	chunkLines = 5000
	chunkBytes = 8 << 20
	// toldLines is how many refused lines are told one by one.
	toldLines = 20
)

// sent is a task that was sent, or was not.
type sent struct {
	Line  int    `json:"line"` // from 1, of the input or of --count
	ID    string `json:"id,omitempty"`
	Error string `json:"error,omitempty"`
}

// sentOutput writes what was sent, as it becomes known.
type sentOutput struct {
	a     *app
	f     sendFlags
	w     *bufio.Writer
	all   []sent // for one JSON value
	n     int
	bar   bool // there is a line on the terminal
	shown time.Time
}

func (a *app) sentOutput(f sendFlags) *sentOutput {
	return &sentOutput{a: a, f: f, w: bufio.NewWriter(a.stdout), shown: time.Now()}
}

func (o *sentOutput) add(s sent) error {
	if s.Error == "" {
		o.n++
	}
	switch {
	case o.f.noIDs:
		return nil
	case o.f.show.format == formatJSON:
		o.all = append(o.all, s)
		return nil
	case o.f.show.format == formatLines && !o.f.show.quiet:
		return writeJSON(o.w, s, "")
	case s.Error != "":
		return nil
	}
	_, err := fmt.Fprintln(o.w, s.ID)
	return err
}

// flush shows what there is, and on a terminal how far it came.
func (o *sentOutput) flush() error {
	if time.Since(o.shown) > time.Second && logging.IsTerminal(o.a.stderr) && (o.f.noIDs || !logging.IsTerminal(o.a.stdout)) {
		o.bar, o.shown = true, time.Now()
		_, _ = fmt.Fprintf(o.a.stderr, "\r%d tasks sent", o.n)
	}
	return o.w.Flush()
}

func (o *sentOutput) end() error {
	if o.bar {
		_, _ = fmt.Fprintf(o.a.stderr, "\r%d tasks sent\n", o.n)
	}
	if o.f.show.format == formatJSON && !o.f.noIDs {
		if o.all == nil {
			o.all = []sent{}
		}
		if err := writeJSON(o.w, o.all, "  "); err != nil {
			return err
		}
	}
	return o.w.Flush()
}

// sendCount sends one body many times.
func (a *app) sendCount(ctx context.Context, c *engine.Client, f sendFlags, task string, body []byte, opts []engine.SendOption, out *sentOutput) error {
	l := lineSender{a: a, f: f, task: task, opts: opts, out: out, word: "task"}
	for left := f.count; left > 0; {
		n := min(left, chunkLines)
		chunk := make([]line, n)
		for i := range chunk {
			chunk[i] = line{number: f.count - left + i + 1, body: body}
		}
		left -= n
		if !l.send(ctx, c, chunk) {
			break
		}
	}
	return errors.Join(l.err(), out.end())
}

// sendLines sends each line of the input. The timeout is for each answer of the
// broker, since nobody knows how long the input goes on.
func (a *app) sendLines(cmd *cobra.Command, cfg *config.Config, f sendFlags, args []string, opts []engine.SendOption) error {
	in := a.stdin
	if len(args) > 1 && args[1] != "-" {
		name, isFile := strings.CutPrefix(args[1], "@")
		if !isFile {
			return &usageError{err: fmt.Errorf("with --lines BODY must be @FILE or -, got %q", args[1])}
		}
		file, err := os.Open(name)
		if err != nil {
			return &usageError{err: err}
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	return a.ask(cmd, cfg, 0, func(ctx context.Context, c *engine.Client) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		l := lineSender{a: a, f: f, task: args[0], opts: opts, out: a.sentOutput(f), word: "line"}
		lines, readErr := readLines(ctx, in)
		for chunk := nextLines(ctx, lines, f.atomic); len(chunk) > 0; chunk = nextLines(ctx, lines, f.atomic) {
			if !l.within(ctx, c, chunk) {
				cancel()
				break
			}
		}
		err := l.err()
		if err == nil {
			err = *readErr
		}
		if err == nil {
			err = ctx.Err()
		}
		return errors.Join(err, l.out.end())
	})
}

// line is one line of the input.
type line struct {
	number int
	body   []byte
	err    error // it cannot be a task
}

// readLines reads until the input ends, no further ahead than the channel
// holds. The error is that of the input; it is to be read once the channel is
// closed. Empty lines are passed over. A read that never ends outlives ctx.
func readLines(ctx context.Context, in io.Reader) (<-chan line, *error) {
	lines, readErr := make(chan line, chunkLines), new(error)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(in, wire.DefaultLimits.Bytes+2)
		for number := 1; ; number++ {
			l, err := readLine(r)
			l.number = number
			if len(l.body) > 0 || l.err != nil {
				select {
				case lines <- l:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					*readErr = fmt.Errorf("line %d: %w", number, err)
				}
				return
			}
		}
	}()
	return lines, readErr
}

// readLine reads one line, and of one that is too long only that it is.
func readLine(r *bufio.Reader) (l line, err error) {
	text, err := r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line{body: bytes.Clone(bytes.TrimSpace(text))}, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = r.ReadSlice('\n')
	}
	limit := wire.DefaultLimits.Bytes
	return line{err: fmt.Errorf("%w: %w", engine.ErrTooLarge, &wire.BodyError{
		Rule: fmt.Sprintf("must be at most %d bytes", limit), Have: fmt.Sprintf("more than %d bytes", limit),
	})}, err
}

// nextLines is the lines that are there, at least one until the input ends, or
// all of them.
func nextLines(ctx context.Context, lines <-chan line, all bool) []line {
	var chunk []line
	for size := 0; all || len(chunk) < chunkLines && size < chunkBytes; {
		if len(chunk) > 0 && !all {
			select {
			case l, open := <-lines:
				if !open {
					return chunk
				}
				chunk, size = append(chunk, l), size+len(l.body)
				continue
			default:
				return chunk // it may take long until the next
			}
		}
		select {
		case l, open := <-lines:
			if !open || all && len(chunk) > 1000 {
				return chunk // one too many is refused by the rule
			}
			chunk, size = append(chunk, l), size+len(l.body)
		case <-ctx.Done():
			return nil
		}
	}
	return chunk
}

// lineSender sends lines and counts those that were not sent.
type lineSender struct {
	a    *app
	f    sendFlags
	task string
	opts []engine.SendOption
	out  *sentOutput
	word string // what a body is called
	all  int

	failed int
	first  error
	fatal  error
}

func (l *lineSender) within(ctx context.Context, c *engine.Client, chunk []line) bool {
	if timeout := *l.f.timeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return l.send(ctx, c, chunk)
}

// send sends a chunk. It reports false when the rest has no chance.
func (l *lineSender) send(ctx context.Context, c *engine.Client, chunk []line) bool {
	bodies := make([][]byte, 0, len(chunk))
	open := make([]line, 0, len(chunk))
	errs := map[int]error{}
	for _, at := range chunk {
		if at.err != nil {
			errs[at.number] = at.err
			if l.f.atomic {
				l.fatal = fmt.Errorf("line %d: nothing was sent: %w", at.number, at.err)
				return false
			}
			continue
		}
		bodies, open = append(bodies, at.body), append(open, at)
	}
	l.all += len(chunk)
	results, err := c.SendManyRaw(ctx, l.f.queue, l.task, bodies, l.opts...)
	var many *engine.ManyError
	if err != nil && !errors.As(err, &many) {
		l.fatal = err
		return false
	}
	ids := map[int]string{}
	goOn := true
	if many != nil {
		for _, f := range many.Failed {
			errs[open[f.Index].number] = f.Err
			var body *wire.BodyError
			goOn = goOn && errors.As(f.Err, &body)
		}
	}
	for i, r := range results {
		if r != nil {
			ids[open[i].number] = r.ID()
		}
	}
	for _, at := range chunk {
		if err := l.tell(at.number, ids[at.number], errs[at.number]); err != nil {
			l.fatal = err
			return false
		}
	}
	if err := l.out.flush(); err != nil {
		l.fatal = err
		return false
	}
	return goOn
}

// tell says what became of one line.
func (l *lineSender) tell(number int, id string, err error) error {
	if err == nil {
		return l.out.add(sent{Line: number, ID: id})
	}
	l.failed++
	if l.first == nil {
		l.first = fmt.Errorf("%s %d: %w", l.word, number, err)
	}
	if l.failed <= toldLines && l.word == "line" {
		l.a.say("line %d: %v", number, err)
	}
	return l.out.add(sent{Line: number, Error: err.Error()})
}

// err is what the command ends with.
func (l *lineSender) err() error {
	if l.fatal != nil || l.failed == 0 {
		return l.fatal
	}
	return fmt.Errorf("%d of %d tasks were not sent; %w", l.failed, l.all, l.first)
}
