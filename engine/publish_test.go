package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

var count = engine.NewTask[int, int]("count")

// linked is a client whose connection goes by a link.
func (s *system) linked() (*engine.Client, *enginetest.Link) {
	s.t.Helper()
	l := s.broker.Link()
	c, err := engine.Connect(s.ctx(), l.URL(), engine.ClientConfig{NATS: []nats.Option{
		nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(20 * time.Second),
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c, l
}

// bodies are the numbers that wait in the queue, with how often each does.
func (s *system) bodies() map[int]int { return s.bodiesIn("PELTON_TASKS_default") }

// bodiesIn is bodies of any stream.
func (s *system) bodiesIn(name string) map[int]int {
	s.t.Helper()
	var stream jetstream.Stream
	s.asked("the stream", func(ctx context.Context) (err error) {
		stream, err = s.client.JetStream().Stream(ctx, name)
		return err
	})
	found := map[int]int{}
	state := stream.CachedInfo().State
	for sequence := state.FirstSeq; sequence <= state.LastSeq; sequence++ {
		var m *jetstream.RawStreamMsg
		s.asked("a message", func(ctx context.Context) (err error) {
			if m, err = stream.GetMsg(ctx, sequence); errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			return err
		})
		if m == nil {
			continue
		}
		var n int
		if err := json.Unmarshal(m.Data, &n); err != nil {
			s.t.Fatal(err)
		}
		found[n]++
	}
	return found
}

// asked asks again where a request was lost with a leader.
func (s *system) asked(what string, ask func(context.Context) error) {
	s.t.Helper()
	s.until(what+" is read", func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
		defer cancel()
		return ask(ctx) == nil
	})
}

func (s *system) once(n int) { s.onceIn("PELTON_TASKS_default", n) }

func (s *system) onceIn(stream string, n int) {
	s.t.Helper()
	found := s.bodiesIn(stream)
	if len(found) != n {
		s.t.Errorf("%d tasks stored, want %d", len(found), n)
	}
	for body, times := range found {
		if times != 1 {
			s.t.Errorf("task %d is stored %d times", body, times)
		}
	}
}

func numbers(n int) []int {
	in := make([]int, n)
	for i := range in {
		in[i] = i
	}
	return in
}

func TestSendWhosePubAckIsLost(t *testing.T) {
	for _, opts := range [][]engine.SendOption{nil, {engine.WithID("known")}} {
		t.Run(fmt.Sprintf("%d options", len(opts)), func(t *testing.T) {
			s := newSystem(t)
			c, link := s.linked()
			lost := link.DeafenAt(`"seq":`)
			go func() { <-lost; link.Cut() }()
			r, err := count.Send(s.ctx(), c, 7, opts...)
			<-lost
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"default-1", "known"}[len(opts)]; r.ID() != want {
				t.Errorf("id %s, want %s", r.ID(), want)
			}
			s.once(1)
		})
	}
}

// TestRefusedAfterALostPubAck: what was stored before the stream took no more
// must not be told as refused.
func TestRefusedAfterALostPubAck(t *testing.T) {
	for _, opts := range [][]engine.SendOption{nil, {engine.WithID("known")}} {
		t.Run(fmt.Sprintf("%d options", len(opts)), func(t *testing.T) {
			s := newSystem(t)
			stream, err := s.client.JetStream().Stream(s.ctx(), "PELTON_TASKS_default")
			if err != nil {
				t.Fatal(err)
			}
			sealed := stream.CachedInfo().Config
			sealed.Sealed = true
			c, link := s.linked()
			lost, done := link.DeafenAt(`"seq":`), make(chan error, 1)
			go func() {
				<-lost
				_, err := s.client.JetStream().UpdateStream(s.ctx(), sealed)
				link.Cut()
				done <- err
			}()
			_, err = count.Send(s.ctx(), c, 7, opts...)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if !errors.Is(err, engine.ErrUnconfirmed) || !strings.Contains(err.Error(), "sealed") {
				t.Errorf("%v", err)
			}
			s.once(1)
			if _, err = count.Send(s.ctx(), c, 8, opts...); err == nil || errors.Is(err, engine.ErrUnconfirmed) {
				t.Errorf("one that was not stored: %v", err)
			}
		})
	}
}

// TestPlainRepeatDoubles is the control: what carries nothing to be known by and
// is sent again is there twice.
func TestPlainRepeatDoubles(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"seq":`)
	go func() { <-lost; link.Cut() }()
	f, err := count.SendAsync(s.ctx(), c, 7)
	if err != nil {
		t.Fatal(err)
	}
	<-f.Done()
	if _, err := count.Send(s.ctx(), c, 7); err != nil {
		t.Fatal(err)
	}
	if times := s.bodies()[7]; times != 2 {
		t.Errorf("stored %d times: the tests of lost answers see nothing", times)
	}
}

func TestFutureWhosePubAckIsLost(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"seq":`)
	f, err := count.SendAsync(s.ctx(), c, 0)
	if err != nil {
		t.Fatal(err)
	}
	<-lost
	if err := f.Err(); err != nil {
		t.Fatalf("before anything is known: %v", err)
	}
	link.Cut()
	if _, err := f.Result(s.ctx()); !errors.Is(err, engine.ErrUnconfirmed) {
		t.Errorf("%v", err)
	}
	s.once(1)
	if err := c.Flush(s.ctx()); err != nil {
		t.Error(err)
	}
}

func TestManyWhoseConnectionIsCut(t *testing.T) {
	const tasks = 4000
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"type":"ack","seq":1000,`)
	go func() { <-lost; link.Cut() }()
	results, err := count.SendMany(s.ctx(), c, numbers(tasks))
	<-lost
	if err != nil {
		t.Fatalf("a batch that the broker still knows can be resolved: %v", err)
	}
	s.once(tasks)
	for i, r := range results {
		if r == nil {
			t.Fatalf("no result of task %d", i)
		}
	}
}

func TestManyWhoseEndIsLost(t *testing.T) {
	const tasks = 1300
	for name, opts := range map[string][]engine.SendOption{
		"fast": nil, "with all ids": {engine.WithAllIDs()},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			c, link := s.linked()
			lost := link.DeafenAt(`"count":`)
			go func() { <-lost; link.Cut() }()
			results, err := count.SendMany(s.ctx(), c, numbers(tasks), opts...)
			<-lost
			var many *engine.ManyError
			if !errors.As(err, &many) || !errors.Is(err, engine.ErrUnconfirmed) {
				t.Fatalf("%v", err)
			}
			s.once(tasks)
			for _, f := range many.Failed {
				if !errors.Is(f.Err, engine.ErrUnconfirmed) || results[f.Index] != nil {
					t.Fatalf("task %d: %v", f.Index, f.Err)
				}
			}
			if len(many.Failed) == tasks {
				t.Error("what was confirmed before is not told")
			}
		})
	}
}

func TestAtomicManyWhosePubAckIsLost(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"count":`)
	go func() { <-lost; link.Cut() }()
	results, err := count.SendMany(s.ctx(), c, numbers(200), engine.WithAtomic())
	if !errors.Is(err, engine.ErrUnconfirmed) || results[0] != nil {
		t.Errorf("%v", err)
	}
	s.once(200)
}

func TestSilentConnection(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	if _, err := count.Send(s.ctx(), c, 0); err != nil {
		t.Fatal(err)
	}
	link.Silence()
	f, err := count.SendAsync(s.ctx(), c, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx(), time.Second)
	defer cancel()
	if _, err := count.Send(ctx, c, 2); !errors.Is(err, engine.ErrUnconfirmed) {
		t.Errorf("%v", err)
	}
	if _, err := f.Result(s.ctx()); !errors.Is(err, engine.ErrUnconfirmed) {
		t.Errorf("%v", err)
	}
	s.once(1)
}

func TestManyTellsIDs(t *testing.T) {
	s := newSystem(t)
	for _, n := range []int{0, 1, 3, 49, 50, 51, 700, 12_000} {
		before := s.stands("PELTON_TASKS_default")
		results, err := count.SendMany(s.ctx(), s.client, numbers(n))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if want := fmt.Sprintf("default-%d", before.LastSeq+uint64(i)+1); r.ID() != want {
				t.Fatalf("of %d tasks: task %d has id %s, want %s", n, i, r.ID(), want)
			}
		}
	}
}

// TestManyAmongOthers publishes by two clients at once: an id is right or not
// told, and with all ids it is right.
func TestManyAmongOthers(t *testing.T) {
	for name, opts := range map[string][]engine.SendOption{"fast": nil, "with all ids": {engine.WithAllIDs()}} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			rival, ended := s.connect(), make(chan struct{})
			ctx, stop := context.WithCancel(s.ctx())
			go func() {
				defer close(ended)
				for ctx.Err() == nil {
					_, _ = rival.SendRaw(ctx, "default", "rival", []byte(`-1`))
				}
			}()
			results, err := count.SendMany(s.ctx(), s.client, numbers(6000), opts...)
			stop()
			<-ended
			if err != nil {
				t.Fatal(err)
			}
			stream, err := s.client.JetStream().Stream(s.ctx(), "PELTON_TASKS_default")
			if err != nil {
				t.Fatal(err)
			}
			unknown := 0
			for i, r := range results {
				if r.ID() == "" {
					unknown++
					continue
				}
				var sequence uint64
				if _, err := fmt.Sscanf(r.ID(), "default-%d", &sequence); err != nil {
					t.Fatal(err)
				}
				if i%200 != 0 {
					continue // reading takes its time
				}
				if m, err := stream.GetMsg(s.ctx(), sequence); err != nil || string(m.Data) != fmt.Sprint(i) {
					t.Errorf("task %d is said to be %s, %v", i, r.ID(), err)
				}
			}
			if opts != nil && unknown > 0 {
				t.Errorf("%d ids not told", unknown)
			}
		})
	}
}

func TestFullQueue(t *testing.T) {
	s := newSystem(t, topology.Queue{Name: "default", MaxPending: 300})
	all, err := count.SendMany(s.ctx(), s.client, numbers(200))
	if err != nil || len(all) != 200 {
		t.Fatal(err)
	}
	atomic, err := count.SendMany(s.ctx(), s.client, numbers(200), engine.WithAtomic())
	if !errors.Is(err, engine.ErrQueueFull) || atomic[0] != nil {
		t.Errorf("atomic: %v", err)
	}
	results, err := count.SendMany(s.ctx(), s.client, numbers(500)[200:])
	var many *engine.ManyError
	if !errors.As(err, &many) || !errors.Is(err, engine.ErrQueueFull) || len(many.Failed) != 200 || many.Failed[0].Index != 100 {
		t.Fatalf("%v", err)
	}
	if results[99].ID() != "default-300" || results[100] != nil {
		t.Errorf("the hundredth: %v", results[99].ID())
	}
	s.once(300)
	if _, err := count.Send(s.ctx(), s.client, 1); !errors.Is(err, engine.ErrQueueFull) {
		t.Errorf("send: %v", err)
	}
	f, err := count.SendAsync(s.ctx(), s.client, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Result(s.ctx()); !errors.Is(err, engine.ErrQueueFull) {
		t.Errorf("future: %v", err)
	}
	ctx, cancel := context.WithTimeout(s.ctx(), 3*time.Second) // the refusal must be heard before
	defer cancel()
	if _, err := count.Send(ctx, s.client, 1, engine.WithWaitForRoom()); !errors.Is(err, engine.ErrQueueFull) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("send that waits: %v", err)
	}
	s.once(300)
}

func TestWaitForRoom(t *testing.T) {
	const tasks = 1000
	for name, opts := range map[string][]engine.SendOption{"fast": {engine.WithWaitForRoom()}, "atomic batches": {engine.WithWaitForRoom(), engine.WithAllIDs()}} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t, topology.Queue{Name: "default", MaxPending: 2 * tasks / 3 * 2})
			if _, err := count.SendMany(s.ctx(), s.client, numbers(tasks)); err != nil {
				t.Fatal(err)
			}
			w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(8)})
			engine.HandleRaw(w, "count", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
			s.work(w)
			if _, err := count.SendMany(s.ctx(), s.client, numbers(tasks), opts...); err != nil {
				t.Fatal(err)
			}
			if _, err := count.Send(s.ctx(), s.client, 1, engine.WithWaitForRoom()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestValueThatIsNoJSON: what a typed send cannot encode is refused by every
// tier, and of many the others are stored.
func TestValueThatIsNoJSON(t *testing.T) {
	s := newSystem(t)
	task := engine.NewTask[float64, float64]("half")
	check := func(tier string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "body: json: unsupported value: NaN") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", tier, err)
		}
	}
	_, err := task.Send(s.ctx(), s.client, math.NaN())
	check("send", err)
	_, err = task.Send(s.ctx(), s.client, math.NaN(), engine.WithCountdown(time.Hour))
	check("delayed", err)
	_, err = task.SendAsync(s.ctx(), s.client, math.NaN())
	check("future", err)
	_, err = task.SendMany(s.ctx(), s.client, []float64{1, math.NaN(), 2})
	check("many", err)
	if state := s.stands("PELTON_TASKS_default"); state.LastSeq != 2 {
		t.Errorf("%d are stored, want the two that are JSON", state.LastSeq)
	}
}

func TestBadSendsAreRefusedByTheClient(t *testing.T) {
	s := newSystem(t)
	large := `"` + strings.Repeat("x", 513<<10) + `"`
	var headers []engine.SendOption
	for i := range 10_000 {
		headers = append(headers, engine.WithHeader(fmt.Sprintf("X-Header-%d", i), "v"))
	}
	long := strings.Repeat("x", wire.MaxHeaderBytes)
	for name, test := range map[string]struct {
		opts []engine.SendOption
		body string
		is   error
		says string
	}{
		"large":        {nil, large, engine.ErrTooLarge, "must be at most 524288 bytes"},
		"headers":      {headers, "1", engine.ErrTooLarge, "must be at most"},
		"33 headers":   {headers[:wire.MaxHeaders+1], "1", engine.ErrTooLarge, "must be at most 32"},
		"long header":  {[]engine.SendOption{engine.WithHeader("a", long)}, "1", engine.ErrTooLarge, "must be at most 32, of 8192 bytes"},
		"long trace":   {[]engine.SendOption{engine.WithHeader("traceparent", long[:5000])}, "1", engine.ErrInvalidName, "must be at most 4096 bytes"},
		"slash":        {[]engine.SendOption{engine.WithHeader("a/b", "1")}, "1", engine.ErrInvalidName, "must match [A-Za-z0-9!#"},
		"no ASCII":     {[]engine.SendOption{engine.WithHeader("naïve", "1")}, "1", engine.ErrInvalidName, "must match [A-Za-z0-9!#"},
		"space":        {[]engine.SendOption{engine.WithHeader("a b", "1")}, "1", engine.ErrInvalidName, "must match [A-Za-z0-9!#"},
		"line":         {[]engine.SendOption{engine.WithHeader("a", "1\r\nNats-Rollup: all")}, "1", engine.ErrInvalidName, "must be one line"},
		"name line":    {[]engine.SendOption{engine.WithHeader("a\r\nb", "1")}, "1", engine.ErrInvalidName, "must match [A-Za-z0-9!#"},
		"no name":      {[]engine.SendOption{engine.WithHeader("", "1")}, "1", engine.ErrInvalidName, "must match [A-Za-z0-9!#"},
		"broker's":     {[]engine.SendOption{engine.WithHeader("nats-rollup", "all")}, "1", engine.ErrInvalidName, "must not begin"},
		"long id":      {[]engine.SendOption{engine.WithID(strings.Repeat("i", 129))}, "1", engine.ErrInvalidName, "128"},
		"id with dot":  {[]engine.SendOption{engine.WithID("a.b")}, "1", engine.ErrInvalidName, "must"},
		"empty id":     {[]engine.SendOption{engine.WithID("")}, "1", engine.ErrInvalidName, "must"},
		"free id":      {[]engine.SendOption{engine.WithID("default-7")}, "1", engine.ErrInvalidName, "free id"},
		"not JSON":     {nil, "{", nil, "must be JSON"},
		"atomic alone": {[]engine.SendOption{engine.WithAtomic()}, "1", engine.ErrInvalidName, "SendMany only"},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(tier string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !errors.Is(err, test.is) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 600 {
					t.Errorf("%s: %.600v", tier, err)
				}
			}
			_, err := s.client.SendRaw(s.ctx(), "default", "nop", []byte(test.body), test.opts...)
			check("send", err)
			_, err = s.client.SendRawAsync(s.ctx(), "default", "nop", []byte(test.body), test.opts...)
			check("future", err)
			if name == "atomic alone" || strings.HasSuffix(name, "id") || name == "id with dot" {
				return
			}
			_, err = s.client.SendManyRaw(s.ctx(), "default", "nop", [][]byte{[]byte(test.body)}, test.opts...)
			check("many", err)
		})
	}
	if state := s.stands("PELTON_TASKS_default"); state.LastSeq != 0 {
		t.Errorf("%d were stored", state.LastSeq)
	}
	t.Run("what is just within the bounds runs", func(t *testing.T) {
		w := engine.NewWorker(s.client, engine.WorkerConfig{})
		engine.HandleRaw(w, "nop", func(_ context.Context, m *engine.Message) ([]byte, error) { return json.Marshal(len(m.Info.Header)) })
		s.work(w)
		for want, opts := range map[string][]engine.SendOption{
			"32": headers[:wire.MaxHeaders],
			"1":  {engine.WithHeader("!#$%&'*+-.^_`|~", long[:wire.MaxHeaderBytes-len("!#$%&'*+-.^_`|~")])},
		} {
			r, err := s.client.SendRaw(s.ctx(), "default", "nop", []byte("1"), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := r.Wait(s.ctx()); err != nil || string(got) != want {
				t.Errorf("%s of %s headers, %v", got, want, err)
			}
		}
	})
}

// TestNeighboursGoOn has one bad task among many.
func TestNeighboursGoOn(t *testing.T) {
	s := newSystem(t)
	bodies := make([][]byte, 100)
	for i := range bodies {
		bodies[i] = fmt.Append(nil, i)
	}
	bodies[0], bodies[40] = []byte(`{`), make([]byte, 513<<10)
	results, err := s.client.SendManyRaw(s.ctx(), "default", "nop", bodies)
	var many *engine.ManyError
	if !errors.As(err, &many) || len(many.Failed) != 2 || many.Failed[0].Index != 0 || many.Failed[1].Index != 40 || !errors.Is(err, engine.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
	if results[0] != nil || results[40] != nil || results[1].ID() != "default-1" || results[99].ID() != "default-98" {
		t.Errorf("ids: %v %v", results[1].ID(), results[99].ID())
	}
	s.once(98)
	if _, err := s.client.SendManyRaw(s.ctx(), "default", "nop", bodies, engine.WithAtomic()); err == nil {
		t.Error("an atomic batch with a bad task was sent")
	}
	if _, err := s.client.SendManyRaw(s.ctx(), "default", "nop", make([][]byte, 1001), engine.WithAtomic()); !errors.Is(err, engine.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	s.once(98)
}

func TestClosedClient(t *testing.T) {
	s := newSystem(t)
	c, link := s.linked()
	lost := link.DeafenAt(`"seq":`)
	f, err := count.SendAsync(s.ctx(), c, 1)
	if err != nil {
		t.Fatal(err)
	}
	<-lost
	c.Close()
	<-f.Done()
	if err := f.Err(); !errors.Is(err, engine.ErrUnconfirmed) {
		t.Errorf("%v", err)
	}
	if _, err := count.Send(s.ctx(), c, 1); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := count.SendAsync(s.ctx(), c, 1); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := count.SendMany(s.ctx(), c, numbers(100)); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestQueueThatIsNotThere(t *testing.T) {
	s := newSystem(t)
	f, err := count.SendAsync(s.ctx(), s.client, 1, engine.WithQueue("other"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Result(s.ctx()); !errors.Is(err, engine.ErrNoQueue) {
		t.Errorf("%v", err)
	}
	for _, opts := range [][]engine.SendOption{nil, {engine.WithAtomic()}, {engine.WithAllIDs()}} {
		if _, err := count.SendMany(s.ctx(), s.client, numbers(100), append(opts, engine.WithQueue("other"))...); !errors.Is(err, engine.ErrNoQueue) {
			t.Errorf("%v", err)
		}
	}
}
