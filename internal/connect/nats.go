package connect

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"pelton/internal/config"
	"pelton/internal/secret"
)

// Who connects. A role lives on its own, so its broker must be named; a client
// is started by somebody, and may follow the context that they have selected.
type Who bool

// The two.
const (
	Role   Who = false
	Client Who = true
)

// NATS is how to reach the broker, and as whom.
type NATS struct {
	// URL of the servers, several by comma; it may hold a password.
	URL string
	// Name of the place as errors show it, without secrets.
	Name string
	// Certificates of the connection; nil where nothing asks for any.
	Certificates *Certificates

	options []nats.Option
}

// Options are those of the connection. Credentials in files and certificates
// are read anew at each connection.
func (n *NATS) Options() []nats.Option { return n.options }

// FromSettings finds the broker: by nats.url or nats.context, whichever stands
// in the stronger place of the settings, and for a client that nobody has told
// by the context that is selected in the nats command line.
func FromSettings(cfg *config.Config, env []string, who Who) (*NATS, error) {
	p, err := choose(cfg, env, who)
	if err != nil {
		return nil, err
	}
	if err := p.checkCredentials(); err != nil {
		return nil, err
	}
	out := &NATS{URL: p.URL, Name: config.RedactURL(p.URL)}
	if p.context != nil {
		out.Name += " (context " + p.context.name + ")"
	}
	if p.JetStreamDomain != "" {
		return nil, p.setting("jetstream_domain").wrong(p.JetStreamDomain, "must be empty: name a server of that domain in nats.url; results do not pass from a leaf node to another domain")
	}
	if out.Certificates, err = loadCertificates(p.source, "nats.tls", p.TLS); err != nil {
		return nil, err
	}
	credentials, err := p.credentials()
	if err != nil {
		return nil, err
	}
	out.options = slices.Concat(credentials, secure(out.Certificates, p.tlsFirst))
	if p.InboxPrefix != "" {
		out.options = append(out.options, nats.CustomInboxPrefix(p.InboxPrefix))
	}
	return out, nil
}

// secure are the options of an encrypted connection. The callbacks are asked at
// every connection, so what was reloaded counts at the next one.
func secure(certs *Certificates, first bool) []nats.Option {
	var out []nats.Option
	if certs != nil {
		base := certs.Config("")
		base.RootCAs, base.Certificates = nil, nil
		out = append(out, nats.Secure(base), func(o *nats.Options) error {
			o.RootCAsCB = certs.pool
			if certs.files.CertFile != "" {
				o.TLSCertCB = certs.certificate
			}
			return nil
		})
	}
	if first {
		out = append(out, nats.TLSHandshakeFirst())
	}
	return out
}

// place is the settings of nats once it is decided who names the broker.
type place struct {
	config.NATS
	userJWT, userSeed string // of a context alone
	tlsFirst          bool

	context *natsContext // nil for none
	fields  map[string]string
	cfg     *config.Config
}

// source is who set a key: a context's file, or as the settings have it.
func (p *place) source(key string) string {
	if field, ok := p.fields[key]; ok {
		return p.context.setting(field).source
	}
	return p.cfg.Source(key)
}

func (p *place) setting(key string) setting { return setting{p.source("nats." + key), "nats." + key} }

func isFlag(source string) bool { return strings.HasPrefix(source, "--") }

// choose decides who names the broker. Of nats.url and nats.context at most one
// is set, which the settings see to.
func choose(cfg *config.Config, env []string, who Who) (*place, error) {
	p := &place{NATS: cfg.NATS, cfg: cfg}
	switch {
	case cfg.NATS.Context != "":
		return p.follow(env, setting{cfg.Source("nats.context"), "nats.context"}, cfg.NATS.Context)
	case who == Client && !anySet(cfg):
		if name := selectedContext(env); name != "" {
			return p.follow(env, setting{"nats context select", "nats.context"}, name)
		}
	}
	return p, nil
}

// anySet reports whether anybody has set how to reach the broker.
func anySet(cfg *config.Config) bool {
	return cfg.IsSet("nats.url") || cfg.NATS != config.NATS{URL: cfg.NATS.URL, InboxPrefix: cfg.NATS.InboxPrefix, MonitorURL: cfg.NATS.MonitorURL, JetStreamDomain: cfg.NATS.JetStreamDomain}
}

// follow takes the place of a context. What the settings say of the connection
// is for another broker then, but for --creds.
func (p *place) follow(env []string, from setting, name string) (*place, error) {
	c, err := readContext(env, from, name)
	if err != nil {
		return nil, err
	}
	p.context, p.fields = c, contextFields
	p.URL = c.URL
	if p.URL == "" {
		p.URL = nats.DefaultURL
	}
	if config.RedactURL(p.URL) == "" || strings.Contains(","+config.RedactURL(p.URL)+",", ",***,") {
		return nil, c.setting("url").wrong("", "must be nats://host:port, several by comma")
	}
	creds, flag := p.CredsFile, isFlag(p.cfg.Source("nats.creds_file"))
	p.CredsFile, p.NKeyFile, p.User, p.Password, p.Token = c.Creds, c.NKey, c.User, secret.New(c.Password), secret.New(c.Token)
	p.userJWT, p.userSeed, p.tlsFirst = c.UserJWT, c.UserSeed, c.TLSFirst
	p.TLS = config.TLS{CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key}
	p.InboxPrefix, p.JetStreamDomain = c.InboxPrefix, c.JetStreamDomain
	if flag {
		p.CredsFile, p.NKeyFile, p.User, p.Password, p.Token, p.userJWT, p.userSeed = creds, "", "", secret.Text{}, secret.Text{}, "", ""
		p.fields = without(p.fields, "nats.creds_file")
	}
	return p, nil
}

// checkCredentials refuses a context with two ways to say who one is; in the
// settings there is one at most.
func (p *place) checkCredentials() error {
	var ways []string
	for _, way := range []struct {
		key   string
		given bool
	}{
		{"nats.creds_file", p.CredsFile != ""},
		{"nats.nkey_file", p.NKeyFile != ""},
		{"nats.user", p.User != "" || !p.Password.IsZero()},
		{"nats.token", !p.Token.IsZero()},
		{"user_jwt", p.userJWT != ""},
	} {
		if way.given {
			ways = append(ways, way.key)
		}
	}
	if len(ways) > 1 {
		return setting{p.source(ways[1]), ways[1]}.wrong("", "must not stand beside "+ways[0]+": one says who connects")
	}
	return nil
}

// credentials are the options that say who connects. Files are tried once, so
// that a mistake is told at the start.
func (p *place) credentials() ([]nats.Option, error) {
	switch {
	case p.CredsFile != "":
		return p.credsFile()
	case p.NKeyFile != "":
		return p.nkeyFile()
	case p.userJWT != "":
		return []nats.Option{nats.UserJWTAndSeed(p.userJWT, p.userSeed)}, nil
	case !p.Token.IsZero():
		return []nats.Option{nats.Token(p.Token.Reveal())}, nil
	case p.User != "":
		return []nats.Option{nats.UserInfo(p.User, p.Password.Reveal())}, nil
	}
	return nil, nil
}

func (p *place) credsFile() ([]nats.Option, error) {
	creds := p.setting("creds_file")
	if err := readable(p.CredsFile); err != nil {
		return nil, creds.wrong(p.CredsFile, unreadable(err))
	}
	option := nats.UserCredentials(p.CredsFile)
	var tried nats.Options
	err := option(&tried)
	if err == nil {
		_, err = tried.UserJWT()
	}
	if err == nil {
		_, err = tried.SignatureCB([]byte("nonce"))
	}
	if err != nil {
		return nil, creds.wrong(p.CredsFile, "must be a credentials file, with a user's JWT and seed")
	}
	return []nats.Option{option}, nil
}

func (p *place) nkeyFile() ([]nats.Option, error) {
	nkey := p.setting("nkey_file")
	if err := readable(p.NKeyFile); err != nil {
		return nil, nkey.wrong(p.NKeyFile, unreadable(err))
	}
	option, err := nats.NkeyOptionFromSeed(p.NKeyFile)
	if err != nil {
		return nil, nkey.wrong(p.NKeyFile, "must hold the seed of a user's nkey, SU…")
	}
	return []nats.Option{option}, nil
}

func readable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", file, err)
	}
	return nil
}
