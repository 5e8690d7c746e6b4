package config

import (
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "PELTON_"

// These begin like keys and are none: they say which files are read.
const (
	configVariable = envPrefix + "CONFIG"
	envVariable    = envPrefix + "ENV"
)

// variable is one of the environment, or of a .env file.
type variable struct {
	name, text string
	source     string // how it is told where it stands
	flaw       string // what is wrong with how it is written; matters for names that are ours
	warning    string // likewise
}

// layer is the variables of one place.
type layer struct {
	rank      rank
	dir       string
	variables []variable
}

// environ are the variables of an environment that are not empty.
func environ(variables []string) []variable {
	var out []variable
	for _, v := range variables {
		if name, text, ok := strings.Cut(v, "="); ok && text != "" {
			out = append(out, variable{name: name, text: text, source: name})
		}
	}
	return out
}

// valueOf is the last value of a name.
func valueOf(variables []variable, name string) (v variable, ok bool) {
	for _, candidate := range slices.Backward(variables) {
		if candidate.name == name && candidate.text != "" {
			return candidate, true
		}
	}
	return variable{}, false
}

// serviceName matches how Kubernetes names the variables of a service.
var serviceName = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// ofKubernetes reports whether a variable is one that Kubernetes sets in every
// pod because some service has a name that begins with pelton.
func ofKubernetes(name string) bool {
	return serviceName.MatchString(name) && !strings.Contains(name, "__")
}

// envName is how a key is spelt in the environment.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(key))
}

// envKey is the key that a variable stands for. It reports false where there is
// no such key, and returns what was meant to be one.
func envKey(name string) (key string, ok bool) {
	segments := strings.Split(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "__")
	for _, l := range schema() {
		if _, ok := l.match(segments); !ok {
			continue
		}
		for i := range segments {
			if l.pattern[i] == wildcard {
				segments[i] = strings.ReplaceAll(segments[i], "_", "-")
			}
		}
		return strings.Join(segments, "."), true
	}
	return strings.Join(segments, "."), false
}

// own reads the variables that are Pelton's own.
func (l *loader) own(from layer) *place {
	p := l.newPlace(from.rank, from.dir)
	for _, v := range from.variables {
		if !strings.HasPrefix(v.name, envPrefix) || ofKubernetes(v.name) {
			continue
		}
		if v.name == configVariable || v.name == envVariable {
			if from.rank == rankDotenvOfEnv {
				p.fail(&Error{Source: v.source, Rule: v.name + " must stand in the environment or in .env, this file is chosen by then"})
			}
			continue
		}
		key, ok := envKey(v.name)
		if !ok {
			p.fail(unknown(v.told(), key, similar(key), envName))
			continue
		}
		p.takeVariable(v, key)
	}
	return p
}

// told is where a variable stands, with its name where the place has several.
func (v variable) told() string {
	if v.source == v.name {
		return v.source
	}
	return v.source + ": " + v.name
}

// takeVariable reads a variable under its key, unless it is empty or written
// wrong.
func (p *place) takeVariable(v variable, key string) {
	if _, wanted := p.leaf(v.source, key); !wanted {
		return
	}
	switch {
	case v.flaw != "":
		p.fail(&Error{Source: v.source, Key: key, Rule: v.flaw})
	case v.text != "":
		p.take(v.source, key, v.text)
	}
	if v.warning != "" {
		p.warn(v.told() + ": " + v.warning)
	}
}

// foreign reads what others say in a place that does not say it itself.
func (l *loader) foreign(from layer, own *place) *place {
	p := l.newPlace(from.rank, from.dir)
	for _, v := range from.variables {
		key := l.foreignKey(v.name)
		if _, taken := own.sources[strings.TrimSuffix(key, fileSuffix)]; key == "" || taken {
			continue
		}
		p.takeVariable(v, key)
	}
	return p
}

// Names of others that are spoken of elsewhere.
const (
	natsURL     = "NATS_URL"
	natsContext = "NATS_CONTEXT"
)

const commandsTopic = "COMMANDS_TOPIC"

// foreignKeys are the keys that variables of others stand for, whatever the
// part. The secrets among them have the form of a file, too.
var foreignKeys = map[string]string{
	natsURL:                   "nats.url",
	natsContext:               "nats.context",
	"KAFKA_BOOTSTRAP_SERVERS": "kafka.brokers",
	"DISCORD_TOKEN":           "discord.token",
	"DISCORD_TOKEN_FILE":      "discord.token" + fileSuffix,
	"ANNOUNCEMENT_CHANNEL_ID": "edges.speak.channel",
}

// foreignKey is the key that a variable of others stands for, or "".
func (l *loader) foreignKey(name string) string {
	if name != commandsTopic {
		return foreignKeys[name]
	}
	switch {
	case l.opts.Part == PartProduce:
		return "produce.topic"
	case l.opts.Part == PartIngest && len(l.names) == 1:
		return string(PartIngest) + "." + l.names[0] + ".topics"
	}
	return ""
}

// isOurs reports whether a name means something to some part.
func isOurs(name string) bool {
	_, foreign := foreignKeys[name]
	return foreign || name == commandsTopic || strings.HasPrefix(name, envPrefix) && !ofKubernetes(name)
}
