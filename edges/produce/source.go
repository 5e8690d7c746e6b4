package produce

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// MaxLine is the length in bytes of the longest line that [Lines] takes,
// without its end.
const MaxLine = 1 << 20

// Source yields the messages to send, one after another. It ends by returning,
// or with an error, which ends the producer as well. Each run calls it once, and
// stops pulling when it is stopped; ctx ends then too, for a source that waits.
//
// How a message becomes the value of a record is the same for all sources: see
// the package documentation.
type Source func(ctx context.Context) iter.Seq2[string, error]

// Default repeats content without end. Where content is empty, the messages are
// "message 1", "message 2" and so on.
func Default(content string) Source {
	return func(context.Context) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for n := 1; ; n++ {
				message := content
				if message == "" {
					message = "message " + strconv.Itoa(n)
				}
				if !yield(message, nil) {
					return
				}
			}
		}
	}
}

// Literal yields each message once, in order.
func Literal(messages ...string) Source {
	messages = slices.Clone(messages)
	return func(context.Context) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for _, message := range messages {
				if !yield(message, nil) {
					return
				}
			}
		}
	}
}

// Cycle yields the messages in order and begins again after the last, without
// end. Of none it yields none. It is for a message that is to be sent at a rate
// or a number of times.
func Cycle(messages ...string) Source {
	messages = slices.Clone(messages)
	return func(context.Context) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for n := 0; len(messages) > 0; n++ {
				if !yield(messages[n%len(messages)], nil) {
					return
				}
			}
		}
	}
}

// Lines yields the lines of r as they arrive, each a message, until r ends. The
// ends, \n or \r\n, are cut off and empty lines are left out. A line longer than
// [MaxLine] is an error that names it by its number, counted from 1.
//
// Reading cannot be interrupted: where r blocks when the run ends, as a terminal
// does, one goroutine waits in r.Read until that returns. What it reads then is
// lost.
func Lines(r io.Reader) Source {
	return func(ctx context.Context) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			lines := make(chan line)
			go func() {
				defer close(lines)
				readLines(r, func(l line) bool {
					select {
					case lines <- l:
						return true
					case <-ctx.Done():
						return false
					}
				})
			}()
			for {
				select {
				case l, open := <-lines:
					if !open || !yield(l.text, l.err) || l.err != nil {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

type line struct {
	text string
	err  error
}

func readLines(r io.Reader, yield func(line) bool) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, MaxLine+len("\r\n"))
	n := 0
	for scanner.Scan() {
		n++
		text := scanner.Text()
		if len(text) > MaxLine {
			yield(line{err: tooLong(n)})
			return
		}
		if strings.TrimSpace(text) != "" && !yield(line{text: text}) {
			return
		}
	}
	switch err := scanner.Err(); {
	case err == nil:
	case errors.Is(err, bufio.ErrTooLong):
		yield(line{err: tooLong(n + 1)})
	default:
		yield(line{err: fmt.Errorf("line %d: %w", n+1, err)})
	}
}

func tooLong(n int) error {
	return fmt.Errorf("line %d: must have at most %d bytes", n, MaxLine)
}
