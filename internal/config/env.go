package config

import (
	"regexp"
	"strings"
)

const envPrefix = "PELTON_"

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

// foreignKey is the key that a variable of others stands for, or "".
func (l *loader) foreignKey(name string) string {
	switch name {
	case "NATS_URL":
		return "nats.url"
	case "KAFKA_BOOTSTRAP_SERVERS":
		return "kafka.brokers"
	case commandsTopic:
		switch {
		case l.opts.Part == PartProduce:
			return "produce.topic"
		case l.opts.Part == PartIngest && len(l.names) == 1:
			return string(PartIngest) + "." + l.names[0] + ".topics"
		}
	}
	return ""
}

const commandsTopic = "COMMANDS_TOPIC"
