package config

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"pelton/internal/secret"
)

// Value is one setting as it may be told: a secret, or the password in an
// address, is hidden.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"` // as it would be written in the environment; empty where there is none
	Source string `json:"source"`
}

// Values are all settings in the order of the struct, those among them that
// nobody has set; entries by name.
func (c *Config) Values() []Value { return c.values(reflect.ValueOf(c.Settings), "") }

func (c *Config) values(section reflect.Value, above string) []Value {
	var out []Value
	for i := range section.NumField() {
		key, v := above+section.Type().Field(i).Tag.Get("koanf"), section.Field(i)
		switch {
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[secret.Text]():
			out = append(out, c.values(v, key+".")...)
		case v.Kind() != reflect.Map:
			out = append(out, c.value(key, v))
		case v.Len() == 0 && v.Type().Elem().Kind() != reflect.Struct:
			out = append(out, Value{Key: key, Source: c.Source(key)})
		default:
			for _, name := range sortedNames(v) {
				entry := v.MapIndex(reflect.ValueOf(name))
				if at := key + "." + name; entry.Kind() == reflect.Struct {
					out = append(out, c.values(entry, at+".")...)
				} else {
					out = append(out, c.value(at, entry))
				}
			}
		}
	}
	return out
}

func sortedNames(m reflect.Value) []string {
	names := make([]string, 0, m.Len())
	for _, key := range m.MapKeys() {
		names = append(names, key.String())
	}
	slices.Sort(names)
	return names
}

// value tells one setting. What is zero and set by nobody is left to the part,
// so there is nothing to tell.
func (c *Config) value(key string, v reflect.Value) Value {
	out := Value{Key: key, Source: c.Source(key)}
	if _, ok := defaults()[key]; !ok && v.IsZero() && out.Source == fromDefaults {
		return out
	}
	if text := textOfValue(v.Interface()); text != "" {
		out.Value = shown(key, text)
	}
	return out
}

// textOfValue is textOf, with durations as people write them.
func textOfValue(v any) string {
	if d, ok := v.(time.Duration); ok {
		return shortDuration(d)
	}
	return textOf(v)
}

// shortDuration leaves out what is zero: 24h and not 24h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

// Key is a setting that there is.
type Key struct {
	Name     string // worker.grace; * stands for any name
	Variable string // PELTON_WORKER__GRACE, with <NAME> for *
	Default  string // empty where it is left to the part
	Doc      string // a sentence or two
	Secret   bool   // may stand in a file: Name_file, Variable_FILE
}

// Keys are all settings in the order of the struct.
func Keys() []Key {
	var out []Key
	for _, l := range schema() {
		if l.ofFile || l.pattern[len(l.pattern)-1] == wildcard {
			continue
		}
		out = append(out, Key{
			Name:     l.String(),
			Variable: strings.ReplaceAll(envName(l.String()), wildcard, "<NAME>"),
			Default:  defaultOf(l.String()),
			Doc:      l.doc,
			Secret:   l.typ == reflect.TypeFor[secret.Text](),
		})
	}
	return out
}

func defaultOf(key string) string {
	if value, ok := defaults()[key]; ok {
		return textOfValue(value)
	}
	return ""
}

// exampleNames are the entries in the example file.
var exampleNames = map[string]string{"queues": "default", "beat.entries": "nightly", "edges.ingest": "commands", "edges.emit": "results"}

// Example is a pelton.yaml with every setting, its meaning and its default. All
// of it is commented out: as it stands it sets nothing.
func Example() string {
	var b strings.Builder
	b.WriteString(`# The settings of Pelton. Everything is commented out and shows what holds anyway;
# take the # away, from the lines above that have no value, too, to change it.
# What has no value here is left to the part that uses it, or not used.
# A later place wins: this file, .env, .env.<environment>, the environment, flags.
`)
	writeExample(&b, reflect.TypeFor[Settings](), "", "")
	return b.String()
}

// writeExample writes the keys of a section. A line with a setting begins with #
// and no space, so that it is told from a comment.
func writeExample(b *strings.Builder, section reflect.Type, above, indent string) {
	for f := range section.Fields() {
		name := f.Tag.Get("koanf")
		key := above + name
		if above == "" {
			b.WriteString("\n")
		}
		b.WriteString(indent + "# " + f.Tag.Get("doc") + "\n" + indent + "#" + name + ":")
		switch entry, named := exampleNames[key]; {
		case named:
			b.WriteString("\n" + indent + "  #" + entry + ":\n")
			writeExample(b, f.Type.Elem(), key+".*.", indent+"    ")
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[secret.Text]():
			b.WriteString("\n")
			writeExample(b, f.Type, key+".", indent+"  ")
		default:
			b.WriteString(exampleValue(key) + "\n")
			if f.Type == reflect.TypeFor[secret.Text]() {
				b.WriteString(indent + "# The same, in a file that only its owner can read.\n" + indent + "#" + name + fileSuffix + ":\n")
			}
		}
	}
}

// exampleValue is what stands behind the colon of a key.
func exampleValue(key string) string {
	if text := defaultOf(key); text != "" {
		return " " + text
	}
	for pattern, value := range entryDefaults {
		if pattern != key {
			continue
		}
		for base, name := range exampleNames {
			if strings.HasPrefix(key, base+".") {
				return " " + textOf(value(name))
			}
		}
	}
	return ""
}

// Reference is the table of all keys in Markdown.
func Reference() string {
	var b strings.Builder
	sections := map[string]string{}
	for f := range reflect.TypeFor[Settings]().Fields() {
		sections[f.Tag.Get("koanf")] = f.Tag.Get("doc")
	}
	last := ""
	for _, k := range Keys() {
		if top, _, _ := strings.Cut(k.Name, "."); top != last {
			last = top
			b.WriteString("\n### " + top + "\n\n" + sections[top] + "\n\n| Key | Variable | Default | Meaning |\n|---|---|---|---|\n")
		}
		doc := k.Doc
		if k.Secret {
			doc += " Secret: `_file` and `_FILE` name a file."
		}
		cells := []string{code(strings.ReplaceAll(k.Name, wildcard, "<name>")), code(k.Variable), code(k.Default), strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(doc)}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}
