package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"pelton/engine/wire"
)

// isEdge reports whether the part's entries are edges.
func (l *loader) isEdge() bool { return l.opts.Part == PartIngest || l.opts.Part == PartEmit }

// nameEntries decides for which entries the part is started: those it was told,
// those that are configured in any place, or one by default.
func (l *loader) nameEntries(places []*place, layers []layer) {
	switch l.opts.Part {
	case PartIngest, PartEmit, PartQueues:
	default:
		return
	}
	kind := "queue"
	if l.isEdge() {
		kind = "route"
	}
	for _, name := range l.opts.Names {
		if rule := ruleOf(checkNames[kind](name)); rule != "" {
			l.fail(&Error{Source: kind, Rule: rule, Value: name})
		}
	}
	if l.names = slices.Clone(l.opts.Names); len(l.names) == 0 {
		l.names = configured(places, string(l.opts.Part)+".")
	}
	if len(l.names) == 0 {
		l.names = []string{l.defaultEntry(layers)}
	}
}

// configured are the names of the entries that places speak of, sorted.
func configured(places []*place, prefix string) []string {
	found := map[string]bool{}
	for _, p := range places {
		for key := range p.values {
			if rest, ok := strings.CutPrefix(key, prefix); ok {
				name, _, _ := strings.Cut(rest, ".")
				found[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (l *loader) defaultEntry(layers []layer) string {
	switch l.opts.Part {
	case PartIngest:
		return l.defaultRoute(layers)
	case PartEmit:
		return "results"
	default:
		return "default"
	}
}

// defaultRoute names an ingest edge that nobody has named after its topic: as
// the flag has it, or COMMANDS_TOPIC. A name is not made up where the topic's is
// not fit for it: it stands in the ids of tasks for good, and two topics must
// not share one.
func (l *loader) defaultRoute(layers []layer) string {
	topic, source := "commands", ""
	for _, layer := range layers {
		if v, ok := valueOf(layer.variables, commandsTopic); ok {
			topic, source = v.text, v.source
		}
	}
	if l.opts.Flags != nil {
		l.opts.Flags.Visit(func(f *pflag.Flag) {
			if key, text, ok := bound(f); ok && key == entryKey+"topics" {
				topic, source = text, "--"+f.Name
			}
		})
	}
	if err := wire.CheckRoute(topic); err != nil {
		l.fail(&Error{Source: source, Rule: "does not name its route, which " + ruleOf(err) + "; give it a name: pelton edge ingest NAME", Value: topic})
		return "commands"
	}
	return topic
}

// entries makes sure that each entry is there, with what it does not say.
func (l *loader) entries() {
	missing := map[string]any{}
	for _, name := range l.names {
		base := string(l.opts.Part) + "." + name
		if !l.ko.Exists(base) {
			missing[base] = map[string]any{}
		}
	}
	l.merge(missing)
	missing = map[string]any{}
	for pattern, value := range entryDefaults {
		base, rest, _ := strings.Cut(pattern, ".*.")
		for _, name := range l.ko.MapKeys(base) {
			if key := base + "." + name + "." + rest; !l.ko.Exists(key) {
				missing[key] = value(name)
			}
		}
	}
	l.merge(missing)
}
