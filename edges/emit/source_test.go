package emit

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

// TestStalls: what the broker has delivered has to arrive while it may be silent,
// unless something of the same source waits here.
func TestStalls(t *testing.T) {
	const quick, long = pullSilence / 10, pullSilence
	type look struct {
		after          time.Duration
		behind         bool
		arrived, taken uint64
		want           bool
	}
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"two looks close together", []look{{quick, true, 1, 1, false}, {quick, true, 1, 1, false}}},
		{"nothing for long", []look{{quick, true, 1, 1, false}, {quick, true, 1, 1, false}, {long, true, 1, 1, true}}},
		{"it goes on", []look{{quick, true, 1, 1, false}, {long, true, 2, 2, false}, {long, true, 3, 3, false}}},
		{"there is nothing more", []look{{quick, true, 1, 1, false}, {long, false, 1, 1, false}, {long, true, 1, 1, false}, {long, true, 1, 1, true}}},
		{"the session is slow", []look{{quick, true, 2, 1, false}, {long, true, 2, 1, false}, {long, true, 2, 2, false}, {long, true, 2, 2, true}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src, now := &source{}, time.Now()
			for i, l := range tc.looks {
				now = now.Add(l.after)
				src.arrived.Store(l.arrived)
				src.taken = l.taken
				if got := src.stalls(l.behind, now); got != l.want {
					t.Fatalf("look %d: stalls %v", i+1, got)
				}
			}
		})
	}
}

// consumers are the names of those that read a queue's bucket.
func (w *world) consumers(queue string) []string {
	w.t.Helper()
	stream, err := w.js.Stream(w.ctx, wire.DefaultNamespace.ResultsStream(queue))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	lister := stream.ConsumerNames(w.ctx)
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		w.t.Fatal(err)
	}
	return names
}

// ledgerOf reads the positions of a queue that were ever written.
func (w *world) ledgerOf(queue string, enough func([]position) bool) []position {
	w.t.Helper()
	cl := w.client(kgo.ConsumeTopics(ledgerTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var all []position
	for !enough(all) {
		fetches := cl.PollFetches(w.ctx)
		if w.ctx.Err() != nil {
			w.t.Fatalf("positions %+v are not enough; log %q", all, w.journal.Lines())
		}
		for _, r := range fetches.Records() {
			if string(r.Key) != "results/"+queue {
				continue
			}
			var p position
			if err := json.Unmarshal(r.Value, &p); err != nil {
				w.t.Fatal(err)
			}
			all = append(all, p)
		}
	}
	return all
}

// A quiet queue's position stays fresh, so that a quiet time and a long absence
// do not look alike.
func TestPositionOfQuietQueueIsRenewed(t *testing.T) {
	w := newWorld(t)
	w.bucket("default", func(cfg *jetstream.StreamConfig) { cfg.MaxAge = 2 * time.Second })
	cfg := w.config()
	w.ensureLedger(cfg)
	r := w.start(cfg)
	all := w.ledgerOf("default", func(all []position) bool { return len(all) >= 3 })
	for i, p := range all[1:] {
		if step := p.At.Sub(all[i].At); p.Sequence != 0 || step < 500*time.Millisecond {
			t.Errorf("position %+v after %+v, want it renewed after a quarter of 2s", p, all[i])
		}
	}
	// Records of work under way move it and are not emitted.
	w.put("default", "a", wire.StateStarted)
	w.put("default", "b", wire.StateRetrying)
	w.ledgerOf("default", func(all []position) bool { return len(all) > 0 && all[len(all)-1].Sequence == 2 })
	r.stop()
	w.exact()
	if got := r.Stats(); got.Emitted != 0 || got.Failures != 0 {
		t.Errorf("stats %+v, want nothing emitted", got)
	}
}

// Where a queue begins is written before its first result.
func TestFirstPositionIsWrittenAtOnce(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	w.succeed("default", 1, 1) // two records, of which the second replaces the first
	r := w.start(cfg)
	w.feed(resultTopic).wait()
	r.stop()
	all := w.ledgerOf("default", func(all []position) bool { return len(all) >= 2 })
	if all[0].Sequence >= all[1].Sequence || all[0].Stream != "KV_PELTON_RESULTS_default" || all[0].Created.IsZero() {
		t.Errorf("positions %+v", all)
	}
}

// A consumer that goes away takes nothing with it.
func TestConsumerDeleted(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	r := w.start(cfg)
	f := w.feed(resultTopic)
	for round := range 3 {
		w.succeed("default", round*10, 10)
		f.wait()
		failures := r.Stats().Failures
		var names []string
		w.waitFor(func() bool { names = w.consumers("default"); return len(names) > 0 })
		for _, name := range names {
			if err := w.js.DeleteConsumer(w.ctx, wire.DefaultNamespace.ResultsStream("default"), name); err != nil {
				t.Fatal(err)
			}
		}
		w.waitFor(func() bool { return r.Stats().Failures > failures })
	}
	w.succeed("default", 30, 10)
	f.wait()
	r.stop()
	w.exact()
	if names := w.consumers("default"); len(names) != 0 {
		t.Errorf("consumers %v are left", names)
	}
}

// Messages that were delivered and did not arrive are missed, whether more come
// after them or not.
func TestLostDelivery(t *testing.T) {
	for _, test := range []struct {
		name  string
		after int // results that come after the lost one
	}{{"in the middle", 5}, {"at the end", 0}} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, "default")
			cfg := w.config()
			cfg.CheckInterval = 20 * time.Millisecond
			w.ensureLedger(cfg)
			stolen := make(chan struct{})
			var steal sync.Once
			cfg.hooks.at = func(step string, _ int32) error {
				if step != stepEnded {
					return nil
				}
				steal.Do(func() {
					w.steal("default")
					close(stolen)
				})
				return nil
			}
			r := w.start(cfg)
			<-stolen
			w.succeed("default", 1, test.after)
			w.feed(resultTopic).wait()
			r.stop()
			w.exact()
			if r.Stats().Failures == 0 {
				t.Error("nothing was missed: the loss did not happen")
			}
		})
	}
}

// steal takes the newest result from the emitter's consumer, by a request of its
// own. The broker serves requests in turn, so it may take some tries.
func (w *world) steal(queue string) {
	w.t.Helper()
	request := "$JS.API.CONSUMER.MSG.NEXT." + wire.DefaultNamespace.ResultsStream(queue) + "." + w.consumers(queue)[0]
	inbox := w.nc.NewInbox()
	sub, err := w.nc.SubscribeSync(inbox)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.nc.PublishRequest(request, inbox, []byte(`{"batch":1,"expires":60000000000}`)); err != nil {
		w.t.Fatal(err)
	}
	for i := 0; ; i++ {
		w.put(queue, "stolen-"+strconv.Itoa(i), wire.StateSucceeded)
		if _, err := sub.NextMsg(100 * time.Millisecond); err == nil {
			return
		}
		if w.ctx.Err() != nil {
			w.t.Fatal("nothing could be stolen")
		}
	}
}

// A result larger than the bytes of a pull comes all the same.
func TestResultLargerThanAPull(t *testing.T) {
	w := newWorld(t)
	taken := make(chan int, 10)
	p := &puller{nc: w.nc, inbox: w.nc.NewInbox(), messages: make(chan *nats.Msg, 100)}
	js, err := jetstream.New(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(w.ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(w.ctx, "S", jetstream.ConsumerConfig{Name: "c", AckPolicy: jetstream.AckNonePolicy}); err != nil {
		t.Fatal(err)
	}
	p.request = "$JS.API.CONSUMER.MSG.NEXT.S.c"
	sub, err := w.nc.ChanSubscribe(p.inbox+".*", p.messages)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for _, size := range []int{10, 100_000, 20} {
		if _, err := js.Publish(w.ctx, "s", make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	small := pull{Batch: 10, MaxBytes: 50_000, Expires: pullExpiry, Heartbeat: pullHeartbeat}
	done := make(chan error, 1)
	go func() {
		done <- p.run(ctx, small, func(m *nats.Msg) error { taken <- len(m.Data); return nil })
	}()
	for _, want := range []int{10, 100_000, 20} {
		select {
		case got := <-taken:
			if got != want {
				t.Errorf("took %d bytes, want %d", got, want)
			}
		case err := <-done:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
}

func TestPullEnded(t *testing.T) {
	for _, test := range []struct {
		status, description string
		ended               bool
		err                 string
	}{
		{"100", "Idle Heartbeat", false, ""},
		{"408", "Request Timeout", true, ""},
		{"409", "Batch Completed", true, ""},
		{"409", "Message Size Exceeds MaxBytes", true, ""},
		{"409", "Consumer Deleted", false, "Consumer Deleted"},
		{"409", "Leadership Change", false, "Leadership Change"},
		{"503", "", false, "503"},
	} {
		ended, err := pullEnded(test.status, test.description)
		if ended != test.ended || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s %s: ended %t, %v", test.status, test.description, ended, err)
		}
	}
}

// Results that wait too long are said to, once.
func TestLagIsSaid(t *testing.T) {
	w := newWorld(t)
	e, err := New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	s := newShard(e, nil, 0)
	q := s.queues[0]
	q.lifetime = 24 * time.Hour
	for _, lag := range []time.Duration{0, 12 * time.Hour, 13 * time.Hour, 14 * time.Hour, time.Hour, 13 * time.Hour} {
		s.watchLag(w.ctx, q, lag)
	}
	want := "WARN results wait to be emitted and are soon forgotten," +
		"INFO results are emitted in time again," +
		"WARN results wait to be emitted and are soon forgotten"
	if got := strings.Join(w.journal.Lines(), ","); got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}
