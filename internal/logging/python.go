package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ErrInvalid is what every error about a file or its outputs is, for errors.Is.
var ErrInvalid = errors.New("invalid logging configuration")

// pythonError says what of which file breaks which rule.
type pythonError struct{ text string }

func (e *pythonError) Error() string        { return e.text }
func (e *pythonError) Is(target error) bool { return target == ErrInvalid }

// invalid has the form `logging_config.json: handlers.file.maxBytes must be …,
// got "big"`. Only plain values are shown.
func invalid(path, key, rule string, got any) error {
	text := path + ": "
	if key != "" {
		text += key + " "
	}
	text += rule
	switch got := got.(type) {
	case nil:
	case string:
		text += ", got " + strconv.Quote(got[:min(len(got), 100)])
	case float64, bool:
		text += fmt.Sprintf(", got %v", got)
	case []any:
		text += ", got a list"
	default:
		text += ", got an object"
	}
	return &pythonError{text}
}

// Python is what a configuration of Python's logging.config.dictConfig,
// version 1, says, as far as it means something here. It is not changed once it
// is read.
type Python struct {
	// Path of the file, as it is shown.
	Path string
	// Unused names what means nothing here, such as filters and the handlers
	// that send mail.
	Unused []string

	formatters map[string]*pyFormatter
	handlers   map[string]pyHandler
	loggers    map[string]pyLogger // the root's name is ""
}

type pyFormatter struct {
	json   bool
	layout *layout // nil for the form that the settings name
}

type pyHandler struct {
	least     slog.Level
	formatter *pyFormatter
	discard   bool
	stdout    bool
	filename  string
	anew      bool
	maxBytes  int64
	backups   int
}

type pyLogger struct {
	level     slog.Level
	hasLevel  bool
	handlers  []string
	propagate bool
}

// maxFile is the size from which on a file is none that anybody wrote.
const maxFile = 1 << 20

// ReadPython reads a file. An error is an [ErrInvalid].
func ReadPython(path string) (*Python, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, invalid(path, "", "must be a file that can be read: "+err.Error(), nil)
	case info.Size() > maxFile || !info.Mode().IsRegular():
		return nil, invalid(path, "", "must be a file of at most 1 MiB", nil)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, invalid(path, "", "must be a file that can be read: "+err.Error(), nil)
	}
	return ParsePython(path, b)
}

// ParsePython reads the content of a file; path is for messages.
func ParsePython(path string, content []byte) (*Python, error) {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	var root map[string]any
	if err := json.Unmarshal(content, &root); err != nil {
		return nil, notJSON(path, content, err)
	}
	r := &reader{path: path, p: &Python{
		Path: path, formatters: map[string]*pyFormatter{}, handlers: map[string]pyHandler{}, loggers: map[string]pyLogger{},
	}}
	r.read(table{r, "", root})
	if r.err != nil {
		return nil, r.err
	}
	return r.p, nil
}

func notJSON(path string, content []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return invalid(path, "", "must be a JSON object", nil)
	}
	// The offset counts the byte that was wrong, where there was one.
	before := content[:min(max(syntax.Offset-1, 0), int64(len(content)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:]))) + 1
	return invalid(fmt.Sprintf("%s:%d:%d", path, line, column), "", "is not JSON: "+syntax.Error(), nil)
}

// reader goes through a configuration and keeps the first error.
type reader struct {
	path    string
	p       *Python
	defined map[string]any // the handlers, those too that mean nothing here
	err     error
}

func (r *reader) fail(key, rule string, got any) {
	if r.err == nil {
		r.err = invalid(r.path, key, rule, got)
	}
}

func (r *reader) unused(what string) { r.p.Unused = append(r.p.Unused, what) }

func (r *reader) read(root table) {
	if v, ok := root.m["version"].(float64); !ok || v != 1 {
		if root.m["version"] == nil {
			r.fail("version", "must be 1, and is missing", nil)
		}
		r.fail("version", "must be 1", root.m["version"])
	}
	_ = root.flag("disable_existing_loggers", true)
	if root.flag("incremental", false) {
		r.unused("incremental")
	}
	if len(root.table("filters").m) > 0 {
		r.unused("filters")
	}
	root.others("version", "disable_existing_loggers", "incremental", "filters", "formatters", "handlers", "loggers", "root")
	root.table("formatters").each(r.formatter)
	r.defined = root.table("handlers").m
	root.table("handlers").each(r.handler)
	root.table("loggers").each(r.logger)
	if root.m["root"] != nil {
		r.logger("", root.table("root"))
	}
	r.adopt()
}

func (r *reader) formatter(name string, t table) {
	format, datefmt, style := t.text("format"), t.text("datefmt"), t.text("style")
	class, factory := t.text("class"), t.text("()")
	if format == "" {
		format = t.text("fmt")
	}
	f := &pyFormatter{}
	r.p.formatters[name] = f
	if strings.Contains(strings.ToLower(class+" "+factory+" "+format), "json") {
		f.json = true
		return
	}
	if factory != "" {
		r.unused(t.key("()") + " (" + factory + ")")
	}
	if class != "" && class != "logging.Formatter" {
		r.unused(t.key("class") + " (" + class + ")")
	}
	t.others("format", "fmt", "datefmt", "style", "class", "()", "validate")
	switch {
	case style != "" && style != "%":
		r.unused(t.key("style") + " (" + style + ")")
	case format != "" && t.flag("validate", true) && !hasField(format):
		r.fail(t.key("format"), "must have a field, such as %(message)s", format)
	case format != "":
		var unused []string
		f.layout, unused = parseLayout(format, datefmt)
		for _, what := range unused {
			r.unused("formatters." + name + " " + what)
		}
	}
}

// handler reads an output. One that means nothing here is left out, and kept by
// name, so that loggers may name it.
func (r *reader) handler(name string, t table) {
	class := t.text("class")
	if factory := t.text("()"); factory != "" {
		class = factory
	}
	h := pyHandler{least: math.MinInt}
	if level, ok := t.level("level"); ok {
		h.least = level
	}
	if formatter := t.text("formatter"); formatter != "" {
		if h.formatter = r.p.formatters[formatter]; h.formatter == nil {
			r.fail(t.key("formatter"), "must name a formatter", formatter)
		}
	}
	if len(t.list("filters")) > 0 {
		r.unused(t.key("filters"))
	}
	common := []string{"class", "()", "level", "formatter", "filters"}
	switch class {
	case "":
		r.fail(t.key("class"), "must be set", nil)
	case "logging.NullHandler":
		h.discard = true
	case "logging.StreamHandler":
		stream := t.text("stream")
		h.stdout = stream == "ext://sys.stdout"
		if stream != "" && stream != "ext://sys.stdout" && stream != "ext://sys.stderr" {
			r.unused(t.key("stream") + " (" + stream + ")")
			return
		}
		t.others(append(common, "stream")...)
	case "logging.FileHandler", "logging.handlers.RotatingFileHandler":
		known := append(slices.Clone(common), "filename", "mode", "encoding", "delay", "errors")
		r.file(&h, t)
		if class != "logging.FileHandler" {
			h.maxBytes, h.backups = t.number("maxBytes"), int(min(t.number("backupCount"), 10_000))
			known = append(known, "maxBytes", "backupCount")
		}
		t.others(known...)
	default:
		r.unused(t.path + " (" + class + ")")
		return
	}
	r.p.handlers[name] = h
}

func (r *reader) file(h *pyHandler, t table) {
	h.filename = t.text("filename")
	if h.filename == "" {
		r.fail(t.key("filename"), "must be set", nil)
	}
	switch mode := t.text("mode"); mode {
	case "", "a":
	case "w":
		h.anew = true
	default:
		r.fail(t.key("mode"), "must be a or w", mode)
	}
	switch encoding := strings.ToLower(t.text("encoding")); encoding {
	case "", "utf-8", "utf8", "ascii", "us-ascii":
	default:
		r.unused(t.key("encoding") + " (" + encoding + ")")
	}
	_, _ = t.flag("delay", false), t.text("errors")
}

func (r *reader) logger(name string, t table) {
	l := pyLogger{propagate: t.flag("propagate", true), handlers: t.list("handlers")}
	l.level, l.hasLevel = t.level("level")
	for _, h := range l.handlers {
		if _, ok := r.defined[h]; !ok {
			r.fail(t.key("handlers"), "must name handlers of the file", h)
		}
	}
	if len(t.list("filters")) > 0 {
		r.unused(t.key("filters"))
	}
	t.others("level", "handlers", "propagate", "filters")
	r.p.loggers[name] = l
}

// adopt lets a logger that no component has, such as confluent_kafka.producer,
// speak for the one that it is part of, where that one has none of its own.
func (r *reader) adopt() {
	names := map[string]bool{"": true}
	for _, aliases := range components {
		for _, alias := range aliases {
			for ; alias != ""; alias = parent(alias) {
				names[alias] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.p.loggers)) {
		above := name
		for !names[above] {
			above = parent(above)
		}
		if above == name {
			continue
		}
		if _, taken := r.p.loggers[above]; taken || above == "" {
			r.unused("loggers." + name)
			continue
		}
		r.p.loggers[above] = r.p.loggers[name]
	}
}

func parent(name string) string { return name[:max(strings.LastIndexByte(name, '.'), 0)] }

// lineage is the loggers of a component, nearest first, the root last.
func (p *Python) lineage(component string) (out []pyLogger) {
	if p == nil {
		return nil
	}
	start := ""
	for _, alias := range components[component] {
		for name := alias; name != "" && start == ""; name = parent(name) {
			if _, ok := p.loggers[name]; ok {
				start = name
			}
		}
	}
	for name := start; name != ""; name = parent(name) {
		if l, ok := p.loggers[name]; ok {
			out = append(out, l)
		}
	}
	if root, ok := p.loggers[""]; ok {
		out = append(out, root)
	}
	return out
}

// levelOf is the level that the file gives a component, if it gives any.
func (p *Python) levelOf(component string) (slog.Level, bool) {
	for _, l := range p.lineage(component) {
		if l.hasLevel {
			return l.level, true
		}
	}
	return 0, false
}

// outputsOf is the outputs that the file gives a component, each once.
func (p *Python) outputsOf(component string, opened map[string]output) (out []output) {
	var seen []string
	for _, l := range p.lineage(component) {
		for _, name := range l.handlers {
			if o, ok := opened[name]; ok && !slices.Contains(seen, name) {
				seen, out = append(seen, name), append(out, o)
			}
		}
		if !l.propagate {
			break
		}
	}
	return out
}
