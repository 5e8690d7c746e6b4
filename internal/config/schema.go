package config

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"pelton/internal/secret"
)

// any name, in the pattern of a key.
const wildcard = "*"

// leaf is a key that can be set, or a pattern of such keys.
type leaf struct {
	pattern []string // worker grace, queues * max_pending
	names   []string // what the name at each wildcard is of: queue, route; of a map, its entries' last
	typ     reflect.Type
	doc     string
	ofFile  bool // names a file that holds the secret of the key before it
}

// fileSuffix makes the key of a secret that of a file that holds it.
const fileSuffix = "_file"

// isPath reports whether values are names of files.
func (l leaf) isPath() bool {
	return !l.ofFile && (strings.HasSuffix(l.String(), fileSuffix) || l.String() == "log.import")
}

// nameOfEntries is what the names in a map of plain values are of.
func (l leaf) nameOfEntries() string { return l.names[len(l.names)-1] }

func (l leaf) String() string { return strings.Join(l.pattern, ".") }

// schema is every key there is, read from the fields of Settings.
var schema = sync.OnceValue(func() []leaf {
	return leaves(reflect.TypeFor[Settings](), nil, nil)
})

func leaves(typ reflect.Type, pattern, names []string) []leaf {
	var out []leaf
	for f := range typ.Fields() {
		at, doc := append(slices.Clone(pattern), f.Tag.Get("koanf")), f.Tag.Get("doc")
		switch {
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[secret.Text]():
			out = append(out, leaves(f.Type, at, names)...)
		case f.Type.Kind() != reflect.Map:
			out = append(out, leaf{pattern: at, names: names, typ: f.Type, doc: doc})
			if f.Type == reflect.TypeFor[secret.Text]() {
				file := slices.Clone(at)
				file[len(file)-1] += fileSuffix
				out = append(out, leaf{pattern: file, names: names, typ: reflect.TypeFor[string](), doc: doc, ofFile: true})
			}
		default:
			named := append(slices.Clone(names), f.Tag.Get("names"))
			each := append(slices.Clone(at), wildcard)
			if f.Type.Elem().Kind() == reflect.Struct {
				out = append(out, leaves(f.Type.Elem(), each, named)...)
				continue
			}
			// A map of plain values may be written in one piece, too.
			out = append(out, leaf{pattern: at, names: named, typ: f.Type, doc: doc}, leaf{pattern: each, names: named, typ: f.Type.Elem(), doc: doc})
		}
	}
	return out
}

// find is the leaf of a key. Names are those at the wildcards.
func find(key string) (l leaf, names []string, ok bool) {
	segments := strings.Split(key, ".")
	for _, l := range schema() {
		if names, ok := l.match(segments); ok {
			return l, names, true
		}
	}
	return leaf{}, nil, false
}

func (l leaf) match(segments []string) (names []string, ok bool) {
	if len(segments) != len(l.pattern) {
		return nil, false
	}
	for i, want := range l.pattern {
		switch want {
		case wildcard:
			names = append(names, segments[i])
		case segments[i]:
		default:
			return nil, false
		}
	}
	return names, true
}

// similar is the keys that somebody may have meant who wrote this one: all of
// them, with the names that the key has where they have any.
func similar(key string) []string {
	segments := strings.Split(key, ".")
	var out []string
	for _, l := range schema() {
		pattern := slices.Clone(l.pattern)
		for i := range pattern {
			if pattern[i] == wildcard && i < len(segments) {
				pattern[i] = segments[i]
			}
		}
		if !slices.Contains(pattern, wildcard) {
			out = append(out, strings.Join(pattern, "."))
		}
	}
	return out
}
