package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// output is how a command shows what it has found.
type output struct {
	format string
	quiet  bool
}

// The formats of output.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatLines = "jsonl"
)

// outputFlags gives a command -o and -q.
func outputFlags(cmd *cobra.Command) *output {
	o := &output{format: formatTable}
	cmd.Flags().VarP(o, "output", "o", "`FORMAT` of the output: table, json or jsonl")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "ids only")
	return o
}

// String, Set and Type make it the value of its flag.
func (o *output) String() string { return o.format }

func (o *output) Type() string { return "format" }

func (o *output) Set(s string) error {
	switch s {
	case formatTable, formatJSON, formatLines:
		o.format = s
		return nil
	}
	return fmt.Errorf("must be table, json or jsonl")
}

// column is one column of a table.
type column[T any] struct {
	title string
	right bool // numbers stand on the right
	text  func(T) string
}

// list writes items in the format asked for; id is what -q shows of each.
func list[T any](w io.Writer, o *output, items []T, id func(T) string, columns []column[T]) error {
	switch {
	case o.quiet:
		for _, item := range items {
			if _, err := fmt.Fprintln(w, clean(id(item))); err != nil {
				return err
			}
		}
		return nil
	case o.format == formatJSON:
		if items == nil {
			items = []T{}
		}
		return writeJSON(w, items, "  ")
	case o.format == formatLines:
		for _, item := range items {
			if err := writeJSON(w, item, ""); err != nil {
				return err
			}
		}
		return nil
	}
	return table(w, items, columns)
}

// table writes aligned columns under their titles.
func table[T any](w io.Writer, items []T, columns []column[T]) error {
	rows := make([][]string, 1, len(items)+1)
	widths := make([]int, len(columns))
	for _, c := range columns {
		rows[0] = append(rows[0], c.title)
	}
	for _, item := range items {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = clean(c.text(item))
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if columns[i].right {
				line.WriteString(space + cell)
			} else {
				line.WriteString(cell + space)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeJSON writes one value and a line's end, with nothing escaped that need
// not be.
func writeJSON(w io.Writer, v any, indent string) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	return e.Encode(v)
}

// clean is a text from somewhere else as it may stand on a terminal: on one
// line and without commands to it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}

// shorten cuts a text to so many characters.
func shorten(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// orDash is what stands in a table where there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when is a time in a table.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// age is how long ago a time was, with two units at most: 2.1s, 14m20s, 3h5m,
// 2d4h.
func age(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < 0:
		return "0.0s"
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
