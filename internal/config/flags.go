package config

import (
	"fmt"

	"github.com/spf13/pflag"
)

const (
	// annotation of a flag that is bound to a key.
	boundTo = "pelton-key"
	// entryKey begins the key of a flag that is for the entries of the part.
	entryKey = "@."
)

// Bind makes a flag set a key: worker.grace, or @.topics for that key of each
// entry that the part is started for. The flag's value is read by the rules of
// the key, so a plain text flag does. It panics where there is no such flag.
func Bind(flags *pflag.FlagSet, name, key string) { bind(flags, name, key) }

// BindSwitch makes a flag without a value set a key to one.
func BindSwitch(flags *pflag.FlagSet, name, key, value string) { bind(flags, name, key, value) }

func bind(flags *pflag.FlagSet, name string, to ...string) {
	if err := flags.SetAnnotation(name, boundTo, to); err != nil {
		panic(fmt.Errorf("bind --%s: %w", name, err))
	}
}

// bound is what a flag sets, if it is bound and given.
func bound(f *pflag.Flag) (key, text string, ok bool) {
	to := f.Annotations[boundTo]
	if len(to) == 0 || !f.Changed {
		return "", "", false
	}
	if len(to) == 1 {
		return to[0], f.Value.String(), true
	}
	return to[0], to[1], f.Value.String() == "true"
}
