// Package connect makes connections to the brokers out of settings: where they
// are, as whom to speak to them, and which certificates to show and to trust.
//
// It stands before the path, between the settings and the parts that move
// messages: a command asks it for the options of its connections and hands those
// on. It opens no connection itself.
//
// What is wrong with a file that the settings name is a [config.Error] with the
// file and the rule; neither passwords nor keys stand in any error.
package connect

import (
	"os"
	"strings"

	"pelton/internal/config"
)

// environ is the value of a variable in an environment as os.Environ has it.
func environ(env []string, name string) string {
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// setting is one key and the place that set it, for errors about its value.
type setting struct{ source, key string }

func (s setting) wrong(value, rule string) error {
	return &config.Error{Source: s.source, Key: s.key, Value: value, Rule: rule}
}

// unreadable says why a file cannot be read, without its path, which the error
// names anyway.
func unreadable(err error) string {
	switch {
	case os.IsNotExist(err):
		return "must name a file, there is none"
	case os.IsPermission(err):
		return "must name a file that this user may read"
	}
	return "must name a file that can be read"
}
