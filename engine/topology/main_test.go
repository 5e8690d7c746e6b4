package topology_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(enginetest.Patient{M: m, Leaks: func() error { return goleak.Find() }})
}

// mail is the topology of a queue mail with a high lane.
func mail(t *testing.T, ns wire.Namespace, change ...func(*topology.Queue)) topology.Topology {
	t.Helper()
	q := topology.Queue{Name: "mail", Priorities: []wire.Priority{wire.PriorityHigh}}
	for _, f := range change {
		f(&q)
	}
	topo, err := topology.New(topology.Config{Namespace: ns, Queues: []topology.Queue{q}})
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func apply(t *testing.T, js jetstream.JetStream, topo topology.Topology) []topology.Change {
	t.Helper()
	done, err := topology.Apply(t.Context(), js, topo)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// mustBeAlike fails the test where the broker differs in anything.
func mustBeAlike(t *testing.T, js jetstream.JetStream, topo topology.Topology) {
	t.Helper()
	if err := topology.Verify(t.Context(), js, topo); err != nil {
		t.Errorf("Verify: %v", err)
	}
	changes, err := topology.Plan(t.Context(), js, topo)
	if err != nil || len(changes) > 0 {
		t.Errorf("Plan = %v, %v; want nothing", changes, err)
	}
}

// of is the first stream of a kind.
func of(topo topology.Topology, kind topology.Kind) topology.Stream {
	i := slices.IndexFunc(topo.Streams, func(s topology.Stream) bool { return s.Kind == kind })
	return topo.Streams[i]
}

func kinds(want ...topology.Kind) func(topology.Stream) bool {
	return func(s topology.Stream) bool { return slices.Contains(want, s.Kind) }
}

func objects(changes []topology.Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, string(c.Action)+" "+c.Object)
	}
	return out
}
