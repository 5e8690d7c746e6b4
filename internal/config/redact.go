package config

import (
	"net/url"
	"slices"
	"strings"
)

// hidden stands where a secret was.
const hidden = "***"

// RedactURL is the broker's URL, or several by comma, as it may be printed:
// without passwords, without the tokens that stand in the place of a user, and
// without queries, which hold tokens too.
// What cannot be read is not printed at all, for nobody knows what it holds.
func RedactURL(raw string) string {
	parts := strings.Split(raw, ",")
	for i, part := range parts {
		u, ok := parseServer(part)
		switch {
		case !ok, u.User == nil && strings.Contains(part, "@"): // a ? or # that is part of a password
			parts[i] = hidden
		case u.User != nil, strings.ContainsAny(part, "?#"):
			parts[i] = redact(u)
		}
	}
	return strings.Join(parts, ",")
}

func redact(u *url.URL) string {
	bare := *u
	bare.User, bare.RawQuery, bare.Fragment = nil, "", ""
	if u.User == nil {
		return bare.String()
	}
	name := hidden
	if _, found := u.User.Password(); found {
		name = u.User.Username() + ":" + hidden
	}
	return strings.Replace(bare.String(), "://", "://"+name+"@", 1)
}

// parseServer reads one URL as the client of the broker does.
func parseServer(raw string) (*url.URL, bool) {
	raw = strings.TrimSpace(raw)
	if !strings.Contains(raw, "://") {
		raw = "nats://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
		return nil, false
	}
	return u, true
}

// redactHTTP is an address of HTTP as it may be printed, likewise.
func redactHTTP(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return hidden
	case u.User == nil && strings.Contains(raw, "@"):
		return hidden
	}
	return redact(u)
}
