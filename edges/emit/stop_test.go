package emit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/wire"
)

func TestPositionCheck(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	created := now.Add(-100 * time.Hour)
	for _, test := range []struct {
		name   string
		at     time.Duration // of the position, before now
		seq    uint64
		change func(*jetstream.StreamInfo)
		want   string // empty: go on
	}{
		{name: "nothing after it", at: 50 * time.Hour, seq: 20, change: func(i *jetstream.StreamInfo) { i.State.FirstSeq, i.State.Msgs = 21, 0 }},
		{name: "all after it is there", at: 50 * time.Hour, seq: 9},
		{name: "a gap, looked for lately", at: 23 * time.Hour, seq: 5},
		{name: "a gap in a bucket that keeps all", at: 50 * time.Hour, seq: 5, change: func(i *jetstream.StreamInfo) { i.Config.MaxAge = 0 }},
		{name: "a gap, one lifetime old", at: 24 * time.Hour, seq: 5, want: "longer ago than the 24h0m0s"},
		{name: "empty, one lifetime old", at: 24 * time.Hour, seq: 5, want: "longer ago", change: func(i *jetstream.StreamInfo) { i.State.FirstSeq, i.State.Msgs = 21, 0 }},
		{name: "beyond the end", seq: 21, want: "it has lost its end"},
		{name: "made anew", seq: 15, want: "it was made anew", change: func(i *jetstream.StreamInfo) { i.Created = now }},
		{name: "another stream", seq: 15, want: "the position is one of stream S", change: func(i *jetstream.StreamInfo) { i.Config.Name = "T" }},
		{name: "full", at: time.Minute, seq: 5, want: "may have been dropped", change: func(i *jetstream.StreamInfo) { i.Config.MaxMsgs = 11 }},
		{name: "full, but nothing is missing", at: time.Minute, seq: 9, change: func(i *jetstream.StreamInfo) { i.Config.MaxMsgs = 11 }},
		{name: "full, and refuses", at: time.Minute, seq: 5, change: func(i *jetstream.StreamInfo) {
			i.Config.MaxMsgs, i.Config.Discard = 11, jetstream.DiscardNew
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			info := &jetstream.StreamInfo{
				Config:    jetstream.StreamConfig{Name: "S", MaxAge: 24 * time.Hour, MaxMsgs: 1000},
				Created:   created,
				State:     jetstream.StreamState{Msgs: 11, FirstSeq: 10, LastSeq: 20},
				TimeStamp: now,
			}
			if test.change != nil {
				test.change(info)
			}
			err := position{Stream: "S", Created: created, Sequence: test.seq, At: now.Add(-test.at)}.check("results", info)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// A bucket made anew counts from one again: its results would be passed over.
func TestBucketMadeAnew(t *testing.T) {
	for _, test := range []struct {
		name    string
		running bool
	}{{"while it runs", true}, {"while it is away", false}} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, "default")
			cfg := w.config()
			w.ensureLedger(cfg)
			r := w.start(cfg)
			w.succeed("default", 0, 20)
			w.feed(resultTopic).wait()
			if !test.running {
				r.stop()
			}
			stream := wire.DefaultNamespace.ResultsStream("default")
			if err := w.js.DeleteStream(w.ctx, stream); err != nil {
				t.Fatal(err)
			}
			w.bucket("default")
			w.succeed("default", 20, 5)
			if !test.running {
				r = w.start(cfg)
			}
			stop := w.stopped(r)
			if stop.Where != stream || !strings.Contains(stop.What, "made anew") || !strings.Contains(stop.Do, "the first one there is ") {
				t.Errorf("stopped: %v", stop)
			}

			cfg.From = map[string]uint64{"default": 1} // the operator's answer
			r = w.start(cfg)
			w.feed(resultTopic).wait()
			r.stop()
			cfg.From = nil
			r = w.start(cfg)
			w.succeed("default", 25, 5)
			w.feed(resultTopic).wait()
			r.stop()
			w.exact()
		})
	}
}

// Results that expired while nobody looked are an alarm; a gap is not.
func TestExpiredUnseen(t *testing.T) {
	w := newWorld(t)
	stream := w.bucket("default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 0, 20)
	info, err := stream.Info(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(w.ctx, jetstream.WithPurgeSequence(10)); err != nil {
		t.Fatal(err)
	}
	p := position{Stream: info.Config.Name, Created: info.Created, Sequence: 2, At: info.TimeStamp.Add(-25 * time.Hour)}
	w.ledgerRecord("default", &p)
	stop := w.stopped(w.start(cfg))
	if !strings.Contains(stop.What, "longer ago than the 24h0m0s for which they are kept") {
		t.Errorf("stopped: %v", stop)
	}
	p.At = info.TimeStamp.Add(-23 * time.Hour)
	w.ledgerRecord("default", &p)
	r := w.start(cfg)
	w.put("default", "later", wire.StateSucceeded)
	w.feed(resultTopic).wait("later")
	r.stop()
}

// While it reads, an emitter that is a lifetime behind may have missed results,
// unless it has only just begun with the bucket.
func TestExpiredWhileReading(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		name  string
		at    time.Time
		next  uint64
		first bool
		stops bool
	}{
		{"in time", now.Add(-time.Hour), 9, false, false},
		{"behind, no gap", now.Add(-25 * time.Hour), 6, false, false},
		{"behind", now.Add(-25 * time.Hour), 7, false, true},
		{"behind, at the beginning", now.Add(-25 * time.Hour), 7, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := &queue{lifetime: 24 * time.Hour, first: test.first, read: position{Sequence: 5, At: test.at}}
			x := &session{shard: &shard{e: &Emit{}}}
			err := x.pass(&result{source: &source{queue: q}, sequence: test.next, stored: now})
			if errors.Is(err, ErrStopped) != test.stops {
				t.Errorf("pass: %v, want stopped %t", err, test.stops)
			}
			if !test.stops && q.read.Sequence != test.next {
				t.Errorf("read to %d, want %d", q.read.Sequence, test.next)
			}
		})
	}
}

func TestStreamLostItsEnd(t *testing.T) {
	w := newWorld(t)
	info := w.bucket("default").CachedInfo()
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 0, 5)
	w.ledgerRecord("default", &position{Stream: info.Config.Name, Created: info.Created, Sequence: 1000, At: time.Now()})
	if stop := w.stopped(w.start(cfg)); !strings.Contains(stop.What, "it has lost its end") {
		t.Errorf("stopped: %v", stop)
	}
}

func TestLedgerUnreadable(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.ledgerRecord("default", &position{})
	if stop := w.stopped(w.start(cfg)); stop.Where != "pelton.ledger/0@0" || !strings.Contains(stop.What, `"results/default" cannot be read`) {
		t.Errorf("stopped: %v", stop)
	}
	w.ledgerRecord("default", nil) // a tombstone
	r := w.start(cfg)
	w.succeed("default", 0, 5)
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
}
