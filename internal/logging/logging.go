// Package logging makes the loggers of a process: for people on a terminal, as
// JSON for everything that collects logs, or as a logging_config.json of Python
// says.
//
// It stands beside the path. A command opens the logs and passes a logger on to
// each part; no package has one of its own, and the logger of a program that
// embeds a part is never touched.
package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// Options say how a process logs. The zero value writes from level info on, in
// the form that suits the writer.
type Options struct {
	// Level is the least level that is written; info unless set.
	Level slog.Level
	// Levels are those of single components, see [Components].
	Levels map[string]slog.Level
	// Format of the lines; Auto unless set.
	Format Format
	// NoColor keeps color off a terminal, too.
	NoColor bool

	// Python is an imported file: its levels, forms and outputs. Levels win over
	// it always, Level and Format where the fields below say so.
	Python *Python
	// LevelGiven and FormatGiven tell that somebody has chosen Level and Format,
	// so that the imported file has no say in them.
	LevelGiven, FormatGiven bool
	// Folder is where the relative file names of the imported file begin; the
	// working folder unless set.
	Folder string
	// Stdout is the stream ext://sys.stdout; nothing is written there unless set.
	Stdout io.Writer
	// Zone is the time zone of lines in Python's form; the local one unless set.
	Zone *time.Location
}

// Logs are the outputs of a process and the loggers that write to them. All
// methods may be called from any goroutine.
type Logs struct {
	opts    Options
	began   time.Time
	errOut  *lines
	stdout  *lines
	files   []*logFile
	loggers map[string]*slog.Logger

	mu     sync.Mutex
	floors map[string]*floor
	python *Python // whose levels count
}

// floor is the level of a component, and what its outputs leave of it.
type floor struct {
	level slog.LevelVar
	least slog.Level
}

// Open opens what the options name. Lines go to standard error unless an
// imported file names other outputs. What of that file means nothing here is
// told in one warning. An error wraps [ErrInvalid].
func Open(stderr io.Writer, opts Options) (*Logs, error) {
	if opts.Stdout == nil {
		opts.Stdout = io.Discard
	}
	if opts.Zone == nil {
		opts.Zone = time.Local
	}
	l := &Logs{
		opts: opts, began: time.Now(), errOut: &lines{w: stderr}, stdout: &lines{w: opts.Stdout},
		loggers: map[string]*slog.Logger{}, floors: map[string]*floor{}, python: opts.Python,
	}
	usual := output{w: l.errOut, format: opts.Format, terminal: IsTerminal(stderr), least: math.MinInt}
	imported, err := l.outputs()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for name := range components {
		outputs := opts.Python.outputsOf(name, imported)
		if len(outputs) == 0 {
			outputs = []output{usual}
		}
		l.add(name, outputs)
	}
	l.SetLevels(opts.Level, opts.Levels)
	if p := opts.Python; p != nil && len(p.Unused) > 0 {
		l.Logger("logging").Warn("parts of the logging configuration mean nothing here", "file", p.Path, "unused", strings.Join(p.Unused, ", "))
	}
	return l, nil
}

func (l *Logs) add(name string, outputs []output) {
	f := &floor{least: math.MaxInt}
	h := &handler{floor: &f.level}
	for _, o := range outputs {
		f.least = min(f.least, o.least)
		h.sinks = append(h.sinks, sink{o.least, l.handler(name, o)})
	}
	l.floors[name], l.loggers[name] = f, slog.New(h)
}

// Logger is the logger of a component, one of [Components]; another name is a
// mistake of the program. Each line says its component under logger.
func (l *Logs) Logger(component string) *slog.Logger {
	logger, ok := l.loggers[component]
	if !ok {
		panic("logging: no component " + component)
	}
	return logger
}

// SetLevels changes the levels while loggers are in use, those that were made
// of them too. A root other than that of Open counts as given. Components that
// are not named go by what is above them.
func (l *Logs) SetLevels(root slog.Level, levels map[string]slog.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	given := l.opts.LevelGiven || root != l.opts.Level
	for name, f := range l.floors {
		level, ok := levels[name]
		if !ok && !given {
			level, ok = l.python.levelOf(name)
		}
		if !ok {
			level = root
		}
		f.level.Set(max(level, f.least))
	}
}

// SetPython changes the imported file whose levels of loggers the next
// [Logs.SetLevels] goes by; nil is none. Outputs, with their levels and forms,
// stay those of Open.
func (l *Logs) SetPython(p *Python) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.python = p
}

// Reopen goes on in the files that have the names now, for those who rename
// them from outside. Where one cannot be opened, its lines go where they went.
func (l *Logs) Reopen() error {
	var errs []error
	for _, f := range l.files {
		if err := f.reopen(); err != nil {
			errs = append(errs, fmt.Errorf("log file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Close closes the files. What is logged to one afterwards is lost.
func (l *Logs) Close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// output is one place where lines go.
type output struct {
	w        io.Writer
	format   Format
	terminal bool
	python   *layout // in place of format
	least    slog.Level
}

// outputs opens those of the imported file, by name.
func (l *Logs) outputs() (map[string]output, error) {
	if l.opts.Python == nil {
		return map[string]output{}, nil
	}
	out := map[string]output{}
	for name, h := range l.opts.Python.handlers {
		o := output{format: l.opts.Format, least: h.least}
		if f := h.formatter; f != nil && !l.opts.FormatGiven {
			o.python = f.layout
			if f.json {
				o.format = JSON
			}
		}
		switch {
		case h.discard:
			o.w, o.least = io.Discard, math.MaxInt
		case h.filename != "":
			f, err := l.openFile(h)
			if err != nil {
				return nil, invalid(l.opts.Python.Path, "handlers."+name+".filename", "must be a file that can be written: "+err.Error(), nil)
			}
			o.w = f
		case h.stdout:
			o.w, o.terminal = l.stdout, IsTerminal(l.opts.Stdout)
		default:
			o.w, o.terminal = l.errOut, IsTerminal(l.errOut.w)
		}
		out[name] = o
	}
	return out, nil
}

func (l *Logs) openFile(h pyHandler) (*logFile, error) {
	path := h.filename
	if !filepath.IsAbs(path) {
		path = filepath.Join(l.opts.Folder, path)
	}
	f, err := openFile(path, h.anew, h.maxBytes, h.backups, func(err error) {
		_, _ = fmt.Fprintf(l.errOut, "pelton: log file %s: %v\n", path, err)
	})
	if err == nil {
		l.files = append(l.files, f)
	}
	return f, err
}

// handler writes the lines of a component to an output. What the levels are is
// decided before it is asked.
func (l *Logs) handler(component string, o output) slog.Handler {
	all := slog.Level(math.MinInt)
	var h slog.Handler
	switch {
	case o.python != nil:
		return &pythonHandler{w: o.w, layout: o.python, name: component, zone: l.opts.Zone, began: l.began}
	case o.format == Console || o.format != JSON && o.terminal:
		h = tint.NewTextHandler(o.w, &tint.Options{Level: all, TimeFormat: "15:04:05.000", NoColor: l.opts.NoColor || !o.terminal})
	default:
		h = slog.NewJSONHandler(o.w, &slog.HandlerOptions{Level: all, ReplaceAttr: readable})
	}
	return h.WithAttrs([]slog.Attr{slog.String("logger", component)})
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
