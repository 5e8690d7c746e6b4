package config

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"pelton/engine/wire"
)

// rule reports what a value must be, or "" where it is so.
type rule func(value any) string

// rules are those that can be told from a value alone; the parts know more.
var rules = map[string]rule{
	"namespace":                        checked(func(s string) error { _, err := wire.ParseNamespace(s); return err }),
	"nats.url":                         each(isServer, "must be nats://host:port, several by comma"),
	"kafka.brokers":                    each(isHostPort, "must be host:port, several by comma"),
	"kafka.acks":                       oneOf("all", "1", "0"),
	"kafka.retries":                    from(0),
	"setup.mode":                       oneOf("verify", "manage", "off"),
	"setup.replicas":                   between(1, 5),
	"queues.*.max_pending":             limit[int64],
	"queues.*.max_bytes":               limit[Bytes],
	"queues.*.ack_wait":                from(100 * time.Millisecond),
	"queues.*.max_ack_pending":         from(1),
	"queues.*.priorities":              lanes,
	"queues.*.poll":                    oneOf("strict", "weighted"),
	"results.ttl":                      from(100 * time.Millisecond),
	"results.max":                      from(int64(1)),
	"dead.max_age":                     from(100 * time.Millisecond),
	"worker.name":                      checked(wire.CheckID),
	"worker.queues.*":                  between(0, 10_000),
	"worker.grace":                     between(0, wire.MaxDuration),
	"worker.timeout":                   between(time.Millisecond, wire.MaxDuration),
	"worker.max_attempts":              between(1, wire.MaxAttempts),
	"worker.backoff.min":               between(time.Nanosecond, wire.MaxDuration),
	"worker.backoff.max":               between(time.Nanosecond, wire.MaxDuration),
	"worker.max_deaths":                from(1),
	"worker.unknown_task_park":         between(time.Millisecond, wire.MaxDuration),
	"worker.stuck_after":               between(0, wire.MaxDuration),
	"worker.unknown_task_after":        between(0, wire.MaxDuration),
	"janitor.every":                    between(time.Millisecond, wire.MaxDuration),
	"edges.ingest.*.topics":            sole(isTopic, ruleTopic),
	"edges.ingest.*.queue":             checked(wire.CheckQueue),
	"edges.ingest.*.task":              checked(checkOwnTask),
	"edges.ingest.*.session_timeout":   from(100 * time.Millisecond),
	"edges.ingest.*.rebalance_timeout": from(100 * time.Millisecond),
	"edges.ingest.*.max_batch":         between(1, 999),
	"edges.ingest.*.max_batch_bytes":   from(Bytes(1)),
	"edges.emit.*.queues":              each(isQueue, wire.RuleQueue),
	"edges.emit.*.topic":               one(isTopic, ruleTopic),
	"edges.emit.*.reply_topics":        each(isTopic, ruleTopic),
	"edges.emit.*.ledger_topic":        one(isTopic, ruleTopic),
	"edges.emit.*.shards":              between(1, 1000),
	"edges.emit.*.max_batch":           between(1, 100_000),
	"edges.emit.*.max_record_bytes":    between(Bytes(16<<10), 1<<30),
	"edges.emit.*.transaction_timeout": from(100 * time.Millisecond),
	"edges.emit.*.session_timeout":     from(100 * time.Millisecond),
	"edges.emit.*.grace":               from(time.Millisecond),
	"produce.topic":                    one(isTopic, ruleTopic),
	"produce.every":                    from(time.Duration(0)),
	"produce.count":                    from(0),
	"produce.linger":                   between(0, time.Minute),
	"produce.compression":              oneOf("none", "gzip", "snappy", "lz4", "zstd"),
	"produce.delivery_timeout":         from(time.Second),
	"produce.max_message_bytes":        between(Bytes(512), 100<<20),
	"produce.grace":                    from(time.Duration(0)),
	"nats.inbox_prefix":                one(isSubject, "must be a subject without wildcards"),
	"nats.monitor_url":                 one(isHTTP, "must be http://host:port"),
	"kafka.sasl.mechanism":             oneOf("plain", "scram-sha-256", "scram-sha-512"),
	"telemetry.addr":                   one(isListen, "must be host:port, such as 127.0.0.1:8581"),
	"log.level":                        oneOf("debug", "info", "warn", "error"),
	"log.levels.*":                     oneOf("debug", "info", "warn", "error"),
	"log.format":                       oneOf("auto", "console", "json"),
}

const ruleTopic = "must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -"

// article is what a name is of, with its article.
func article(kind string) string {
	if kind == "entry" {
		return "an " + kind
	}
	return "a " + kind
}

// checkNames are the rules for the names in keys, by what they are of.
var checkNames = map[string]func(string) error{
	"queue": wire.CheckQueue,
	"route": wire.CheckRoute,
	"entry": wire.CheckRoute,
	"header": func(name string) error {
		if !headerName.MatchString(name) {
			return &wire.NameError{Field: "header", Value: name, Rule: "must match " + headerName.String()}
		}
		return nil
	},
	"component": func(name string) error {
		if !componentName.MatchString(name) {
			return &wire.NameError{Field: "component", Value: name, Rule: "must match " + componentName.String()}
		}
		return nil
	},
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]{1,128}$`)

var componentName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

// between holds for numbers, sizes and durations. Constants without a type are
// durations where the greatest is one.
func between[T cmp.Ordered](least, most T) rule {
	return func(v any) string {
		if x, ok := v.(T); !ok || x < least || x > most {
			return fmt.Sprintf("must be from %v to %v", least, most)
		}
		return ""
	}
}

func from[T cmp.Ordered](least T) rule {
	return func(v any) string {
		if x, ok := v.(T); !ok || x < least {
			return fmt.Sprintf("must be at least %v", least)
		}
		return ""
	}
}

// limit is a number above zero, or -1 for none.
func limit[T ~int64](v any) string {
	if x, ok := v.(T); !ok || x < 1 && x != -1 {
		return "must be at least 1, or -1 for no limit"
	}
	return ""
}

func oneOf(words ...string) rule {
	return func(v any) string {
		if s, ok := v.(string); !ok || !slices.Contains(words, s) {
			last := len(words) - 1
			return "must be " + strings.Join(words[:last], ", ") + " or " + words[last]
		}
		return ""
	}
}

// checked takes its rule from the contract.
func checked(check func(string) error) rule {
	return func(v any) string {
		s, _ := v.(string)
		return ruleOf(check(s))
	}
}

func ruleOf(err error) string {
	if name, ok := err.(*wire.NameError); ok { //nolint:errorlint // made by the check itself
		return name.Rule
	}
	if err != nil {
		return "is wrong: " + err.Error()
	}
	return ""
}

func one(ok func(string) bool, text string) rule {
	return func(v any) string {
		if s, isText := v.(string); !isText || !ok(s) {
			return text
		}
		return ""
	}
}

// sole holds for a list of one.
func sole(ok func(string) bool, text string) rule {
	return func(v any) string {
		list, isList := v.([]string)
		switch {
		case !isList || len(list) != 1:
			return "must be one, not several"
		case !ok(list[0]):
			return text
		}
		return ""
	}
}

// each holds for a list, or for a text that is one element or several by comma.
// There must be at least one.
func each(ok func(string) bool, text string) rule {
	return func(v any) string {
		list, isList := v.([]string)
		if s, isText := v.(string); isText {
			list, isList = strings.Split(s, ","), true
		}
		if !isList || len(list) == 0 || slices.ContainsFunc(list, func(s string) bool { return !ok(s) }) {
			return text
		}
		return ""
	}
}

// lanes holds for the lanes that a queue may have beside its plain one.
func lanes(v any) string {
	list, isList := v.([]string)
	seen := map[string]bool{}
	for _, s := range list {
		isList = isList && !seen[s] && (s == string(wire.PriorityHigh) || s == string(wire.PriorityLow))
		seen[s] = true
	}
	if !isList || len(list) == 0 {
		return "must be high and low, each at most once"
	}
	return ""
}

// checkOwnTask holds for the tasks that users may send.
func checkOwnTask(name string) error {
	if strings.HasPrefix(name, wire.ReservedTaskPrefix) {
		return &wire.NameError{Field: "task", Value: name, Rule: "must not begin with " + wire.ReservedTaskPrefix}
	}
	return wire.CheckTask(name)
}

func isQueue(s string) bool { return wire.CheckQueue(s) == nil }

func isServer(s string) bool {
	_, ok := parseServer(s)
	return ok
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && n > 0 && host != "" && !strings.ContainsAny(host, " \t/@")
}

func isTopic(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && len(s) <= 249 && s != "." && s != ".." && strings.Trim(s, letters) == ""
}

func isSubject(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\r\n*>") && !slices.Contains(strings.Split(s, "."), "")
}

// isListen is host:port with port 0 allowed, for a free one.
func isListen(s string) bool {
	host, port, err := net.SplitHostPort(s)
	_, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && !strings.ContainsAny(host, " \t/@")
}

func isHTTP(s string) bool { return redactHTTP(s) != hidden }
