package emit

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pelton/edges/internal/kafka/kafkatest"
)

// Every queue has one shard, and every emitter sees the same sets.
func TestQueuesOfShards(t *testing.T) {
	cfg := Config{Shards: 7}
	for i := range 100 {
		cfg.Queues = append(cfg.Queues, fmt.Sprintf("queue-%d", i))
	}
	var all []string
	for shard := range int32(7) {
		got := cfg.queuesOf(shard)
		if len(got) == 0 {
			t.Errorf("shard %d has no queue", shard)
		}
		all = append(all, got...)
	}
	slices.Sort(all)
	want := slices.Sorted(slices.Values(cfg.Queues))
	if !slices.Equal(all, want) {
		t.Errorf("shards hold %v, want %v", all, want)
	}
	// The positions of all that runs depend on it.
	if got := (Config{Shards: 3, Queues: []string{"default", "mail", "slow"}}).queuesOf(1); !slices.Equal(got, []string{"mail", "slow"}) {
		t.Errorf("shard 1 of 3 has %v, want mail and slow: the hash has changed", got)
	}
}

// Emitters come and go, politely or not, while results come in.
func TestShardsMove(t *testing.T) {
	random := newRand(t)
	queues := []string{"a", "b", "c", "d", "e", "f"}
	w := newWorld(t, queues...)
	cfg := w.config()
	cfg.Queues, cfg.Shards = queues, 4
	cfg.SessionTimeout = 250 * time.Millisecond
	cfg.MaxBatch, cfg.Grace = 10, 500*time.Millisecond
	var emitted atomic.Int64
	cfg.OnEmit = func(Emitted) { emitted.Add(1) }
	w.ensureLedger(cfg)

	var writing sync.WaitGroup
	for _, queue := range queues {
		writing.Go(func() { w.succeed(queue, 0, 150) })
	}
	var dialer net.Dialer
	links := map[*emitter]*kafkatest.Link{}
	start := func() *emitter {
		link := kafkatest.NewLink(dialer.DialContext)
		own := cfg
		own.Kafka.Dial = link.Dial
		r := w.start(own)
		links[r] = link
		return r
	}
	running := []*emitter{start()}
	for round := range int64(12) {
		running = append(running, start())
		w.waitFor(func() bool { return emitted.Load() >= 40*round })
		if len(running) > 1+random.IntN(3) {
			leaver := running[0]
			running = running[1:]
			if random.IntN(2) == 0 {
				links[leaver].Cut() // says goodbye to nobody
				leaver.cancel()
				continue
			}
			leaver.stop()
		}
	}
	writing.Wait()
	w.feed(resultTopic).wait()
	for _, r := range running {
		r.stop()
	}
	w.exact()
}

// A second emitter takes over when the first one falls silent, and the first
// one waits for its turn when it is back.
func TestTakeOver(t *testing.T) {
	w := newWorld(t, "default")
	var d net.Dialer
	link := kafkatest.NewLink(d.DialContext)
	cfg := w.config()
	cfg.SessionTimeout = 300 * time.Millisecond
	w.ensureLedger(cfg)
	silent := cfg
	silent.Kafka.Dial = link.Dial
	f := w.feed(resultTopic)

	first := w.start(silent)
	w.succeed("default", 0, 20)
	f.wait()
	second := w.start(cfg)
	if _, err := w.cluster.WaitGroupStable(w.ctx, "pelton-emit-results", 2); err != nil {
		t.Fatal(err)
	}
	link.Cut()
	w.succeed("default", 20, 20)
	f.wait()
	link.Restore()
	if _, err := w.cluster.WaitGroupStable(w.ctx, "pelton-emit-results", 2); err != nil {
		t.Fatal(err)
	}
	w.succeed("default", 40, 20)
	f.wait()
	first.stop()
	w.succeed("default", 60, 20)
	f.wait()
	second.stop()
	w.exact()
}

// The group must not read the ledger: it may be long, and nobody looks at it.
func TestGroupFetchesNothing(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	r := w.start(cfg)
	w.succeed("default", 0, 20)
	w.feed(resultTopic).wait()
	if info := w.cluster.GroupInfo("pelton-emit-results"); info == nil || len(info.Members) != 1 {
		t.Errorf("group %+v, want one member", info)
	}
	r.stop()
	if info := w.cluster.GroupInfo("pelton-emit-results"); info != nil && len(info.Members) != 0 {
		t.Errorf("group has %d members after the end, want none", len(info.Members))
	}
}

func TestLedgerHasTooFewPartitions(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	cfg.Shards = 2
	r := w.start(cfg)
	<-r.ended
	if r.err == nil || !strings.Contains(r.err.Error(), `"pelton.ledger" has 1 partitions, 2 shards need as many`) {
		t.Errorf("Run: %v", r.err)
	}
}

func TestEnsureLedger(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Shards = 3
	if created, err := EnsureLedger(w.ctx, cfg); err != nil || !created {
		t.Fatalf("created %t, %v", created, err)
	}
	info := w.cluster.TopicInfo(ledgerTopic)
	if got := len(w.cluster.PartitionInfos(ledgerTopic)); got != 3 {
		t.Errorf("%d partitions, want 3", got)
	}
	for key, want := range LedgerTopicSpec(cfg).Configs {
		if got := info.Configs[key]; got == nil || *got != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
	cfg.Shards = 2 // another edge that shares it
	if created, err := EnsureLedger(w.ctx, cfg); err != nil || created {
		t.Errorf("created %t, %v, want what is there to do", created, err)
	}
	cfg.Shards = 4
	if _, err := EnsureLedger(w.ctx, cfg); err == nil {
		t.Error("4 shards on 3 partitions: no error")
	}
}

// With another number of shards a queue would belong to two of them.
func TestShardsChanged(t *testing.T) {
	for _, test := range []struct{ before, after int }{{1, 2}, {2, 1}} {
		t.Run(fmt.Sprintf("%d to %d", test.before, test.after), func(t *testing.T) {
			queues := []string{"a", "b", "c", "d"}
			w := newWorld(t, queues...)
			cfg := w.config()
			cfg.Queues, cfg.Shards = queues, 2
			w.ensureLedger(cfg)
			cfg.Shards = test.before
			r := w.start(cfg)
			for _, queue := range queues {
				w.succeed(queue, 0, 5)
			}
			w.feed(resultTopic).wait()
			r.stop()

			cfg.Shards = test.after
			stop := w.stopped(w.start(cfg))
			if !strings.Contains(stop.What, fmt.Sprintf("with shards = %d it belongs to partition", test.after)) {
				t.Errorf("stopped: %v", stop)
			}
			w.exact()

			cfg.Shards = test.before
			r = w.start(cfg)
			w.succeed("a", 10, 5)
			w.feed(resultTopic).wait()
			r.stop()
			w.exact()
		})
	}
}

// Absent brokers, ledger, topic and bucket are waited for, one after the other.
func TestWaitsForWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	var d net.Dialer
	link := kafkatest.NewLink(d.DialContext)
	link.Cut()
	cfg := w.config()
	cfg.Kafka.Dial = link.Dial
	if err := w.cluster.DeleteTopic(resultTopic); err != nil {
		t.Fatal(err)
	}
	r := w.start(cfg)
	wait := func(line string) {
		t.Helper()
		if err := w.journal.Wait(w.ctx, line); err != nil {
			t.Fatal(err)
		}
	}
	wait("WARN kafka unreachable, waiting for it")
	link.Restore()
	wait("WARN ledger topic cannot be used, waiting for it")
	w.ensureLedger(cfg)
	wait("WARN results are not emitted, trying again") // no topic
	if err := w.cluster.CreateTopic(resultTopic, 2, nil); err != nil {
		t.Fatal(err)
	}
	w.waitFor(func() bool { return w.said("WARN results are not emitted, trying again") >= 2 }) // no bucket
	w.bucket("default")
	w.succeed("default", 0, 10)
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
	if w.said("WARN kafka unreachable, waiting for it") != 1 || w.said("WARN ledger topic cannot be used, waiting for it") != 1 ||
		w.said("WARN results are not emitted, trying again") != 2 {
		t.Errorf("log %q, want each thing missing said once", w.journal.Lines())
	}
}

// said is how often a line was logged.
func (w *world) said(line string) (n int) {
	for _, l := range w.journal.Lines() {
		if l == line {
			n++
		}
	}
	return n
}

// A queue that is not set up yet holds up no other.
func TestQueueWithoutBucket(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	cfg.Queues = []string{"default", "mail"}
	w.ensureLedger(cfg)
	r := w.start(cfg)
	f := w.feed(resultTopic)
	w.succeed("default", 0, 10)
	f.wait()
	w.bucket("mail")
	w.succeed("mail", 0, 10)
	f.wait()
	r.stop()
	w.exact()
}

// The topic of the results goes away and comes back.
func TestTopicDeleted(t *testing.T) {
	w := newWorld(t, "default")
	cfg := w.config()
	w.ensureLedger(cfg)
	r := w.start(cfg)
	w.succeed("default", 0, 10)
	w.feed(resultTopic).wait()
	if err := w.cluster.DeleteTopic(resultTopic); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	clear(w.want)
	w.mu.Unlock()
	w.succeed("default", 10, 10)
	w.waitFor(func() bool { return r.Stats().Failures > 0 })
	if err := w.cluster.CreateTopic(resultTopic, 3, nil); err != nil {
		t.Fatal(err)
	}
	w.feed(resultTopic).wait()
	r.stop()
	w.exact()
}
