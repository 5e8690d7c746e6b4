package logging

import (
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// table is one object of a configuration. What it reads of the wrong type is
// the reader's error, and null counts as not set.
type table struct {
	r    *reader
	path string
	m    map[string]any
}

func (t table) key(name string) string {
	if t.path == "" {
		return name
	}
	return t.path + "." + name
}

func (t table) table(name string) table {
	m, ok := t.m[name].(map[string]any)
	if !ok && t.m[name] != nil {
		t.r.fail(t.key(name), "must be an object", t.m[name])
	}
	return table{t.r, t.key(name), m}
}

// each goes through a table of tables in order.
func (t table) each(f func(name string, t table)) {
	for _, name := range slices.Sorted(maps.Keys(t.m)) {
		if t.m[name] == nil {
			t.r.fail(t.key(name), "must be an object, and is null", nil)
		}
		f(name, t.table(name))
	}
}

func (t table) text(name string) string {
	s, ok := t.m[name].(string)
	if !ok && t.m[name] != nil {
		t.r.fail(t.key(name), "must be a text", t.m[name])
	}
	return s
}

func (t table) flag(name string, otherwise bool) bool {
	v, ok := t.m[name].(bool)
	switch {
	case t.m[name] == nil:
		return otherwise
	case !ok:
		t.r.fail(t.key(name), "must be true or false", t.m[name])
	}
	return v
}

func (t table) number(name string) int64 {
	v, ok := t.m[name].(float64)
	if t.m[name] != nil && (!ok || v < 0 || v > 1<<53 || v != math.Trunc(v)) {
		t.r.fail(t.key(name), "must be a whole number, 0 or more", t.m[name])
		return 0
	}
	return int64(v)
}

func (t table) list(name string) (out []string) {
	all, ok := t.m[name].([]any)
	if !ok && t.m[name] != nil {
		t.r.fail(t.key(name), "must be a list of names", t.m[name])
	}
	for i, v := range all {
		s, ok := v.(string)
		if !ok {
			t.r.fail(t.key(name)+"["+strconv.Itoa(i)+"]", "must be a name", v)
		}
		out = append(out, s)
	}
	return out
}

// levels are Python's names; those above error are errors here.
var levels = map[string]slog.Level{
	"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARNING": slog.LevelWarn, "WARN": slog.LevelWarn,
	"ERROR": slog.LevelError, "CRITICAL": slog.LevelError, "FATAL": slog.LevelError,
}

// level reads a name or a number from 1 to 50. It reports false for NOTSET, 0
// and what is not set: the level above counts.
func (t table) level(name string) (level slog.Level, ok bool) {
	const rule = "must be DEBUG, INFO, WARNING, ERROR, CRITICAL, NOTSET or a number from 0 to 50"
	switch v := t.m[name].(type) {
	case nil:
		return 0, false
	case float64:
		if v < 0 || v > 50 || v != math.Trunc(v) {
			t.r.fail(t.key(name), rule, v)
		}
		// Ten of Python's steps are four here, from info, 20, on.
		return min(slog.Level(math.Floor((v-20)*4/10)), slog.LevelError), v != 0
	case string:
		text := strings.ToUpper(v)
		level, ok = levels[text]
		if !ok && text != "NOTSET" {
			t.r.fail(t.key(name), rule, v)
		}
		return level, ok
	default:
		t.r.fail(t.key(name), rule, v)
		return 0, false
	}
}

// others names what is not among the known keys.
func (t table) others(known ...string) {
	for _, name := range slices.Sorted(maps.Keys(t.m)) {
		if !slices.Contains(known, name) {
			t.r.unused(t.key(name))
		}
	}
}
