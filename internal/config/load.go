package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"pelton/internal/secret"
)

// Part is what a process is about, where that decides what a name means.
type Part string

// The parts.
const (
	// Clients, and roles that are not listed here.
	PartNone Part = ""
	// PartProduce writes to COMMANDS_TOPIC, its produce.topic.
	PartProduce Part = "produce"
	// PartIngest reads COMMANDS_TOPIC, the topics of its one route.
	PartIngest Part = "edges.ingest"
	// PartEmit has edges by name.
	PartEmit Part = "edges.emit"
	// PartQueues has queues by name.
	PartQueues Part = "queues"
)

// Options say from where settings are loaded, and for what.
type Options struct {
	// Environ is the environment as os.Environ has it.
	Environ []string
	// Flags are those of the command, once they are parsed; only what [Bind]
	// has bound is read.
	Flags *pflag.FlagSet
	// Part that is started.
	Part Part
	// Names of the edges or queues that it is started for. Unless given, they
	// are all that are configured; where there are none, a default.
	Names []string
}

// Config is the settings of a process, and where each came from. It is not
// changed once it is loaded.
type Config struct {
	Settings
	// Names of the edges or queues of the part, in order. Each has its entry in
	// the settings. Without a part there are none.
	Names []string

	sources map[string]string
}

// fromDefaults is the source of what nobody has set.
const fromDefaults = "default"

// Source is where the value of a key came from: the name of a variable, a flag,
// or "default".
func (c *Config) Source(key string) string { return sourceOf(c.sources, key) }

// sourceOf finds an entry of a map that was set in one piece under the map's
// key.
func sourceOf(sources map[string]string, key string) string {
	for cut := len(key); cut > 0; cut = strings.LastIndexByte(key[:cut], '.') {
		if source, ok := sources[key[:cut]]; ok {
			return source
		}
	}
	return fromDefaults
}

// IsSet reports whether anybody has set a key.
func (c *Config) IsSet(key string) bool { return c.Source(key) != fromDefaults }

// Load reads the settings and checks them. It stops at the first mistake, which
// is an [*Error].
func Load(opts Options) (*Config, error) {
	l := &loader{opts: opts, ko: koanf.New("."), sources: map[string]string{}}
	if err := l.load(confmap.Provider(defaults(), "."), nil); err != nil {
		return nil, err
	}
	if err := l.environment(); err != nil {
		return nil, err
	}
	if err := l.flags(); err != nil {
		return nil, err
	}
	if err := l.entries(); err != nil {
		return nil, err
	}
	return l.finish()
}

// loader lays one place over the other.
type loader struct {
	opts    Options
	ko      *koanf.Koanf
	names   []string
	sources map[string]string
}

// place is what one place says: where each key is set there.
type place struct {
	sources map[string]string
	err     error // the first
}

func newPlace() *place { return &place{sources: map[string]string{}} }

func (p *place) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// take reads one value. An empty key tells the providers to leave it out.
func (p *place) take(source, key, text string) (string, any) {
	l, names, ok := find(key)
	if !ok {
		panic(fmt.Sprintf("%s is bound to %s, which is no key", source, key))
	}
	for i, name := range names {
		if err := checkNames[l.names[i]](name); err != nil {
			p.fail(&Error{Source: source, Key: key, Rule: "is no key, a " + l.names[i] + " " + ruleOf(err), Value: name})
			return "", nil
		}
	}
	value, broken := parse(l.typ, text)
	switch whole := value.(type) {
	case map[string]int:
		value, broken = entriesOf(whole, l.nameOfEntries())
	case map[string]string:
		value, broken = entriesOf(whole, l.nameOfEntries())
	}
	if broken != "" {
		p.fail(&Error{Source: source, Key: key, Rule: broken, Value: shown(key, text)})
		return "", nil
	}
	if other, taken := p.sources[key]; taken && other != source {
		p.fail(excluded(source, other, key))
		return "", nil
	}
	p.sources[key] = source
	return key, value
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
	for _, key := range slices.Sorted(maps.Keys(p.sources)) {
		for _, other := range slices.Sorted(maps.Keys(p.sources)) {
			if strings.HasPrefix(other, key+".") {
				p.fail(excluded(p.sources[other], p.sources[key], other))
			}
		}
		if l, _, _ := find(key); l.typ.Kind() == reflect.Map {
			keys = append(keys, key)
		}
	}
	return keys
}

// load lays what a provider reads over what there is. What the provider finds
// goes through p, which may be nil.
func (l *loader) load(provider koanf.Provider, p *place) error {
	next := koanf.New(".")
	if err := next.Load(provider, nil); err != nil {
		return err
	}
	if p != nil {
		for _, key := range p.whole() {
			l.ko.Delete(key)
			maps.DeleteFunc(l.sources, func(k, _ string) bool { return strings.HasPrefix(k, key+".") })
		}
		if p.err != nil {
			return p.err
		}
		maps.Copy(l.sources, p.sources)
	}
	return l.ko.Merge(next)
}

// flags reads those that are set and bound. What is bound to an entry of the
// part is set in every entry it is started for.
func (l *loader) flags() error {
	if l.opts.Flags == nil {
		return nil
	}
	p, entries := newPlace(), map[string]any{}
	provider := posflag.ProviderWithFlag(l.opts.Flags, ".", nil, func(f *pflag.Flag) (string, any) {
		key, text, ok := bound(f)
		if !ok {
			return "", nil
		}
		rest, ofEntry := strings.CutPrefix(key, entryKey)
		if !ofEntry {
			return p.take("--"+f.Name, key, text)
		}
		if l.isEdge() && len(l.names) > 1 {
			p.fail(&Error{Source: "--" + f.Name, Rule: "is for one edge, name it: " + strings.Join(l.names, " or ")})
		}
		for _, name := range l.names {
			if key, value := p.take("--"+f.Name, string(l.opts.Part)+"."+name+"."+rest, text); key != "" {
				entries[key] = value
			}
		}
		return "", nil
	})
	if err := l.load(provider, p); err != nil {
		return err
	}
	return l.load(confmap.Provider(entries, "."), nil)
}

// environment reads the variables that are Pelton's own, and then what others
// say that these do not.
func (l *loader) environment() error {
	environ := func() []string {
		return slices.DeleteFunc(slices.Clone(l.opts.Environ), func(variable string) bool {
			_, value, _ := strings.Cut(variable, "=")
			return value == ""
		})
	}
	own := newPlace()
	err := l.load(env.Provider(".", env.Opt{Prefix: envPrefix, EnvironFunc: environ, TransformFunc: func(name, text string) (string, any) {
		key, ok := envKey(name)
		if ok {
			return own.take(name, key, text)
		}
		if !ofKubernetes(name) {
			own.fail(unknown(name, key, similar(key), envName))
		}
		return "", nil
	}}), own)
	if err != nil {
		return err
	}
	if err := l.nameEntries(); err != nil {
		return err
	}
	foreign := newPlace()
	return l.load(env.Provider(".", env.Opt{EnvironFunc: environ, TransformFunc: func(name, text string) (string, any) {
		key := l.foreignKey(name)
		if _, taken := own.sources[key]; key == "" || taken {
			return "", nil
		}
		return foreign.take(name, key, text)
	}}), foreign)
}

// finish makes the settings out of what was loaded.
func (l *loader) finish() (*Config, error) {
	all := l.ko.All()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		leaf, _, ok := find(key)
		if !ok {
			continue // an entry that says nothing
		}
		check, ok := rules[leaf.String()]
		if !ok {
			continue
		}
		if broken := check(all[key]); broken != "" {
			return nil, &Error{Source: sourceOf(l.sources, key), Key: key, Rule: broken, Value: shown(key, textOf(all[key]))}
		}
	}
	c := &Config{Names: l.names, sources: l.sources}
	if err := l.ko.Unmarshal("", &c.Settings); err != nil {
		return nil, fmt.Errorf("settings: %w", err) // what was loaded has its types
	}
	return c, nil
}

// textOf is a value as it would be written in the environment.
func textOf(v any) string {
	if list, ok := v.([]string); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v)
}

// shown is a value as an error may repeat it.
func shown(key, text string) string {
	switch l, _, ok := find(key); {
	case key == "nats.url":
		return RedactURL(text)
	case ok && l.typ == reflect.TypeFor[secret.Text]():
		return secret.Hidden
	}
	return text
}
