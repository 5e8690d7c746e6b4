package wire

import (
	"strconv"
	"strings"
	"time"
)

// RuleOrigin describes one entry of a chain of origins.
const RuleOrigin = "must be <kind>:<position> entries separated by commas, nearest first"

// KafkaOrigin is the position of a Kafka record, as ingest writes it and as the
// id of its task follows from it.
type KafkaOrigin struct {
	Topic     string
	Partition int32
	Offset    int64
	// Route is the name of the route that read the record; empty means that the
	// route is named like its topic.
	Route string
	// Several says that the route reads several topics, so that its ids name
	// the topic too.
	Several bool
	// Generation counts how often the route began anew over the same positions
	// (a replay, a topic made again); 0 and 1 both mean the first time.
	Generation int
}

// String is the origin's entry in the header:
//
//	kafka:commands/3@18422                 route commands
//	kafka:Orders/3@18422;route=orders      route orders over the topic Orders
//	kafka:eu.a/3@18422;route=orders=       route orders over several topics
//	kafka:commands/3@18422;g=2             its second generation
func (o KafkaOrigin) String() string {
	b := make([]byte, 0, 64)
	b = append(b, "kafka:"...)
	b = append(b, o.Topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(o.Partition), 10)
	b = append(b, '@')
	b = strconv.AppendInt(b, o.Offset, 10)
	if route := o.route(); route != o.Topic || o.Several {
		b = append(b, ";route="...)
		b = append(b, route...)
		if o.Several {
			b = append(b, '=')
		}
	}
	if o.Generation > 1 {
		b = append(b, ";g="...)
		b = strconv.AppendInt(b, int64(o.Generation), 10)
	}
	return string(b)
}

// ID is the id of the record's task:
// `<route>-<partition>-<offset>`, `<route>=<topic>-…` for a route over several
// topics (a dot in the topic becomes =), `…-g<n>` from the second generation.
func (o KafkaOrigin) ID() string {
	b := make([]byte, 0, 64)
	b = append(b, o.route()...)
	if o.Several {
		b = append(b, '=')
		b = append(b, strings.ReplaceAll(o.Topic, ".", "=")...)
	}
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(o.Partition), 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, o.Offset, 10)
	if o.Generation > 1 {
		b = append(b, "-g"...)
		b = strconv.AppendInt(b, int64(o.Generation), 10)
	}
	return string(b)
}

func (o KafkaOrigin) route() string {
	if o.Route == "" {
		return o.Topic
	}
	return o.Route
}

// ParseKafkaOrigin reads one entry made by [KafkaOrigin.String].
func ParseKafkaOrigin(entry string) (KafkaOrigin, error) {
	bad := func() (KafkaOrigin, error) {
		return KafkaOrigin{}, &NameError{HeaderOrigin, entry, "must be kafka:<topic>/<partition>@<offset>[;route=<route>][;g=<n>]"}
	}
	position, ok := strings.CutPrefix(entry, "kafka:")
	if !ok {
		return bad()
	}
	position, options, _ := strings.Cut(position, ";")
	topic, numbers, ok := strings.Cut(position, "/")
	partition, offset, ok2 := strings.Cut(numbers, "@")
	if !ok || !ok2 || !topicName(topic) {
		return bad()
	}
	o := KafkaOrigin{Topic: topic}
	p, err := strconv.ParseInt(partition, 10, 32)
	if err != nil || !allBytes(partition, digit) {
		return bad()
	}
	o.Partition = int32(p)
	if o.Offset, err = strconv.ParseInt(offset, 10, 64); err != nil || !allBytes(offset, digit) {
		return bad()
	}
	if route, ok := strings.CutPrefix(options, "route="); ok {
		route, options, _ = strings.Cut(route, ";")
		o.Route, o.Several = strings.CutSuffix(route, "=")
		if CheckRoute(o.Route) != nil {
			return bad()
		}
	}
	if g, ok := strings.CutPrefix(options, "g="); ok {
		if o.Generation, err = strconv.Atoi(g); err != nil || o.Generation < 2 {
			return bad()
		}
		options = ""
	}
	// Only the one spelling that String has is an origin: an id follows from it.
	if options != "" || o.String() != entry {
		return bad()
	}
	return o, nil
}

// BeatOrigin is an occurrence of a beat entry.
type BeatOrigin struct {
	Entry   string
	Nominal time.Time // whole seconds
}

// String is the origin's entry in the header, `beat:nightly@2026-11-22T00:00:00Z`.
func (o BeatOrigin) String() string {
	return "beat:" + o.Entry + "@" + o.Nominal.UTC().Format(time.RFC3339)
}

// ID is the id of the occurrence's task, `<entry>-<nominal unix>`.
func (o BeatOrigin) ID() string {
	return o.Entry + "-" + strconv.FormatInt(o.Nominal.Unix(), 10)
}

// ParseBeatOrigin reads one entry made by [BeatOrigin.String].
func ParseBeatOrigin(entry string) (BeatOrigin, error) {
	bad := func() (BeatOrigin, error) {
		return BeatOrigin{}, &NameError{HeaderOrigin, entry, "must be beat:<entry>@<RFC 3339 time>"}
	}
	rest, ok := strings.CutPrefix(entry, "beat:")
	name, at, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 || CheckRoute(name) != nil {
		return bad()
	}
	nominal, err := time.Parse(time.RFC3339, at)
	o := BeatOrigin{Entry: name, Nominal: nominal.UTC()}
	if err != nil || o.String() != entry {
		return bad()
	}
	return o, nil
}

// JoinOrigins puts the nearest origin before the chain that came with the
// message. Either may be empty.
func JoinOrigins(nearest, chain string) string {
	switch {
	case nearest == "":
		return chain
	case chain == "":
		return nearest
	}
	return nearest + ", " + chain
}

// NearestOrigin is the first entry of a chain.
func NearestOrigin(chain string) string {
	nearest, _, _ := strings.Cut(chain, ",")
	return strings.Trim(nearest, " ")
}

// CheckOrigins reports whether a chain from a stranger may travel on: entries
// of a kind and a position, printable ASCII, at most 1 KiB in all.
func CheckOrigins(chain string) error {
	if len(chain) > 1024 {
		return &NameError{HeaderOrigin, chain, "must be at most 1024 bytes"}
	}
	for entry := range strings.SplitSeq(chain, ",") {
		kind, position, ok := strings.Cut(strings.Trim(entry, " "), ":")
		if !ok || position == "" || !lowerToken(kind, 32) || !allBytes(position, printable) {
			return &NameError{HeaderOrigin, chain, RuleOrigin}
		}
	}
	return nil
}

// OriginID is the id that follows from the nearest origin of a chain. It
// reports false where that origin is no position (a Discord message, say), or
// where the id would be too long to be one.
func OriginID(chain string) (string, bool) {
	nearest := NearestOrigin(chain)
	var id string
	switch {
	case strings.HasPrefix(nearest, "kafka:"):
		o, err := ParseKafkaOrigin(nearest)
		if err != nil {
			return "", false
		}
		id = o.ID()
	case strings.HasPrefix(nearest, "beat:"):
		o, err := ParseBeatOrigin(nearest)
		if err != nil {
			return "", false
		}
		id = o.ID()
	}
	return id, CheckID(id) == nil
}

// topicName holds Kafka's own rule for topics.
func topicName(s string) bool {
	return len(s) > 0 && len(s) <= 249 && allBytes(s, func(c byte) bool { return taskByte(c) || c == '.' })
}

func printable(c byte) bool { return c > ' ' && c < 0x7f && c != ',' }
