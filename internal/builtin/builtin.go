// Package builtin is the tasks that every `pelton worker` runs: enough to try a
// queue, to test a setup, and to look at what comes out of an edge.
//
// On the path it is a handler like any other, called by the worker between
// fetch and settle.
package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"pelton/engine"
)

// Register gives a worker the built-in tasks. It panics where the worker
// already has a handler of one of the names.
//
//   - print writes its body to out as one line of compact JSON and returns it.
//     Lines are whole, whoever else prints. A write that fails fails the attempt.
//   - echo returns its body.
//   - add returns the sum of the numbers a and b of its body, exactly where both
//     are whole.
func Register(w *engine.Worker, out io.Writer) {
	p := &printer{out: out}
	engine.HandleRaw(w, "print", p.print)
	engine.HandleRaw(w, "echo", echo)
	engine.Handle(w, add, sum)
}

// printer writes one line at a time.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

// print does not heed its context while out takes no more: a line that is begun
// is ended.
func (p *printer) print(ctx context.Context, m *engine.Message) ([]byte, error) {
	line, err := compact(m.Body)
	if err != nil {
		return nil, engine.Permanent(fmt.Errorf("body: %w", err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if _, err := p.out.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	return line, nil
}

// compact is a body as one line, for every reader: what JSON allows within a
// string but some take for the end of a line or for a command to the terminal is
// escaped.
func compact(body []byte) ([]byte, error) {
	var buf bytes.Buffer
	if err := json.Compact(&buf, body); err != nil {
		return nil, err
	}
	line := buf.Bytes()
	if bytes.IndexFunc(line, harmful) < 0 {
		return line, nil
	}
	out := make([]byte, 0, len(line)+16)
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		if harmful(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, line[:size]...)
		}
		line = line[size:]
	}
	return out, nil
}

func harmful(r rune) bool {
	return r >= 0x7f && r <= 0x9f || r == 0x2028 || r == 0x2029
}

func echo(_ context.Context, m *engine.Message) ([]byte, error) { return m.Body, nil }

// addition is the body of add.
type addition struct {
	A json.Number `json:"a"`
	B json.Number `json:"b"`
}

// Validate refuses a body without both numbers.
func (in addition) Validate() error {
	for name, n := range map[string]json.Number{"a": in.A, "b": in.B} {
		if n == "" {
			return fmt.Errorf("%s must be a number", name)
		}
	}
	return nil
}

var add = engine.NewTask[addition, json.Number]("add")

func sum(_ context.Context, in addition) (json.Number, error) {
	if whole(in.A) && whole(in.B) {
		a, okA := new(big.Int).SetString(in.A.String(), 10)
		b, okB := new(big.Int).SetString(in.B.String(), 10)
		if okA && okB {
			return json.Number(a.Add(a, b).String()), nil
		}
	}
	a, errA := in.A.Float64()
	b, errB := in.B.Float64()
	total := a + b
	if errA != nil || errB != nil || math.IsInf(total, 0) {
		return "", engine.Permanent(fmt.Errorf("a, b and their sum must lie within %g", math.MaxFloat64))
	}
	return json.Number(strconv.FormatFloat(total, 'g', -1, 64)), nil
}

func whole(n json.Number) bool { return !strings.ContainsAny(n.String(), ".eE") }
