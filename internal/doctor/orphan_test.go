package doctor

import (
	"testing"

	"pelton/engine/topology"
)

// A consumer that asks for one task of two leaves the other to nobody, as a
// floor that is too high does.
func TestOrphans(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{})
	js := p.cfg.Client.JetStream()
	p.silent("orphans")
	for _, subject := range []string{"pelton.task.default.print", "pelton.task.default.other", "pelton.ledger.default.writer"} {
		if _, err := js.Publish(p.ctx(), subject, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	p.silent("orphans")
	consumer, err := js.Consumer(p.ctx(), "PELTON_TASKS_default", "workers")
	if err != nil {
		t.Fatal(err)
	}
	cfg := consumer.CachedInfo().Config
	cfg.FilterSubject = "pelton.task.default.print"
	if _, err := js.UpdateConsumer(p.ctx(), "PELTON_TASKS_default", cfg); err != nil {
		t.Fatal(err)
	}
	p.finds("orphans", Warn, "default: 1 tasks that no worker will be given")
}

// TestLedgers: a queue may have positions, but not so many that they are what
// fills it.
func TestLedgers(t *testing.T) {
	t.Parallel()
	p := newPatient(t, topology.Queue{MaxPending: 300})
	put := func(subject string) {
		if _, err := p.cfg.Client.JetStream().Publish(p.ctx(), subject, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		put("pelton.task.default.print")
	}
	for range 3 {
		put("pelton.ledger.default.writer")
	}
	p.silent("ledgers")
	put("pelton.ledger.default.other")
	p.finds("ledgers", Warn, "default: 4 positions of ingest and beat count against its limit, and no janitor trims them")
}
