package connect

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pelton/internal/config"
)

// natsContext is a context of the nats command line: the fields of its file
// that say how to connect. Others are of no matter here.
type natsContext struct {
	name, path string

	URL             string `json:"url"`
	User            string `json:"user"`
	Password        string `json:"password"`
	Token           string `json:"token"`
	Creds           string `json:"creds"`
	NKey            string `json:"nkey"`
	UserJWT         string `json:"user_jwt"`
	UserSeed        string `json:"user_seed"`
	Cert            string `json:"cert"`
	Key             string `json:"key"`
	CA              string `json:"ca"`
	TLSFirst        bool   `json:"tls_first"`
	InboxPrefix     string `json:"inbox_prefix"`
	JetStreamDomain string `json:"jetstream_domain"`

	// What cannot be followed here: to connect without it would be to connect
	// as somebody else, or elsewhere.
	NSC       string `json:"nsc"`
	Proxy     string `json:"socks_proxy"`
	APIPrefix string `json:"jetstream_api_prefix"`
	WinStore  string `json:"windows_cert_store"`
}

// contextFolder is where the nats command line keeps its contexts; "" where the
// environment does not say.
func contextFolder(env []string) string {
	if dir := environ(env, "XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "nats")
	}
	if home := environ(env, "HOME"); home != "" {
		return filepath.Join(home, ".config", "nats")
	}
	return ""
}

// selectedContext is the name of the context that `nats context select` chose
// last; "" for none.
func selectedContext(env []string) string {
	folder := contextFolder(env)
	if folder == "" {
		return ""
	}
	name, err := os.ReadFile(filepath.Join(folder, "context.txt"))
	if err != nil {
		return "" // nobody has selected any
	}
	return strings.TrimSpace(string(name))
}

// readContext reads a context by its name; from says who named it.
func readContext(env []string, from setting, name string) (*natsContext, error) {
	folder := contextFolder(env)
	if folder == "" {
		return nil, from.wrong(name, "needs XDG_CONFIG_HOME or HOME, below which the nats command line keeps its contexts")
	}
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, from.wrong(name, "must be the name of a context, as nats context ls has it")
	}
	c := &natsContext{name: name, path: filepath.Join(folder, "context", name+".json")}
	raw, err := os.ReadFile(c.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, from.wrong(name, "is no context in "+filepath.Dir(c.path)+meant(filepath.Dir(c.path), name))
	case err != nil:
		return nil, c.setting("").wrong("", unreadable(err))
	}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, c.setting("").wrong("", "must be a JSON object as the nats command line writes it")
	}
	c.expand(env)
	return c, c.check()
}

// meant suggests what may have been meant, from what there is.
func meant(folder, name string) string {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		return ", which has none"
	}
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = strings.TrimSuffix(filepath.Base(file), ".json")
	}
	if nearest, ok := config.Nearest(name, names); ok {
		return ", did you mean " + nearest + "?"
	}
	slices.Sort(names)
	return ", there are " + strings.Join(names, ", ")
}

// setting is a field of the file, as errors name it.
func (c *natsContext) setting(field string) setting { return setting{"nats context " + c.path, field} }

// expand follows the paths as the nats command line does: ~ and variables.
func (c *natsContext) expand(env []string) {
	for _, path := range []*string{&c.Creds, &c.NKey, &c.Cert, &c.Key, &c.CA} {
		if rest, ok := strings.CutPrefix(*path, "~/"); ok {
			*path = filepath.Join(environ(env, "HOME"), rest)
		}
		*path = os.Expand(*path, func(name string) string { return environ(env, name) })
	}
}

func (c *natsContext) check() error {
	for _, refused := range []struct{ field, value string }{
		{"nsc", c.NSC},
		{"socks_proxy", c.Proxy},
		{"jetstream_api_prefix", c.APIPrefix},
		{"windows_cert_store", c.WinStore},
	} {
		if refused.value != "" {
			return c.setting(refused.field).wrong("", "is not understood: leave it out, or set nats.url and what else is needed in place of the context")
		}
	}
	if c.UserJWT != "" && c.UserSeed == "" {
		return c.setting("user_jwt").wrong("", "needs user_seed beside it")
	}
	if c.InboxPrefix != "" && !isInboxPrefix(c.InboxPrefix) {
		return c.setting("inbox_prefix").wrong(c.InboxPrefix, "must be a subject without wildcards")
	}
	return nil
}

func isInboxPrefix(s string) bool {
	return !strings.ContainsAny(s, " \t\r\n*>") && !slices.Contains(strings.Split(s, "."), "")
}

// contextFields are the settings that a context stands for, and its fields.
var contextFields = map[string]string{
	"nats.url":              "url",
	"nats.creds_file":       "creds",
	"nats.nkey_file":        "nkey",
	"nats.user":             "user",
	"nats.password":         "password",
	"nats.token":            "token",
	"nats.inbox_prefix":     "inbox_prefix",
	"nats.jetstream_domain": "jetstream_domain",
	"nats.tls.ca_file":      "ca",
	"nats.tls.cert_file":    "cert",
	"nats.tls.key_file":     "key",
	"user_jwt":              "user_jwt",
}

func without(fields map[string]string, key string) map[string]string {
	fields = maps.Clone(fields)
	delete(fields, key)
	return fields
}
