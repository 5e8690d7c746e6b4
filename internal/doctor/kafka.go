package doctor

import (
	"context"
	"errors"

	"pelton/edges/emit"
	"pelton/edges/produce"
)

// kafka looks for the topics of the routes and for the ledger topics.
func kafka(ctx context.Context, cfg Config) ([]Finding, error) {
	var found []Finding
	for _, topic := range cfg.Topics {
		err := produce.FindTopic(ctx, cfg.Kafka, topic)
		if err != nil && !errors.Is(err, produce.ErrNoTopic) {
			return found, err // the same for all
		}
		if err != nil {
			found = append(found, note(Fail, "make the topic: kafka-topics.sh --create --topic "+topic, "topic %s does not exist", topic))
			continue
		}
		found = append(found, note(OK, "", "topic %s is there", topic))
	}
	for _, edge := range cfg.Ledgers {
		f, err := ledger(ctx, edge)
		if err != nil {
			return found, err
		}
		found = append(found, f)
	}
	return found, nil
}

// ledger verifies a ledger topic that is there; it must not make one.
func ledger(ctx context.Context, edge emit.Config) (Finding, error) {
	topic := emit.LedgerTopicSpec(edge).Name
	switch err := produce.FindTopic(ctx, edge.Kafka, topic); {
	case errors.Is(err, produce.ErrNoTopic):
		return note(Fail, "pelton setup apply", "ledger topic %s of edge %s does not exist", topic, edge.Name), nil
	case err != nil:
		return Finding{}, err
	}
	if _, err := emit.EnsureLedger(ctx, edge); err != nil {
		return note(Fail, "mend the topic's settings by hand", "%v", err), nil
	}
	return note(OK, "", "ledger topic %s is as needed", topic), nil
}
