package engine_test

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"pelton/engine"
	"pelton/engine/enginetest"
	"pelton/engine/wire"
)

// BenchmarkDrain is the whole of a task with its result: fetch, run, record,
// ack, over TCP, with as many tasks waiting as are timed.
func BenchmarkDrain(b *testing.B) {
	broker := enginetest.Start(b)
	broker.Setup("default")
	js := broker.JetStream()
	for i := range b.N {
		if _, err := js.PublishAsync("pelton.task.default.nop", []byte(`{"message":"hi"}`)); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 || i == b.N-1 {
			<-js.PublishAsyncComplete()
		}
	}
	c, err := engine.NewClient(broker.Conn(engine.ConnectOptions(nil)...))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	done := make(chan struct{})
	var n atomic.Int64
	w := engine.NewWorker(c, engine.WorkerConfig{
		Queues: []engine.Queue{{Name: "default", Slots: 64}},
		Hooks: engine.Hooks{Recorded: func(*engine.Record) {
			if n.Add(1) == int64(b.N) {
				close(done)
			}
		}},
	})
	engine.HandleRaw(w, "nop", func(context.Context, *engine.Message) ([]byte, error) { return nil, nil })
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { ended <- w.Run(ctx) }()
	<-done
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSend is one caller that waits for each PubAck.
func BenchmarkSend(b *testing.B) {
	broker := enginetest.Start(b)
	broker.Setup("default")
	c, err := engine.NewClient(broker.Conn(engine.ConnectOptions(nil)...))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	js := broker.JetStream()
	b.Run("pelton", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := c.SendRaw(b.Context(), "default", "nop", []byte(`{"message":"hi"}`)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := js.Publish(b.Context(), "pelton.task.default.nop", []byte(`{"message":"hi"}`)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSendLater is one caller that waits for each PubAck of a task with a
// time ahead, beside the same schedule written by hand.
func BenchmarkSendLater(b *testing.B) {
	broker := enginetest.Start(b)
	broker.Setup("default")
	c, err := engine.NewClient(broker.Conn(engine.ConnectOptions(nil)...))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	js := broker.JetStream()
	eta := time.Now().Add(24 * time.Hour)
	b.Run("pelton", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, err := c.SendRaw(b.Context(), "default", "nop", []byte(`{"message":"hi"}`), engine.WithETA(eta)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		at := wire.FormatTime(eta.Add(-500 * time.Millisecond))
		for range b.N {
			id := rand.Text()
			m := nats.NewMsg("pelton.later.default." + id)
			m.Data = []byte(`{"message":"hi"}`)
			m.Header["Nats-Schedule"] = []string{"@at " + at}
			m.Header["Nats-Schedule-Target"] = []string{"pelton.due.default.nop." + id}
			m.Header["Pelton-Eta"] = []string{wire.FormatTime(eta)}
			if _, err := js.PublishMsg(b.Context(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
