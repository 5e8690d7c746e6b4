//go:build e2e

package schedules

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pelton/engine"
)

// skews are how wrong the clocks of three beats are.
var skews = []time.Duration{-2 * time.Second, 0, 2 * time.Second}

// troubled are three beats as processes, and a broker, to whom things happen.
type troubled struct {
	w                       *world
	beats                   []*process
	stopped                 int // which one is; -1 where none is
	kills, stops, restarted int
}

// Three beats as processes, with clocks four seconds apart, are killed, stopped
// longer than any of them waits for anything, and continued, while the broker is
// started again now and then. No worker runs: every task that was ever stored is
// there to be counted.
func TestBeatsInTrouble(t *testing.T) {
	w := newWorld(t)
	w.put(every("one", time.Second))
	w.put(every("two", 2*time.Second))
	tr := &troubled{w: w, beats: make([]*process, len(skews)), stopped: -1}
	for i, skew := range skews {
		tr.beats[i] = w.process(skew)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(1, seed))
	end := time.Now().Add(troubleFor)
	for step := 0; time.Now().Before(end); step++ {
		<-time.After(time.Duration(500+random.IntN(2000)) * time.Millisecond)
		kind := random.IntN(4)
		if step < 3 {
			kind = step // each of them at least once
		}
		tr.happens(kind, random.IntN(len(tr.beats)))
	}
	before := w.position("default", "one").Counts[Fired]
	w.decided("default", "one", func(p position) bool { return p.Counts[Fired] > before+3 })
	for _, p := range tr.beats {
		p.kill()
	}
	for name, d := range map[string]time.Duration{"one": time.Second, "two": 2 * time.Second} {
		fired, skipped := w.whole(name, "default", d)
		t.Logf("entry %s: %d sent once, %d skipped and told; %d kills, %d stops of %s, %d restarts of the broker",
			name, fired, skipped, tr.kills, tr.stops, stoppedFor, tr.restarted)
	}
	if t.Failed() {
		for _, p := range tr.beats {
			t.Log(p.log)
		}
	}
}

// happens does one thing to one of them; nothing where kind is 3, to let them be
// for a while.
func (tr *troubled) happens(kind, i int) {
	switch kind {
	case 0:
		if tr.stopped < 0 {
			tr.stopped = i
			tr.stops++
			tr.beats[i].stopFor(tr.w.T, stoppedFor)
		} else if tr.beats[tr.stopped].runs() {
			tr.stopped = -1
		}
	case 1:
		if err := tr.w.broker.Restart(); err != nil {
			tr.w.Fatal(err)
		}
		tr.restarted++
	case 2:
		if i == tr.stopped {
			i = (i + 1) % len(tr.beats)
		}
		tr.beats[i].kill()
		tr.beats[i] = tr.w.process(skews[i])
		tr.kills++
	}
}

// stopFor stops a process, and lets it go on later.
func (p *process) stopFor(t *testing.T, d time.Duration) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	time.AfterFunc(d, func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) })
}

// runs reports whether a process is not stopped.
func (p *process) runs() bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") T ")
}

// Control: the same three beats, left in peace, with ledgers that expect no
// sequence.
func TestBeatsWithoutFence(t *testing.T) {
	w := newWorld(t)
	w.put(every("one", time.Second))
	beats := make([]*process, len(skews))
	for i, skew := range skews {
		beats[i] = w.process(skew, withoutFence)
	}
	w.decided("default", "one", func(p position) bool { return p.Counts[Fired] >= 6 })
	for _, p := range beats {
		p.kill()
	}
	doubles := 0
	for _, n := range w.sent("default") {
		if n > 1 {
			doubles++
		}
	}
	t.Logf("%d occurrences were stored more than once", doubles)
	if doubles == 0 {
		t.Error("nothing was stored twice: the control proves nothing")
	}
}

// How late occurrences begin where a hundred entries are due each second, by a
// worker in the same process. The figures are printed; on a machine that is busy
// they say little, so what fails is only a second, an occurrence's whole time.
func TestLateness(t *testing.T) {
	for _, beats := range []int{1, 3} {
		t.Run(strconv.Itoa(beats), func(t *testing.T) {
			w := newWorld(t)
			began := w.beginnings()
			for i := range 100 {
				w.put(every(fmt.Sprintf("e%d", i), time.Second))
			}
			for range beats {
				w.run(Config{})
			}
			w.decided("default", "e99", func(p position) bool { return p.Counts[Fired] >= 13 })
			late := began()
			slices.Sort(late)
			p99 := late[len(late)*99/100]
			t.Logf("%d beats, 100 entries of 1s, %d occurrences: nominal time to start p50 %s, p99 %s, max %s",
				beats, len(late), late[len(late)/2], p99, late[len(late)-1])
			if p99 > time.Second {
				t.Errorf("p99 %s", p99)
			}
		})
	}
}

// beginnings works the queue and notes how late each task begins, but for those
// of the first three seconds, in which ledgers are made.
func (w *world) beginnings() func() []time.Duration {
	w.Helper()
	var mu sync.Mutex
	var first int64
	var late []time.Duration
	worker := engine.NewWorker(w.client(), engine.WorkerConfig{Queues: []engine.Queue{{Name: "default", Slots: 128}}, Grace: time.Second})
	engine.HandleRaw(worker, "print", func(_ context.Context, m *engine.Message) ([]byte, error) {
		now := time.Now()
		_, unix := cutLast(m.Info.ID)
		mu.Lock()
		defer mu.Unlock()
		if first == 0 {
			first = unix
		}
		if unix >= first+3 {
			late = append(late, now.Sub(time.Unix(unix, 0)))
		}
		return nil, nil
	})
	w.background(worker.Run)
	return func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(late)
	}
}

// What ten thousand entries cost that are due once an hour, about three of them
// each second.
func TestTenThousandEntries(t *testing.T) {
	w := newWorld(t)
	const entries = 10_000
	midnight := time.Now().Truncate(24 * time.Hour)
	for i := range entries {
		e := every(fmt.Sprintf("e%d", i), time.Hour)
		e.Start = midnight.Add(time.Duration(i%3600) * time.Second)
		value, err := e.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.c.JetStream().PublishAsync("$KV.PELTON_SCHEDULES."+fmt.Sprintf("e%d", i), value); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.c.JetStream().PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("the entries are not stored")
	}
	p := w.process(0)
	started := time.Now()
	for i := range entries {
		if i%997 == 0 || i == entries-1 {
			w.decided("default", fmt.Sprintf("e%d", i), func(p position) bool { return p.Generation > 0 })
		}
	}
	t.Logf("%d entries have their ledgers after %s", entries, time.Since(started).Round(time.Millisecond))
	p.log.quiet(t)
	before := p.cpu(t)
	const during = 10 * time.Second
	<-time.After(during)
	share, mib := 100*float64(p.cpu(t)-before)/float64(during), p.memory(t)>>20
	t.Logf("one beat, %d entries: %.1f %% of a core, %d MiB", entries, share, mib)
	if share > 5 || mib > 100 {
		t.Error("more than 5 % of a core, or than 100 MiB")
	}
}

// cpu is the time that the process has used.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory is what the process holds, in bytes.
func (p *process) memory(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	return pages * os.Getpagesize()
}

// quiet waits until nothing is logged for a while.
func (l *logged) quiet(t *testing.T) {
	t.Helper()
	for {
		select {
		case <-l.more:
		case <-time.After(3 * time.Second):
			return
		}
	}
}
