package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/enginetest"
	"pelton/engine/ledger"
)

// A writer that takes up wherever the ledger stands. Started again after a
// crash at any moment, or beside another one, it neither leaves a task out nor
// stores one twice.
func Example() {
	js, stop := broker()
	defer stop()
	ctx := context.Background()

	l, err := ledger.New(ledger.Config{
		JetStream: js,
		Stream:    "PELTON_TASKS_default",
		Subject:   "pelton.ledger.default.lines.letters",
	})
	if err != nil {
		log.Fatal(err)
	}
	source := []string{`"a"`, `"b"`, `"c"`, `"d"`, `"e"`}

	entry, err := l.Read(ctx)
	for err == nil {
		next := 0
		if entry.Exists() {
			if err := json.Unmarshal(entry.Position, &next); err != nil {
				log.Fatal(err)
			}
		}
		if next == len(source) {
			break
		}
		end := min(next+2, len(source))
		var tasks []*nats.Msg
		for _, line := range source[next:end] {
			tasks = append(tasks, &nats.Msg{Subject: "pelton.task.default.print", Data: []byte(line)})
		}
		entry, err = l.Write(ctx, entry.Sequence, tasks, fmt.Append(nil, end))
		if fenced, ok := errors.AsType[*ledger.FencedError](err); ok {
			entry, err = fenced.Found, nil // somebody else was faster
			continue
		}
		fmt.Printf("lines %d to %d, entry %d\n", next, end-1, entry.Sequence)
	}
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// lines 0 to 1, entry 3
	// lines 2 to 3, entry 6
	// lines 4 to 4, entry 8
}

// broker is one in the process, with the stream of a queue.
func broker() (jetstream.JetStream, func()) {
	folder, err := os.MkdirTemp("", "ledger")
	if err != nil {
		log.Fatal(err)
	}
	server, err := enginetest.NewServer(enginetest.ServerConfig{StoreDir: folder})
	if err != nil {
		log.Fatal(err)
	}
	nc, err := nats.Connect(server.URL())
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}
	_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{
		Name:               "PELTON_TASKS_default",
		Subjects:           []string{"pelton.task.default.>", "pelton.ledger.default.>"},
		Retention:          jetstream.WorkQueuePolicy,
		Discard:            jetstream.DiscardNew,
		AllowDirect:        true,
		AllowAtomicPublish: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	return js, func() {
		nc.Close()
		server.Stop()
		_ = os.RemoveAll(folder)
	}
}
