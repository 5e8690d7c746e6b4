//go:build e2e

package schedules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pelton/engine/wire"
)

// Three beats as processes, with clocks four seconds apart, are killed, stopped
// longer than a turn may take, and continued, while the broker is started again
// now and then. No worker runs: every task that was ever stored is there to be
// counted.
func TestBeatsInTrouble(t *testing.T) {
	w := newWorld(t)
	w.put(every("one", time.Second))
	w.put(every("two", 2*time.Second))
	skews := []time.Duration{-2 * time.Second, 0, 2 * time.Second}
	beats := make([]*process, len(skews))
	for i, skew := range skews {
		beats[i] = w.process(skew)
	}
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	stopped := -1
	kills, stops, restarts := 0, 0, 0
	for end := time.Now().Add(troubleFor); time.Now().Before(end); {
		<-time.After(time.Duration(500+random.IntN(2000)) * time.Millisecond)
		switch i := random.IntN(len(beats)); random.IntN(4) {
		case 0:
			if i != stopped {
				beats[i].kill()
				beats[i] = w.process(skews[i])
				kills++
			}
		case 1:
			if stopped < 0 {
				beats[i].signal(t, syscall.SIGSTOP)
				stopped = i
				stops++
				go func(p *process) {
					<-time.After(stoppedFor)
					_ = p.cmd.Process.Signal(syscall.SIGCONT)
				}(beats[i])
				continue
			}
			if beats[stopped].runs() {
				stopped = -1
			}
		case 2:
			if err := w.broker.Restart(); err != nil {
				t.Fatal(err)
			}
			restarts++
		}
	}
	before := w.position("default", "one").Counts[Fired]
	w.decided("default", "one", func(p position) bool { return p.Counts[Fired] > before+3 })
	for _, p := range beats {
		p.kill()
	}
	for name, d := range map[string]time.Duration{"one": time.Second, "two": 2 * time.Second} {
		fired, skipped := w.whole(name, "default", d)
		t.Logf("entry %s: %d sent once, %d skipped and told; %d kills, %d stops, %d restarts of the broker", name, fired, skipped, kills, stops, restarts)
	}
	if t.Failed() {
		for _, p := range beats {
			t.Log(p.log)
		}
	}
}

// runs reports whether a process is not stopped.
func (p *process) runs() bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") T ")
}

// How late occurrences are stored where a hundred entries are due each second.
// The figure is printed and not judged.
func TestLateness(t *testing.T) {
	for _, beats := range []int{1, 3} {
		t.Run(strconv.Itoa(beats), func(t *testing.T) {
			w := newWorld(t)
			for i := range 100 {
				w.put(every(fmt.Sprintf("e%d", i), time.Second))
			}
			for range beats {
				w.run(Config{})
			}
			w.decided("default", "e99", func(p position) bool { return p.Counts[Fired] >= 13 })
			late := w.lateness(3)
			t.Logf("%d beats, 100 entries of 1s, %d occurrences: nominal time to stored p50 %s, p99 %s, max %s",
				beats, len(late), late[len(late)/2], late[len(late)*99/100], late[len(late)-1])
		})
	}
}

// lateness is how late each task was stored, sorted, without those of the first
// seconds, in which ledgers are made.
func (w *world) lateness(without int64) []time.Duration {
	w.Helper()
	ns := w.c.Namespace()
	stream, err := w.c.JetStream().Stream(w.Context(), ns.TaskStream(wire.PlainLane("default")))
	if err != nil {
		w.Fatal(err)
	}
	info, err := stream.Info(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	first := int64(0)
	var late []time.Duration
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(w.Context(), seq)
		if err != nil {
			continue
		}
		a, err := ns.ParseTask(m.Subject)
		if err != nil {
			continue
		}
		_, unix := cutLast(a.ID)
		if first == 0 {
			first = unix
		}
		if unix >= first+without {
			late = append(late, m.Time.Sub(time.Unix(unix, 0)))
		}
	}
	slices.Sort(late)
	return late
}

// What ten thousand entries cost that are not due.
func TestTenThousandEntries(t *testing.T) {
	w := newWorld(t)
	const entries = 10_000
	for i := range entries {
		value, err := every(fmt.Sprintf("e%d", i), time.Hour).MarshalJSON()
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
	t.Logf("one beat, %d entries: %.1f %% of a core, %d MiB", entries, 100*float64(p.cpu(t)-before)/float64(during), p.memory(t)>>20)
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
