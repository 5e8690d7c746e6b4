package config

import (
	"fmt"
	"maps"
	"slices"
)

// alternatives are ways to say the same thing of which one counts: the one that
// stands in the strongest place. Two in one place are a contradiction.
var alternatives = [][][]string{
	{{"nats.url"}, {"nats.context"}},
	{{"nats.creds_file"}, {"nats.nkey_file"}, {"nats.user", "nats.password"}, {"nats.token"}},
}

// choose leaves of each alternative what counts.
func (l *loader) choose() {
	for _, ways := range alternatives {
		best, bestOrigin, found := "", origin{}, false
		var losers []string
		for _, way := range ways {
			key, from, ok := l.nearestOf(way)
			switch {
			case !ok:
			case found && bestOrigin.source == natsURL && from.source == natsContext:
				losers = append(losers, way...) // as in the nats command line
			case found && from.rank == bestOrigin.rank:
				l.fail(excluded(from.source, fmt.Sprintf("%s (%s)", best, bestOrigin.source), key))
			case found && from.rank < bestOrigin.rank:
				losers = append(losers, way...)
			default:
				if found {
					losers = append(losers, wayOf(ways, best)...)
				}
				best, bestOrigin, found = key, from, true
			}
		}
		l.drop(losers)
	}
}

func wayOf(ways [][]string, key string) []string {
	return ways[slices.IndexFunc(ways, func(way []string) bool { return slices.Contains(way, key) })]
}

// drop sets keys back to what they are by default.
func (l *loader) drop(keys []string) {
	again := map[string]any{}
	for _, key := range keys {
		l.ko.Delete(key)
		delete(l.sources, key)
		if value, ok := defaults()[key]; ok {
			again[key] = value
		}
	}
	l.merge(again)
}

// contradictions are settings that are right each by itself and not together.
func contradictions(c *Config) []error {
	var errs []error
	fail := func(key, rule, value string) {
		errs = append(errs, &Error{Source: c.Source(key), Key: key, Rule: rule, Value: value})
	}
	needs := func(key string, set bool, other string, otherSet bool) {
		if set && !otherSet {
			fail(key, "must not stand without "+other, "")
		}
	}
	both := func(key string, set bool, other string, otherSet bool) {
		needs(key, set, other, otherSet)
		needs(other, otherSet, key, set)
	}
	both("nats.user", c.NATS.User != "", "nats.password", !c.NATS.Password.IsZero())
	both("nats.tls.cert_file", c.NATS.TLS.CertFile != "", "nats.tls.key_file", c.NATS.TLS.KeyFile != "")
	both("kafka.tls.cert_file", c.Kafka.TLS.CertFile != "", "kafka.tls.key_file", c.Kafka.TLS.KeyFile != "")
	sasl := c.Kafka.SASL
	both("kafka.sasl.user", sasl.User != "", "kafka.sasl.password", !sasl.Password.IsZero())
	both("kafka.sasl.user", sasl.User != "", "kafka.sasl.mechanism", sasl.Mechanism != "")
	if c.Worker.Backoff.Min > c.Worker.Backoff.Max {
		key := "worker.backoff.min"
		if !c.IsSet(key) {
			key = "worker.backoff.max"
		}
		fail(key, fmt.Sprintf("must leave worker.backoff.min (%s) at most worker.backoff.max (%s)", c.Worker.Backoff.Min, c.Worker.Backoff.Max), "")
	}
	if key := "produce.idempotent"; c.IsSet(key) && c.Produce.Idempotent && c.Kafka.Acks != "all" {
		fail("kafka.acks", fmt.Sprintf("must be all while %s is true (%s)", key, c.Source(key)), c.Kafka.Acks)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Edges.Emit)) {
		edge := c.Edges.Emit[name]
		if queue, twice := repeated(edge.Queues); twice {
			fail("edges.emit."+name+".queues", "must name each queue once", queue)
		}
		if edge.LedgerTopic != "" && (edge.LedgerTopic == edge.Topic || slices.Contains(edge.ReplyTopics, edge.LedgerTopic)) {
			fail("edges.emit."+name+".ledger_topic", "must be a topic of its own, results are written to this one", edge.LedgerTopic)
		}
	}
	return errs
}

func repeated(list []string) (string, bool) {
	for i, item := range list {
		if slices.Contains(list[:i], item) {
			return item, true
		}
	}
	return "", false
}
