package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
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

// Options say from where settings are loaded, and for what. They may be used
// again, to load anew what has changed in the files.
type Options struct {
	// Environ is the environment as os.Environ has it.
	Environ []string
	// Dir is the folder in which pelton.yaml and the .env files are looked for,
	// and where relative paths start. Empty means that no file is looked for.
	Dir string
	// File is read in place of pelton.yaml, and must be there. Unless given it is
	// PELTON_CONFIG.
	File string
	// Env chooses .env.<Env>, which must be there. Unless given it is PELTON_ENV,
	// whose file may be missing.
	Env string
	// Flags are those of the command, once they are parsed; only what [Bind]
	// has bound is read.
	Flags *pflag.FlagSet
	// Part that is started.
	Part Part
	// Names of the edges or queues that it is started for. Unless given, they
	// are all that are configured; where there are none, a default.
	Names []string
	// Without are keys that the command does not ask for, each with all below it:
	// whatever the places say of them is passed over.
	Without []string
}

// Config is the settings of a process, and where each came from. It is not
// changed once it is loaded.
type Config struct {
	Settings
	// Names of the edges or queues of the part, in order. Each has its entry in
	// the settings. Without a part there are none.
	Names []string
	// Warnings are what is allowed and yet asks for somebody's attention, such as
	// a secret that others can read. Each is one line.
	Warnings []string

	sources map[string]origin
}

// fromDefaults is the source of what nobody has set.
const fromDefaults = "default"

// Source is where the value of a key came from: a file with its line
// (pelton.yaml:12, .env:3), the name of a variable, a flag, or "default".
func (c *Config) Source(key string) string { return sourceOf(c.sources, key) }

// sourceOf finds an entry of a map that was set in one piece under the map's
// key.
func sourceOf(sources map[string]origin, key string) string {
	for cut := len(key); cut > 0; cut = strings.LastIndexByte(key[:cut], '.') {
		if from, ok := sources[key[:cut]]; ok {
			return from.source
		}
	}
	return fromDefaults
}

// IsSet reports whether anybody has set a key.
func (c *Config) IsSet(key string) bool { return c.Source(key) != fromDefaults }

// Load reads the settings and checks them. It returns the first mistake, which
// is an [*Error].
func Load(opts Options) (*Config, error) {
	c, errs := load(opts)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return c, nil
}

// Check is Load that goes on after a mistake and returns all of them, and the
// warnings.
func Check(opts Options) (warnings []string, errs []error) {
	c, errs := load(opts)
	return c.Warnings, errs
}

func load(opts Options) (*Config, []error) {
	l := &loader{opts: opts, ko: koanf.New("."), sources: map[string]origin{}}
	l.merge(defaults())
	l.places()
	l.flags()
	l.entries()
	return l.finish(), l.errs
}

// loader lays one place over the other.
type loader struct {
	opts     Options
	ko       *koanf.Koanf
	names    []string
	sources  map[string]origin
	warnings []string
	errs     []error
}

func (l *loader) fail(err error) { l.errs = append(l.errs, err) }

// warn says a thing once.
func (l *loader) warn(text string) {
	if !slices.Contains(l.warnings, text) {
		l.warnings = append(l.warnings, text)
	}
}

// places reads everything but the flags. What a name of others stands for
// depends on the part's entries, and these on all that is written under the
// keys themselves, so that is read first.
func (l *loader) places() {
	dotenvs := l.dotenvs()
	yaml := l.yaml(dotenvs)
	layers := append(slices.Clone(dotenvs), layer{rank: rankEnviron, dir: l.dir(), variables: environ(l.opts.Environ)})
	own := make([]*place, len(layers))
	for i, layer := range layers {
		own[i] = l.own(layer)
	}
	l.nameEntries(append([]*place{yaml}, own...), layers)
	l.lay(yaml)
	for i, layer := range layers {
		l.lay(l.foreign(layer, own[i]))
		l.lay(own[i])
	}
}

// dir is where relative paths start, "" for the process's own folder.
func (l *loader) dir() string {
	if d := filepath.Clean(l.opts.Dir); d != "." {
		return d
	}
	return ""
}

// lay lays a place over what there is.
func (l *loader) lay(p *place) {
	for _, key := range p.whole() {
		l.ko.Delete(key)
		maps.DeleteFunc(l.sources, func(k string, _ origin) bool { return strings.HasPrefix(k, key+".") })
	}
	l.errs = append(l.errs, p.errs...)
	for key, source := range p.sources {
		l.sources[key] = origin{source, p.rank}
	}
	l.merge(p.values)
}

// merge lays values by their keys over what there is.
func (l *loader) merge(values map[string]any) {
	if err := l.ko.Load(confmap.Provider(values, "."), nil); err != nil {
		l.fail(fmt.Errorf("settings: %w", err)) // a map without a parser is always read
	}
}

// flags reads those that are set and bound. What is bound to an entry of the
// part is set in every entry it is started for.
func (l *loader) flags() {
	if l.opts.Flags == nil {
		return
	}
	p := l.newPlace(rankFlags, l.dir())
	l.opts.Flags.Visit(func(f *pflag.Flag) {
		key, text, ok := bound(f)
		if !ok {
			return
		}
		rest, ofEntry := strings.CutPrefix(key, entryKey)
		if !ofEntry {
			p.take("--"+f.Name, key, text)
			return
		}
		if l.isEdge() && len(l.names) > 1 {
			p.fail(&Error{Source: "--" + f.Name, Rule: "is for one edge, name it: " + strings.Join(l.names, " or ")})
		}
		for _, name := range l.names {
			p.take("--"+f.Name, string(l.opts.Part)+"."+name+"."+rest, text)
		}
	})
	l.lay(p)
}

// finish makes the settings out of what was loaded.
func (l *loader) finish() *Config {
	l.choose()
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
			l.fail(&Error{Source: sourceOf(l.sources, key), Key: key, Rule: broken, Value: shown(key, textOf(all[key]))})
		}
	}
	c := &Config{Names: l.names, Warnings: l.warnings, sources: l.sources}
	if len(l.errs) > 0 {
		return c
	}
	if err := l.ko.Unmarshal("", &c.Settings); err != nil {
		l.fail(fmt.Errorf("settings: %w", err)) // what was loaded has its types
		return c
	}
	l.errs = append(l.errs, contradictions(c)...)
	return c
}

// textOf is a value as it would be written in the environment.
func textOf(v any) string {
	if list, ok := v.([]string); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v)
}

// shown is a value as it may be told.
func shown(key, text string) string {
	l, _, ok := find(key)
	switch {
	case key == "nats.url":
		return RedactURL(text)
	case key == "nats.monitor_url":
		return redactHTTP(text)
	case key == "kafka.brokers" && strings.Contains(text, "@"):
		return hidden // no place for a password, and yet somebody has tried
	case ok && l.typ == reflect.TypeFor[secret.Text]():
		return hidden
	}
	return text
}
