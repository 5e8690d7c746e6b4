package config

import (
	"cmp"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// rank orders the places: a greater one wins.
type rank int

const (
	rankDefault rank = iota
	rankYAML
	rankDotenv
	rankDotenvOfEnv
	rankEnviron
	rankFlags
)

// origin is where a value came from.
type origin struct {
	source string
	rank   rank
}

// place is what one place says, as far as it is right.
type place struct {
	rank    rank
	dir     string         // relative paths start there
	without []string       // keys that are passed over, with all below them
	values  map[string]any // by key
	sources map[string]string
	forms   map[string]string // the key as it is written, which may be that of a file
	said    []string          // mistakes are told in the order of the place
	errs    []error
	warn    func(text string)
}

func (l *loader) newPlace(r rank, dir string) *place {
	return &place{
		rank: r, dir: dir, without: l.opts.Without, warn: l.warn,
		values: map[string]any{}, sources: map[string]string{}, forms: map[string]string{},
	}
}

func (p *place) fail(err error) { p.errs = append(p.errs, err) }

// take reads one value from its text.
func (p *place) take(source, key, text string) {
	l, ok := p.leaf(source, key)
	if !ok {
		return
	}
	value, broken := parse(l.typ, text)
	if broken != "" {
		p.fail(&Error{Source: source, Key: key, Rule: broken, Value: shown(key, text)})
		return
	}
	p.put(source, key, l, value, text)
}

// takeList reads a value that is a list already.
func (p *place) takeList(source, key string, list []string) {
	if l, ok := p.leaf(source, key); ok {
		p.put(source, key, l, list, "")
	}
}

// leaf is what a key is of. It reports false where the value is not wanted, or
// a name in the key is wrong.
func (p *place) leaf(source, key string) (leaf, bool) {
	l, names, ok := find(key)
	if !ok {
		panic(source + " is bound to " + key + ", which is no key")
	}
	if slices.ContainsFunc(p.without, func(above string) bool { return key == above || strings.HasPrefix(key, above+".") }) {
		return l, false
	}
	for i, name := range names {
		if err := checkNames[l.names[i]](name); err != nil {
			p.fail(&Error{Source: source, Key: key, Rule: "is no key, " + article(l.names[i]) + " " + ruleOf(err), Value: name})
			return l, false
		}
	}
	return l, true
}

// put lays a value into the place. Of a secret that stands in a file, the file
// is read.
func (p *place) put(source, key string, l leaf, value any, text string) {
	broken := ""
	switch v := value.(type) {
	case map[string]int:
		value, broken = entriesOf(v, l.nameOfEntries())
	case map[string]string:
		value, broken = entriesOf(v, l.nameOfEntries())
	case string:
		if l.isPath() {
			value = p.path(v)
		}
	}
	if broken != "" {
		p.fail(&Error{Source: source, Key: key, Rule: broken, Value: text})
		return
	}
	into := key
	if l.ofFile {
		into = strings.TrimSuffix(key, fileSuffix)
	}
	if other, taken := p.sources[into]; taken && (other != source || p.forms[into] != key) {
		if other == source { // one line of a file
			other = p.forms[into]
		}
		p.fail(excluded(source, other, key))
		return
	}
	if l.ofFile {
		text, warning, err := readSecret(source, key, p.path(value.(string)))
		if err != nil {
			p.fail(err)
			return
		}
		if warning != "" {
			p.warn(warning)
		}
		value = text
	}
	if _, again := p.sources[into]; !again {
		p.said = append(p.said, into)
	}
	p.sources[into], p.values[into], p.forms[into] = source, value, key
}

// path is a path as the process can open it.
func (p *place) path(name string) string {
	if name == "" || p.dir == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.dir, name)
}

// entry notes that there is an entry of this key, which may say nothing more.
func (p *place) entry(key string) {
	for known := range p.values {
		if strings.HasPrefix(known, key+".") {
			return
		}
	}
	p.values[key] = map[string]any{}
}

// entriesOf is a map in the form in which single entries can be laid over it.
func entriesOf[V any](whole map[string]V, kind string) (value any, broken string) {
	entries := make(map[string]any, len(whole))
	for _, name := range slices.Sorted(maps.Keys(whole)) {
		if rule := ruleOf(checkNames[kind](name)); rule != "" {
			return nil, kind + " " + strconv.Quote(name) + " " + rule
		}
		entries[name] = whole[name]
	}
	return entries, ""
}

// whole finds maps that are set in one piece: in place of what weaker places
// have, and not beside single entries.
func (p *place) whole() (keys []string) {
	for _, key := range p.said {
		if l, _, _ := find(key); l.typ.Kind() != reflect.Map {
			continue
		}
		keys = append(keys, key)
		for _, other := range p.said {
			if strings.HasPrefix(other, key+".") {
				p.fail(excluded(p.sources[other], p.sources[key], other))
				delete(p.values, other)
			}
		}
	}
	return keys
}

// nearestOf finds the strongest of several keys that are set, or reports false.
func (l *loader) nearestOf(keys []string) (key string, o origin, ok bool) {
	for _, k := range keys {
		if from, set := l.sources[k]; set && (!ok || cmp.Less(o.rank, from.rank)) {
			key, o, ok = k, from, true
		}
	}
	return key, o, ok
}
