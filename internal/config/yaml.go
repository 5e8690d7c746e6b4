package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"pelton/internal/secret"
)

// readYAML reads a file of settings into the place. The nodes are walked beside
// the structs, so that every mistake has its line; nothing is expanded, so a
// file cannot grow while it is read.
func (p *place) readYAML(file string, content []byte) {
	r := yamlReader{place: p, file: file}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return
	case err != nil:
		p.fail(syntaxError(file, content, err))
		return
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		r.fail(&second, "", "begins a second document, a file must hold one", "")
		return
	case !errors.Is(err, io.EOF):
		p.fail(syntaxError(file, content, err))
		return
	}
	r.structure(doc.Content[0], reflect.TypeFor[Settings](), nil)
}

// syntaxLine splits the parser's errors.
var (
	syntaxLine    = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)
)

// syntaxError is the parser's error in the form of all others.
func syntaxError(file string, content []byte, err error) error {
	line, why := "1", err.Error()
	if m := syntaxLine.FindStringSubmatch(why); m != nil {
		why = m[2]
		if m[1] != "" {
			line = m[1]
		}
	}
	if m := unknownAnchor.FindStringSubmatch(why); m != nil {
		// The parser tells what may be a secret, and no line.
		before, _, _ := bytes.Cut(content, []byte("*"+m[1]))
		line = strconv.Itoa(1 + bytes.Count(before, []byte("\n")))
		why = "a value that begins with * needs quotes"
	}
	return &Error{Source: file + ":" + line, Rule: "must be YAML: " + why}
}

// yamlReader walks one file.
type yamlReader struct {
	place *place
	file  string
}

func (r yamlReader) at(n *yaml.Node) string { return r.file + ":" + strconv.Itoa(max(n.Line, 1)) }

func (r yamlReader) fail(n *yaml.Node, key, rule, value string) {
	r.place.fail(&Error{Source: r.at(n), Key: key, Rule: rule, Value: value})
}

// structure reads a mapping into the keys of a struct.
func (r yamlReader) structure(n *yaml.Node, typ reflect.Type, path []string) {
	if isNull(n) {
		return
	}
	if enabled, ok := typ.FieldByName("Enabled"); ok && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
		r.leaf(n, below(path, enabled.Tag.Get("koanf")))
		return
	}
	r.mapping(n, path, func(name string, key, value *yaml.Node) {
		at := below(path, name)
		for f := range typ.Fields() {
			switch {
			case f.Tag.Get("koanf") == name:
				r.field(value, f, at)
				return
			case f.Type == reflect.TypeFor[secret.Text]() && f.Tag.Get("koanf")+fileSuffix == name:
				r.leaf(value, at)
				return
			}
		}
		r.unknown(key, at)
	})
}

func (r yamlReader) unknown(n *yaml.Node, path []string) {
	key := strings.Join(path, ".")
	if strings.Contains(path[len(path)-1], ".") {
		r.fail(n, key, "must be written with a level of its own for each name, not with dots", "")
		return
	}
	known := similar(key)
	for _, l := range schema() { // sections, too
		for i := range l.pattern[:len(l.pattern)-1] {
			if section := strings.Join(l.pattern[:i+1], "."); !strings.Contains(section, wildcard) {
				known = append(known, section)
			}
		}
	}
	r.place.fail(unknown(r.at(n), key, known, func(key string) string { return key }))
}

func (r yamlReader) field(n *yaml.Node, f reflect.StructField, path []string) {
	switch {
	case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[secret.Text]():
		r.structure(n, f.Type, path)
	case f.Type.Kind() == reflect.Map && n.Kind != yaml.ScalarNode, f.Type.Kind() == reflect.Map && f.Type.Elem().Kind() == reflect.Struct:
		r.entries(n, f.Type.Elem(), f.Tag.Get("names"), path)
	default:
		r.leaf(n, path)
	}
}

// entries reads a mapping from names. An entry of several keys is there even if
// it says nothing.
func (r yamlReader) entries(n *yaml.Node, typ reflect.Type, kind string, path []string) {
	if isNull(n) {
		return
	}
	r.mapping(n, path, func(name string, key, value *yaml.Node) {
		if err := checkNames[kind](name); err != nil {
			r.fail(key, strings.Join(path, "."), "has "+article(kind)+" that "+ruleOf(err), name)
			return
		}
		at := below(path, name)
		switch {
		case typ.Kind() == reflect.Struct:
			r.structure(value, typ, at)
			r.place.entry(strings.Join(at, "."))
		case typ.Kind() == reflect.Int && isNull(value):
			r.place.take(r.at(key), strings.Join(at, "."), "0") // as in default:8,mail
		default:
			r.leaf(value, at)
		}
	})
}

// mapping calls each for the pairs of a mapping.
func (r yamlReader) mapping(n *yaml.Node, path []string, each func(name string, key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, strings.Join(path, "."), "must be keys with their values, got "+kindOf(n), "")
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" || key.ShortTag() == "!!null" {
			r.fail(key, strings.Join(path, "."), "must have names as keys, got "+kindOf(key), "")
			continue
		}
		if first, twice := lines[key.Value]; twice {
			r.fail(key, strings.Join(below(path, key.Value), "."), "must stand once, it does already in line "+strconv.Itoa(first), "")
			continue
		}
		lines[key.Value] = key.Line
		each(key.Value, key, value)
	}
}

// leaf reads a value: what is empty is not set.
func (r yamlReader) leaf(n *yaml.Node, path []string) {
	key := strings.Join(path, ".")
	l, _, _ := find(key)
	switch {
	case isNull(n):
	case l.typ == reflect.TypeFor[JSON]() && n.Kind != yaml.ScalarNode:
		r.json(n, key)
	case n.Kind == yaml.SequenceNode && l.typ == reflect.TypeFor[[]string]():
		r.list(n, key)
	case n.Kind != yaml.ScalarNode:
		r.fail(n, key, "must be one value, got "+kindOf(n), "")
	case !isPlain(n):
		r.fail(n, key, "must have no tag of YAML's", "")
	case n.Value != "":
		r.place.take(r.at(n), key, n.Value)
	}
}

func (r yamlReader) list(n *yaml.Node, key string) {
	var out []string
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || isNull(item) || !isPlain(item) {
			r.fail(item, key, "must be a list of texts, got "+kindOf(item)+" in it", "")
			return
		}
		out = append(out, item.Value)
	}
	if len(out) > 0 {
		r.place.takeList(r.at(n), key, out)
	}
}

// json reads what is written in YAML where a value of any kind may stand.
func (r yamlReader) json(n *yaml.Node, key string) {
	if why := plainData(n, jsonDepth); why != "" {
		r.fail(n, key, why, "")
		return
	}
	var v any
	err := n.Decode(&v)
	if err == nil {
		var text []byte
		if text, err = json.Marshal(v); err == nil {
			r.place.take(r.at(n), key, string(text))
			return
		}
	}
	r.fail(n, key, "must be what JSON can say, with texts as keys", "")
}

// jsonDepth bounds the nesting; a task's body may be no deeper.
const jsonDepth = 32

// plainData says why a node cannot be JSON, or "".
func plainData(n *yaml.Node, depth int) string {
	switch {
	case depth == 0:
		return "must not be nested deeper than " + strconv.Itoa(jsonDepth) + " levels"
	case n.Kind == yaml.AliasNode:
		return "must have no aliases of YAML's"
	case n.Kind == yaml.ScalarNode && !isNull(n) && !isPlain(n):
		return "must have no tag of YAML's"
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && (child.Kind != yaml.ScalarNode || child.ShortTag() != "!!str") {
			return "must have texts as keys"
		}
		if why := plainData(child, depth-1); why != "" {
			return why
		}
	}
	return ""
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// isPlain reports whether a value is its text.
func isPlain(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return true
	}
	return false
}

// kindOf says what stands in a place, never what it holds.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias of YAML's, which is not followed"
	case yaml.DocumentNode:
		return "a document"
	case yaml.ScalarNode:
		if isNull(n) {
			return "nothing"
		}
	}
	return "a single value"
}

// below is a path with one name more, and memory of its own.
func below(path []string, name string) []string { return append(slices.Clone(path), name) }
