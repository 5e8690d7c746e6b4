package topology_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

// TestRights holds what is asked of the broker against the permissions that
// the roles are given.
func TestRights(t *testing.T) {
	var asked []string
	broker := enginetest.Start(t)
	js, err := jetstream.New(broker.Conn(), jetstream.WithClientTrace(&jetstream.ClientTrace{
		RequestSent: func(subject string, _ []byte) { asked = append(asked, subject) },
	}))
	if err != nil {
		t.Fatal(err)
	}
	topo := mail(t, "")
	apply(t, js, topo)
	mustAskOnly(t, asked, "STREAM.CREATE.", "STREAM.INFO.", "CONSUMER.CREATE.")

	byHand := of(mail(t, ""), topology.Tasks)
	byHand.Config.AllowDirect = false
	byHand.Consumers[0].MaxDeliver = 5
	admin := broker.JetStream()
	if _, err := admin.UpdateStream(t.Context(), byHand.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UpdateConsumer(t.Context(), byHand.Config.Name, byHand.Consumers[0]); err != nil {
		t.Fatal(err)
	}
	asked = nil
	apply(t, js, topo)
	mustAskOnly(t, asked, "STREAM.UPDATE.", "STREAM.INFO.", "CONSUMER.CREATE.", "CONSUMER.INFO.")

	asked = nil
	if err := topology.Verify(t.Context(), js, topo.Only(kinds(topology.Results))); err != nil {
		t.Fatal(err)
	}
	if want := []string{"$JS.API.STREAM.INFO.KV_PELTON_RESULTS_mail"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	asked = nil
	if err := topology.Verify(t.Context(), js, topo); err != nil {
		t.Fatal(err)
	}
	mustAskOnly(t, asked, "STREAM.INFO.", "CONSUMER.INFO.")
}

// mustAskOnly fails unless just these parts of the API were asked, each at
// least once.
func mustAskOnly(t *testing.T, asked []string, parts ...string) {
	t.Helper()
	used := make(map[string]bool)
	for _, subject := range asked {
		i := slices.IndexFunc(parts, func(part string) bool { return strings.HasPrefix(subject, "$JS.API."+part) })
		if i < 0 {
			t.Errorf("asked %s", subject)
			continue
		}
		used[parts[i]] = true
	}
	for _, part := range parts {
		if !used[part] {
			t.Errorf("never asked %s", part)
		}
	}
}
