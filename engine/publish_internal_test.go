package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/topology"
)

// brokerProcess is a broker that lives as long as its standard input.
func brokerProcess(folder string) int {
	s, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: folder})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Stop()
	return 0
}

// startBrokerProcess starts a broker whose allocations are not this process's.
func startBrokerProcess(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "PELTON_TEST_BROKER="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return strings.TrimSpace(line)
}

// perTask counts what n tasks allocate, all goroutines of this process
// together.
func perTask(n int, send func()) (allocations, bytes float64) {
	send() // what is made once
	return counted(n, send)
}

// counted is perTask of something that is done once.
func counted(n int, do func()) (allocations, bytes float64) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n), float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}

// TestAllocationsOfSending holds the budgets of each tier, for a body of 256
// bytes that is encoded already.
func TestAllocationsOfSending(t *testing.T) {
	if raceEnabled {
		return // the race detector allocates too
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := Connect(ctx, startBrokerProcess(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	topo, err := topology.New(topology.Config{Queues: []topology.Queue{{Name: DefaultQueue}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Apply(ctx, c.js, topo); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	body := []byte(`"` + strings.Repeat("x", 254) + `"`)
	bodies := make([][]byte, n)
	for i := range bodies {
		bodies[i] = body
	}
	ids := 0
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		tier        string
		allocations float64
		bytes       float64
		send        func()
	}{
		{"one", 30, 2 << 10, func() {
			for range n {
				_, err := c.SendRaw(ctx, DefaultQueue, "nop", body)
				must(err)
			}
		}},
		{"one with id", 34, 2355, func() {
			for range n {
				ids++
				_, err := c.SendRaw(ctx, DefaultQueue, "nop", body, WithID(fmt.Sprintf("id%d", ids)))
				must(err)
			}
		}},
		{"future", 22, 1434, func() {
			for range n {
				_, err := c.SendRawAsync(ctx, DefaultQueue, "nop", body)
				must(err)
			}
			must(c.Flush(ctx))
		}},
		{"many", 3, 200, func() {
			_, err := c.SendManyRaw(ctx, DefaultQueue, "nop", bodies)
			must(err)
		}},
	} {
		t.Run(test.tier, func(t *testing.T) {
			allocations, bytes := perTask(n, test.send)
			t.Logf("%.2f allocations, %.0f bytes", allocations, bytes)
			if allocations > test.allocations+1 {
				t.Errorf("%.2f allocations for each task, the budget is %.0f", allocations, test.allocations)
			}
			if bytes > test.bytes*1.05 {
				t.Errorf("%.0f bytes for each task, the budget is %.0f", bytes, test.bytes)
			}
		})
	}
}

// FuzzPubAck has the short way agree with JSON wherever it is taken.
func FuzzPubAck(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"PELTON_TASKS_default","seq":12}`, `{"stream":"S","seq":12,"duplicate": true}`, `{"stream":"S","domain":"hub","seq":3}`,
		`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}`,
		`{"stream":"S","seq":0}`, `{"stream":"S","seq":01}`, `{"stream":"","seq":1}`, `{"stream":"\u0041","seq":1}`, `{"stream":"S","seq":99999999999999999999}`, `{}`, ``, `+ACK`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sequence, err := parsePubAck(data)
		var want struct {
			Stream   string              `json:"stream"`
			Sequence uint64              `json:"seq"`
			Error    *jetstream.APIError `json:"error"`
		}
		ok := json.Unmarshal(data, &want) == nil && want.Error == nil && want.Stream != "" && want.Sequence > 0
		if ok != (err == nil) || ok && sequence != want.Sequence {
			t.Errorf("%q: sequence %d, error %v; JSON says %+v", data, sequence, err, want)
		}
	})
}

// FuzzFastAnswer feeds a batch with whatever a broker may say: it never counts
// more as stored than was sent, and calls nothing stored that was refused.
func FuzzFastAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"type":"ack","seq":10,"msgs":15}`, `{"type":"gap","last_seq":10,"seq":15}`, `{"type":"new"}`, `{"type":"ack","seq":99,"msgs":0}`,
		`{"type":"err","seq":10,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"}}`,
		`{"stream":"S","seq":44,"batch":"B","count":12}`, `{"stream":"S","seq":44,"batch":"B","count":8}`, `{"stream":"S","seq":44}`,
		`{"error":{"code":400,"err_code":10208,"description":"unknown"},"stream":"S","seq":0}`, `{"type":"err"}`, `[]`,
	} {
		f.Add([]byte(seed), []byte(`{"stream":"S","seq":44,"batch":"B","count":12}`))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		b := &fastBatch{id: "B", sent: 12}
		for _, data := range [][]byte{first, second} {
			acked := b.acked
			a, err := parseFastAnswer(data)
			if err == nil && a.kind == fastRefusal && a.err == nil {
				t.Fatalf("%q: a refusal without a reason", data)
			}
			b.takeAnswer(a, err)
			if b.acked < acked {
				t.Errorf("%q: what was confirmed is not any more", data)
			}
		}
		if b.acked > b.sent || b.end.stored > b.sent {
			t.Errorf("%q %q: %d confirmed and %d stored of %d", first, second, b.acked, b.end.stored, b.sent)
		}
		if b.ended && b.end.stored < b.sent && b.end.sequence == 0 && b.end.err == nil {
			t.Errorf("%q %q: some are not stored, and nobody says why", first, second)
		}
	})
}

// TestNobodyTookALaterMessage: a stream without a leader answers nothing of what
// was stored before.
func TestNobodyTookALaterMessage(t *testing.T) {
	absent := func(number string) *nats.Msg {
		return &nats.Msg{Subject: "_INBOX.x.B.500.fail." + number + ".3.$FI", Header: nats.Header{"Status": {"503"}}}
	}
	b := &fastBatch{id: "B", sent: 2}
	b.take(absent("3"))
	if !b.broken || b.ended {
		t.Errorf("after the end found nobody: broken %v, ended %v", b.broken, b.ended)
	}
	b.take(absent("1"))
	if !b.ended || b.end.stored != 0 {
		t.Errorf("after the first message found nobody: %+v", b.end)
	}
	for subject, want := range map[string]uint64{"_INBOX.x.B.500.fail.12.1.$FI": 12, "_INBOX.x": 0, ".$FI": 0, "a.b.x.1.$FI": 0} {
		if got := fastNumber(subject); got != want {
			t.Errorf("%s: %d, want %d", subject, got, want)
		}
	}
}

func TestRoomIsFairAndBounded(t *testing.T) {
	r := room{messages: 2, bytes: 100}
	enter := func(size int) <-chan error {
		in := make(chan error, 1)
		waiting := len(r.waiting)
		go func() { in <- r.enter(t.Context(), size) }()
		for {
			r.mu.Lock()
			decided := len(r.waiting) > waiting || len(in) > 0
			r.mu.Unlock()
			if decided {
				return in
			}
			runtime.Gosched()
		}
	}
	if err := <-enter(1000); err != nil { // larger than all the room: alone
		t.Fatal(err)
	}
	large, small := enter(90), enter(5)
	if len(large) > 0 || len(small) > 0 {
		t.Error("two entered where there was no room")
	}
	r.leave(1000)
	if err := errors.Join(<-large, <-small); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errShutdown)
	if err := r.enter(ctx, 1); !errors.Is(err, errShutdown) {
		t.Errorf("%v", err)
	}
	r.leave(90)
	r.leave(5)
	if r.messages != 2 || r.bytes != 100 || r.inside != 0 {
		t.Errorf("left behind: %d messages, %d bytes, %d inside", r.messages, r.bytes, r.inside)
	}
}

// TestWindowEndsWithItsConnection, whose owner may not know of it.
func TestWindowEndsWithItsConnection(t *testing.T) {
	nc := enginetest.Start(t).Conn()
	c, err := NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.publisher()
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	w.group.Wait()
	c.Close()
}

// TestRefusedNext: the end of a batch is exact where the broker named the message
// after the last one that is stored.
func TestRefusedNext(t *testing.T) {
	full := &jetstream.APIError{ErrorCode: codeMaxMessages}
	for _, tc := range []struct {
		end  fastOutcome
		want bool
	}{
		{fastOutcome{stored: 10, err: full, refused: 11}, true},
		{fastOutcome{stored: 10, err: full, refused: 30}, false},
		{fastOutcome{stored: 10, err: full}, false},
		{fastOutcome{stored: 10, err: nats.ErrNoResponders, refused: 11}, false},
		{fastOutcome{stored: 10}, false},
	} {
		if got := tc.end.refusedNext(); got != tc.want {
			t.Errorf("%+v: %v", tc.end, got)
		}
	}
}

// TestBatchThatEndsTooEarly: a new leader may end a batch with a smaller count
// than has been stored. What is stored is not sent again, and what is not goes on.
// In the control the broker is taken at its word.
func TestBatchThatEndsTooEarly(t *testing.T) {
	cluster := enginetest.StartCluster(t)
	cluster.Setup(DefaultQueue)
	c, err := NewClient(cluster.Conn())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bodies := make([][]byte, 100)
	for i := range bodies {
		bodies[i] = []byte(strconv.Itoa(i))
	}
	for _, tc := range []struct {
		name            string
		stored, counted uint64 // of the 60 that the first batch has
		control         bool
		unconfirmed     int
		twice           int
	}{
		{name: "counted", stored: 20, counted: 20},
		{name: "not counted", stored: 60, counted: 20, unconfirmed: 40},
		{name: "control", stored: 60, counted: 20, control: true, twice: 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMany(c, "count", bodies, sendOptions{queue: DefaultQueue}, nil)
			if err := m.check(); err != nil {
				t.Fatal(err)
			}
			// A request may be lost with a leader.
			asked := func(what string, ask func(context.Context) error) {
				t.Helper()
				var err error
				for range 12 {
					asking, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					err = ask(asking)
					cancel()
					if err == nil {
						return
					}
				}
				t.Fatalf("%s: %v", what, err)
			}
			var stream jetstream.Stream
			asked("stream", func(ctx context.Context) (err error) {
				stream, err = c.js.Stream(ctx, "PELTON_TASKS_default")
				return err
			})
			asked("purge", func(ctx context.Context) error { return stream.Purge(ctx) })
			m.sendOne(t.Context(), 0)
			last := m.before
			for i := range tc.stored {
				asked("publish", func(ctx context.Context) error {
					ack, err := c.js.Publish(ctx, "pelton.task.default.count", bodies[1+i], jetstream.WithMsgID(fmt.Sprintf("%s %d", tc.name, i)))
					if err == nil {
						last = ack.Sequence
					}
					return err
				})
			}
			for i := range 60 {
				m.batch = append(m.batch, 1+i)
			}
			end := fastOutcome{stored: tc.counted, sequence: last}
			if m.account(end); tc.control {
				m.doubt = nil
			}
			m.sendFast(t.Context())
			if id := m.id(20); !tc.control && id != "" && id != fmt.Sprintf("default-%d", m.seqs[0]+20) {
				t.Errorf("the last task that was counted has the id %q", id)
			}
			unconfirmed := 0
			for _, f := range m.failed {
				if !errors.Is(f.Err, ErrUnconfirmed) {
					t.Errorf("task %d: %v", f.Index, f.Err)
				}
				unconfirmed++
			}
			var info *jetstream.StreamInfo
			asked("info", func(ctx context.Context) (err error) {
				info, err = stream.Info(ctx)
				return err
			})
			if twice := int(info.State.Msgs) - len(bodies); unconfirmed != tc.unconfirmed || twice != tc.twice {
				t.Errorf("%d unconfirmed, want %d; %d stored twice, want %d", unconfirmed, tc.unconfirmed, twice, tc.twice)
			}
		})
	}
}
