package logging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// layout is a Python format, read once.
type layout struct {
	pieces  []piece
	datefmt string // "" for 2026-11-22 22:10:01,204
	source  bool   // some piece needs the place in the code
}

// piece is text, or a field with its fmt verb.
type piece struct {
	text  string
	field string
	verb  string
}

// line is what the fields of one line are taken from.
type line struct {
	at      time.Time
	began   time.Time
	level   slog.Level
	name    string
	message string
	datefmt string
	frame   runtime.Frame
}

// fields are those of a LogRecord that have a counterpart. A process has one
// thread's name here, as a script without threads does.
var fields = map[string]func(*line) any{
	"name":            func(l *line) any { return l.name },
	"levelno":         func(l *line) any { no, _ := pythonLevel(l.level); return no },
	"levelname":       func(l *line) any { _, name := pythonLevel(l.level); return name },
	"pathname":        func(l *line) any { return l.frame.File },
	"filename":        func(l *line) any { return path.Base(l.frame.File) },
	"module":          func(l *line) any { return strings.TrimSuffix(path.Base(l.frame.File), ".go") },
	"lineno":          func(l *line) any { return l.frame.Line },
	"funcName":        func(l *line) any { return l.frame.Function[strings.LastIndexByte(l.frame.Function, '.')+1:] },
	"created":         func(l *line) any { return float64(l.at.UnixMicro()) / 1e6 },
	"asctime":         func(l *line) any { return asctime(l.at, l.datefmt) },
	"msecs":           func(l *line) any { return l.at.Nanosecond() / 1e6 },
	"relativeCreated": func(l *line) any { return float64(l.at.Sub(l.began).Microseconds()) / 1e3 },
	"thread":          func(*line) any { return os.Getpid() },
	"threadName":      func(*line) any { return "MainThread" },
	"process":         func(*line) any { return os.Getpid() },
	"processName":     func(*line) any { return "MainProcess" },
	"taskName":        func(*line) any { return "None" },
	"message":         func(l *line) any { return l.message },
}

// conversion is one %(field)s of a format, with the flags that Go has too.
var conversion = regexp.MustCompile(`%(?:%|\(([^)]*)\)([-+ #0]*)(\d{0,3})((?:\.\d{1,3})?)([a-zA-Z]))`)

// parseLayout reads a format of Python's style %. Conversions that mean nothing
// here are told, and stand in the lines as they are written.
func parseLayout(format, datefmt string) (out *layout, unused []string) {
	out = &layout{datefmt: datefmt}
	at := 0
	for _, m := range conversion.FindAllStringSubmatchIndex(format, -1) {
		out.pieces = append(out.pieces, piece{text: format[at:m[0]]})
		at = m[1]
		whole := format[m[0]:m[1]]
		if whole == "%%" {
			out.pieces = append(out.pieces, piece{text: "%"})
			continue
		}
		p := piece{field: format[m[2]:m[3]]}
		get, known := fields[p.field]
		if known {
			p.verb = verb(get(&line{}), format[m[4]:m[5]], format[m[6]:m[9]], format[m[10]:m[11]])
		}
		if p.verb == "" {
			unused = append(unused, whole)
			p = piece{text: whole}
		}
		out.source = out.source || slices.Contains([]string{"pathname", "filename", "module", "lineno", "funcName"}, p.field)
		out.pieces = append(out.pieces, p)
	}
	out.pieces = append(out.pieces, piece{text: format[at:]})
	_, unknown := strftime(time.Time{}, datefmt)
	return out, append(unused, unknown...)
}

// hasField reports whether a format tells anything of a line. Python refuses one
// that does not.
func hasField(format string) bool {
	return slices.ContainsFunc(conversion.FindAllString(format, -1), func(s string) bool { return s != "%%" })
}

// verb is Go's for a conversion of Python's, or "" where it does not suit the
// value.
func verb(value any, flags, width, kind string) string {
	_, isText := value.(string)
	switch {
	case kind == "s" || kind == "r" || kind == "a":
		// A zero in front of a width pads numbers alone.
		return "%" + strings.ReplaceAll(flags, "0", "") + width + "v"
	case isText:
		return ""
	case slices.Contains([]string{"d", "i", "u"}, kind):
		return "%" + flags + width + "d"
	case slices.Contains([]string{"e", "E", "f", "F", "g", "G"}, kind):
		return "%" + flags + width + kind
	}
	return ""
}

func (l *layout) append(b []byte, ln *line) []byte {
	for _, p := range l.pieces {
		if p.field == "" {
			b = append(b, p.text...)
			continue
		}
		value := fields[p.field](ln)
		switch v := value.(type) {
		case float64:
			switch p.verb[len(p.verb)-1] {
			case 'd':
				value = int64(v)
			case 'v':
				value = strconv.FormatFloat(v, 'f', -1, 64)
			}
		case int:
			if strings.IndexByte("dv", p.verb[len(p.verb)-1]) < 0 {
				value = float64(v)
			}
		}
		b = fmt.Appendf(b, p.verb, value)
	}
	return append(b, '\n')
}

// pythonLevel is the number and the name that a Python user knows.
func pythonLevel(level slog.Level) (int, string) {
	switch {
	case level < slog.LevelInfo:
		return 10, "DEBUG"
	case level < slog.LevelWarn:
		return 20, "INFO"
	case level < slog.LevelError:
		return 30, "WARNING"
	case level < slog.LevelError+4:
		return 40, "ERROR"
	}
	return 50, "CRITICAL"
}

func asctime(at time.Time, datefmt string) string {
	if datefmt == "" {
		return at.Format("2006-01-02 15:04:05,000")
	}
	text, _ := strftime(at, datefmt)
	return text
}

// directives are those of strftime, in Go's layouts.
var directives = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
	'p': "PM", 'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon", 'j': "002", 'z': "-0700", 'Z': "MST",
	'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06",
	'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
}

// strftime formats a time; directives that it does not know stay as they are.
func strftime(at time.Time, format string) (text string, unknown []string) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch layout, ok := directives[format[i]]; {
		case ok:
			b.WriteString(at.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		case format[i] == 's':
			b.WriteString(strconv.FormatInt(at.Unix(), 10))
		default:
			b.WriteString(format[i-1 : i+1])
			unknown = append(unknown, format[i-1:i+1])
		}
	}
	return b.String(), unknown
}

// pythonHandler writes lines in a form of Python's. The attributes follow the
// message, as they would stand in it there.
type pythonHandler struct {
	w      io.Writer
	layout *layout
	name   string
	zone   *time.Location
	began  time.Time
	attrs  []byte
	group  string
}

func (*pythonHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *pythonHandler) Handle(_ context.Context, r slog.Record) error {
	message := append([]byte(r.Message), h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		message = appendAttr(message, h.group, a)
		return true
	})
	ln := &line{at: r.Time.In(h.zone), began: h.began, level: r.Level, name: h.name, message: string(message), datefmt: h.layout.datefmt}
	if h.layout.source && r.PC != 0 {
		ln.frame, _ = runtime.CallersFrames([]uintptr{r.PC}).Next()
	}
	_, err := h.w.Write(h.layout.append(nil, ln))
	return err
}

func (h *pythonHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		out.attrs = appendAttr(out.attrs, h.group, a)
	}
	return &out
}

func (h *pythonHandler) WithGroup(name string) slog.Handler {
	out := *h
	if name != "" {
		out.group += name + "."
	}
	return &out
}

// appendAttr writes ` key=value`, the value in quotes where it would not be
// told from what stands around it.
func appendAttr(b []byte, group string, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range value.Group() {
			b = appendAttr(b, group, member)
		}
		return b
	}
	if a.Equal(slog.Attr{}) {
		return b
	}
	text := value.String()
	if value.Kind() == slog.KindTime {
		text = value.Time().Format(time.RFC3339Nano)
	}
	if needsQuotes(text) {
		text = strconv.Quote(text)
	}
	return append(bytes.Join([][]byte{b, []byte(group + a.Key + "=")}, []byte(" ")), text...)
}

func needsQuotes(s string) bool {
	return s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '=' || r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
}
