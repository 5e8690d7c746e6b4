package config

import (
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/spf13/pflag"

	"pelton/engine/wire"
)

// isEdge reports whether the part's entries are edges.
func (l *loader) isEdge() bool { return l.opts.Part == PartIngest || l.opts.Part == PartEmit }

// nameEntries decides for which entries the part is started: those it was told,
// those that are configured, or one by default.
func (l *loader) nameEntries() error {
	switch l.opts.Part {
	case PartIngest, PartEmit, PartQueues:
	default:
		return nil
	}
	for _, name := range l.opts.Names {
		kind, check := "route", wire.CheckRoute
		if !l.isEdge() {
			kind, check = "queue", wire.CheckQueue
		}
		if rule := ruleOf(check(name)); rule != "" {
			return &Error{Source: kind, Rule: rule, Value: name}
		}
	}
	if l.names = slices.Clone(l.opts.Names); len(l.names) == 0 {
		l.names = l.ko.MapKeys(string(l.opts.Part))
	}
	if len(l.names) == 0 {
		name, err := l.defaultEntry()
		l.names = []string{name}
		return err
	}
	return nil
}

func (l *loader) defaultEntry() (string, error) {
	switch l.opts.Part {
	case PartIngest:
		return l.defaultRoute()
	case PartEmit:
		return "results", nil
	default:
		return "default", nil
	}
}

// defaultRoute names an ingest edge that nobody has named after its topic: as
// the flag has it, or COMMANDS_TOPIC. A name is not made up where the topic's is
// not fit for it: it stands in the ids of tasks for good, and two topics must
// not share one.
func (l *loader) defaultRoute() (string, error) {
	topic, source := "commands", ""
	for _, variable := range l.opts.Environ {
		if value, ok := strings.CutPrefix(variable, commandsTopic+"="); ok && value != "" {
			topic, source = value, commandsTopic
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
		return topic, &Error{Source: source, Rule: "does not name its route, which " + ruleOf(err) + "; give it a name: pelton edge ingest NAME", Value: topic}
	}
	return topic, nil
}

// entries makes sure that each entry is there, with what it does not say.
func (l *loader) entries() error {
	missing := map[string]any{}
	for _, name := range l.names {
		base := string(l.opts.Part) + "." + name
		if !l.ko.Exists(base) {
			missing[base] = map[string]any{}
		}
	}
	if err := l.load(confmap.Provider(missing, "."), nil); err != nil {
		return err
	}
	missing = map[string]any{}
	for pattern, value := range entryDefaults {
		base, rest, _ := strings.Cut(pattern, ".*.")
		for _, name := range l.ko.MapKeys(base) {
			if key := base + "." + name + "." + rest; !l.ko.Exists(key) {
				missing[key] = value(name)
			}
		}
	}
	return l.load(confmap.Provider(missing, "."), nil)
}
