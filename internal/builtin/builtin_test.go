package builtin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/wire"
	"pelton/internal/builtin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// work runs a worker with the built-in tasks until the test ends.
func work(t *testing.T, out io.Writer) *engine.Client {
	t.Helper()
	nc := enginetest.Start(t).Conn(engine.ConnectOptions(nil)...)
	client, err := engine.NewClient(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w := engine.NewWorker(client, engine.WorkerConfig{
		Queues:      []engine.Queue{{Name: "default", Slots: 8}},
		Setup:       engine.SetupManage,
		MaxAttempts: 2,
		Backoff:     wire.Backoff{Min: time.Millisecond, Max: time.Millisecond},
	})
	builtin.Register(w, out)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		client.Close()
	})
	for _, err := client.QueueStatus(testCtx(t), "default"); err != nil; _, err = client.QueueStatus(testCtx(t), "default") {
		if !errors.Is(err, engine.ErrNoQueue) {
			t.Fatal(err)
		}
	}
	return client
}

func testCtx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func run(t *testing.T, c *engine.Client, task, body string) (json.RawMessage, error) {
	t.Helper()
	r, err := c.SendRaw(testCtx(t), "default", task, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r.Wait(testCtx(t))
}

// lines is a writer that gives others every chance to write in between.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *lines) Write(p []byte) (int, error) {
	for i := range p {
		w.mu.Lock()
		w.buf.WriteByte(p[i])
		w.mu.Unlock()
	}
	return len(p), nil
}

func (w *lines) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func TestResults(t *testing.T) {
	out := new(lines)
	c := work(t, out)
	var printed string
	for _, tc := range []struct{ task, body, want, fails string }{
		{task: "print", body: `{"message": "hi",` + "\n" + ` "n": 90071992547409931}`, want: `{"message":"hi","n":90071992547409931}`},
		{task: "print", body: `"a<b>&é \n\u001b"`, want: `"a<b>&é \n\u001b"`},
		{task: "print", body: "\"line\u2028next\u009b31m\x7f\"", want: `"line\u2028next\u009b31m\u007f"`},
		{task: "echo", body: `{"b": 1, "a": [1.0, 2]}`, want: `{"b":1,"a":[1.0,2]}`}, // the record is compact
		{task: "add", body: `{"a":2,"b":3}`, want: `5`},
		{task: "add", body: `{"a":-2,"b":3,"c":9}`, want: `1`},
		{task: "add", body: `{"a":9007199254740993,"b":9007199254740993}`, want: `18014398509481986`},
		{task: "add", body: `{"a":123456789012345678901234567890,"b":1}`, want: `123456789012345678901234567891`},
		{task: "add", body: `{"a":0.5,"b":3}`, want: `3.5`},
		{task: "add", body: `{"a":1e3,"b":1}`, want: `1001`},
		{task: "add", body: `{"a":1e308,"b":1e308}`, fails: "error: a, b and their sum must lie within 1.79"},
		{task: "add", body: `{"a":1e999,"b":1}`, fails: "error: a, b and their sum must lie within 1.79"},
		{task: "add", body: `{"a":2}`, fails: "bad_input: b must be a number"},
		{task: "add", body: `{"a":2,"b":null}`, fails: "bad_input: b must be a number"},
		{task: "add", body: `{"a":"two","b":1}`, fails: "bad_input: json: "},
		{task: "add", body: `[2,3]`, fails: "bad_input: json: "},
	} {
		got, err := run(t, c, tc.task, tc.body)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), "failed at attempt 1: "+tc.fails) {
				t.Errorf("%s %s: %s, %v; want %q", tc.task, tc.body, got, err, tc.fails)
			}
			continue
		}
		if err != nil || !sameJSON(t, got, tc.want) {
			t.Errorf("%s %s: %s, %v; want %s", tc.task, tc.body, got, err, tc.want)
		}
		if tc.task == "print" {
			printed += tc.want + "\n"
		}
	}
	if out.String() != printed {
		t.Errorf("printed %q, want %q", out.String(), printed)
	}
}

// sameJSON compares all but how characters are escaped.
func sameJSON(t *testing.T, got json.RawMessage, want string) bool {
	t.Helper()
	decode := func(data string) (v any) {
		d := json.NewDecoder(strings.NewReader(data))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	return reflect.DeepEqual(decode(string(got)), decode(want))
}

func TestPrintedLinesStayWhole(t *testing.T) {
	out := new(lines)
	c := work(t, out)
	const n = 200
	var want []string
	var results []*engine.Result[json.RawMessage]
	for i := range n {
		body := fmt.Sprintf(`{"n":%d,"text":%q}`, i, strings.Repeat("x", 200))
		r, err := c.SendRaw(testCtx(t), "default", "print", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		results, want = append(results, r), append(want, body)
	}
	for _, r := range results {
		if _, err := r.Wait(testCtx(t)); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d lines, want %d whole ones", len(got), len(want))
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestBrokenPipeFailsTheAttempt(t *testing.T) {
	c := work(t, brokenPipe{})
	_, err := run(t, c, "print", `1`)
	var te *engine.TaskError
	if !errors.As(err, &te) || te.Attempt != 2 || te.Type != wire.FailureError || !strings.Contains(te.Message, "broken pipe") {
		t.Errorf("wait: %v", err)
	}
}

func TestPrintWhatIsNotJSON(t *testing.T) {
	out := new(lines)
	c := work(t, out)
	m := nats.NewMsg("pelton.task.default.print")
	m.Header.Set(wire.HeaderContentType, "text/plain")
	m.Data = []byte("not JSON\x1b[2J")
	ack, err := c.JetStream().PublishMsg(testCtx(t), m)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Result("default", fmt.Sprintf("default-%d", ack.Sequence)).Wait(testCtx(t))
	var te *engine.TaskError
	if !errors.As(err, &te) || te.Attempt != 1 || !strings.HasPrefix(te.Message, "body: ") {
		t.Errorf("wait: %v", err)
	}
	if out.String() != "" {
		t.Errorf("printed %q", out.String())
	}
}
