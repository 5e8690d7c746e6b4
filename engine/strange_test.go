package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/engine/wire"
)

// raw sends bytes to the broker as no client library would.
func (s *system) raw(text string) {
	s.t.Helper()
	address := strings.TrimPrefix(s.broker.URL(), "nats://")
	conn, err := (&net.Dialer{}).DialContext(s.ctx(), "tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("CONNECT {\"verbose\":false,\"headers\":true}\r\n" + text + "PING\r\n")); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 8<<10)
	for answer := ""; !strings.Contains(answer, "PONG\r\n"); {
		n, err := conn.Read(buf)
		if err != nil {
			s.t.Fatalf("%v after %q", err, answer)
		}
		answer += string(buf[:n])
	}
}

// A count that no Pelton client writes is refused with the rule, and headers
// that cannot be read are no headers that are not there.
func TestCountsAndHeadersThatNoClientWrites(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(2), UnknownTaskPark: time.Millisecond, UnknownTaskAfter: time.Millisecond})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return name, nil })
	s.work(w)
	if _, err := s.client.JetStream().Publish(s.ctx(), "pelton.task.default", []byte(`"x"`)); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("a subject without a task: %v", err)
	}
	task := "pelton.task.default.greet"
	wants := map[string]string{}
	for _, name := range []string{"Pelton-Attempt", "Pelton-Max-Attempts", "Pelton-Run"} {
		for _, value := range []string{"-1", "0", "1000000000", "1e3", "99999999999999999999", "१"} {
			wants[s.publish(task, `"x"`, name, value)] = name + ` "` + value + `"`
		}
	}
	wants[s.publish(task+".a.b", `"x"`)] = `id "a.b"`
	wants[s.publish("pelton.task.default.pelton-invalid", `"x"`)] = "no worker of the queue has a handler"
	garbage := "NATS/1.0\r\nno colon here\r\n\r\n"
	before := s.stands("PELTON_TASKS_default").LastSeq
	s.raw(fmt.Sprintf("HPUB %s %d %d\r\n%s\"x\"\r\n", task, len(garbage), len(garbage)+3, garbage))
	s.until("it is stored", func() bool { // the broker does not answer to it
		state, ok := s.state("PELTON_TASKS_default")
		return ok && state.LastSeq > before
	})
	wants[fmt.Sprintf("default-%d", before+1)] = "headers"
	for id, want := range wants {
		_, err := s.client.Result("default", id).Wait(s.ctx())
		var te *engine.TaskError
		if !errors.As(err, &te) || te.Type != wire.FailureBadInput && te.Type != wire.FailureUnknownTask || !strings.Contains(te.Message, want) {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	s.empty("default")
}

// A value under a task's key that is not its record is written over, and keeps
// no task from its outcome: of a plain task, of one with an id, and of one that
// comes again.
func TestValuesThatAreNoRecords(t *testing.T) {
	t.Parallel()
	s := newSystem(t, topology.Queue{Name: "default", AckWait: time.Second})
	kv, err := s.client.JetStream().KeyValue(s.ctx(), "PELTON_RESULTS_default")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"nothing":     "",
		"no JSON":     "{",
		"a number":    "5",
		"null":        "null",
		"a list":      `[{"id":"x"}]`,
		"bytes":       "\x00\xff\xfe",
		"deep":        strings.Repeat("[", 200_000),
		"another's":   `{"id":"job-404","run":1,"state":"succeeded","result":"theirs"}`,
		"no run":      `{"id":"ID","state":"succeeded","result":"theirs"}`,
		"a run of -1": `{"id":"ID","run":-1,"state":"succeeded"}`,
		"no state":    `{"id":"ID","run":1}`,
		"wrong types": `{"id":"ID","run":"1","state":7}`,
	}
	var ids []string
	n := 0
	for name, value := range values {
		plain := s.publish("pelton.task.default.greet", `"plain"`)
		explicit := fmt.Sprintf("job-%d", n)
		n++
		s.publish("pelton.task.default.greet."+explicit, `"explicit"`)
		later := fmt.Sprintf("later-%d", n)
		if _, err := greet.Send(s.ctx(), s.client, "later", engine.WithID(later), engine.WithCountdown(10*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{plain, explicit, later} {
			if _, err := kv.Put(s.ctx(), id, []byte(strings.ReplaceAll(value, "ID", id))); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			ids = append(ids, id)
		}
	}
	w := engine.NewWorker(s.client, engine.WorkerConfig{Queues: one(4)})
	engine.Handle(w, greet, func(_ context.Context, name string) (string, error) { return "hi " + name, nil })
	s.work(w)
	for _, id := range ids {
		s.until(id+" has succeeded", func() bool {
			r, err := s.client.Record(s.ctx(), "default", id)
			return err == nil && r.State == wire.StateSucceeded && strings.HasPrefix(string(r.Result), `"hi `)
		})
	}
	s.empty("default")
}
