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
