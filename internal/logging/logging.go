// Package logging makes the logger of a process: for people on a terminal, as
// JSON for everything that collects logs.
//
// It stands beside the path. A command makes one logger and passes it on; no
// package has one of its own.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// Format is the form of the lines.
type Format string

// The formats.
const (
	// Auto is Console on a terminal and JSON elsewhere. The empty Format is it too.
	Auto Format = "auto"
	// Console is one line for people, in color on a terminal.
	Console Format = "console"
	// JSON is one object a line: time, level, msg, and the attributes.
	JSON Format = "json"
)

// Options say how a logger writes. The zero value writes from level info on, in
// the form that suits the writer.
type Options struct {
	// Level is the least level that is written; it may change while the logger
	// is in use. Info unless set.
	Level slog.Leveler
	// Format of the lines; Auto unless set.
	Format Format
	// NoColor keeps color off a terminal, too.
	NoColor bool
}

// ParseLevel reads a level as a configuration has it: debug, info, warn or
// error.
func ParseLevel(s string) (slog.Level, error) {
	level, ok := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[s]
	if !ok {
		return 0, fmt.Errorf("level: %q: must be debug, info, warn or error", s)
	}
	return level, nil
}

// New is a logger that writes whole lines to w, from any goroutine.
func New(w io.Writer, opts Options) *slog.Logger {
	if opts.Level == nil {
		opts.Level = slog.LevelInfo
	}
	terminal := IsTerminal(w)
	if opts.Format == Console || opts.Format != JSON && terminal {
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level:      opts.Level,
			TimeFormat: "15:04:05.000",
			NoColor:    opts.NoColor || !terminal,
		}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: opts.Level, ReplaceAttr: readable}))
}

// IsTerminal reports whether somebody may be looking at w.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readable writes durations as people do; JSON would have them in nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if d, ok := a.Value.Any().(time.Duration); ok {
		return slog.String(a.Key, d.String())
	}
	return a
}
