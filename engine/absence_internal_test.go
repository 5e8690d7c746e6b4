package engine

import (
	"testing"
	"time"

	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// TestAbsence: a queue of a broker that stands alone is missed soon. In a cluster
// it takes its leader's word, or longer than an election.
func TestAbsence(t *testing.T) {
	t.Parallel()
	alone, err := NewClient(enginetest.Start(t).Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(alone.Close)
	cluster := enginetest.StartCluster(t)
	cluster.Setup("there")
	one, err := NewClient(cluster.Conn(ConnectOptions(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.Close)
	for name, tc := range map[string]struct {
		c         *Client
		queue     string
		since     time.Duration
		forbidden bool // to ask whether there is such a stream
		want      bool
	}{
		"alone, at first":                {alone, "nosuch", 0, false, false},
		"alone, soon":                    {alone, "nosuch", absentAlone, false, true},
		"cluster, at first":              {one, "nosuch", 0, false, false},
		"cluster, soon":                  {one, "nosuch", absentAlone, false, true},
		"cluster, the stream is there":   {one, "there", absentAlone, false, false},
		"cluster, nobody may ask":        {one, "nosuch", absentAlone, true, false},
		"cluster, nobody may ask, later": {one, "nosuch", absentCluster, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			tc.c.asksNothing.Store(tc.forbidden)
			gone := absence{}
			if tc.since > 0 {
				gone.since = time.Now().Add(-tc.since)
			}
			if got := gone.believed(t.Context(), tc.c, wire.PlainLane(tc.queue)); got != tc.want {
				t.Errorf("%t, want %t", got, tc.want)
			}
		})
	}
}
