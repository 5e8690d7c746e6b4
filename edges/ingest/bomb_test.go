package ingest

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"pelton/engine/wire"
)

// A small batch that unpacks to a huge one must not stop its partition. Its
// records, which nobody can look at, have one dead letter in their turn.
func TestBombIsOneDeadLetter(t *testing.T) {
	for name, tt := range map[string]struct {
		before, bombs, after int
	}{
		"in the middle": {3, 1, 3},
		"alone":         {0, 1, 0},
		"first, second": {0, 2, 5},
		"last":          {5, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			armed := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(64<<20),
				kgo.ProducerBatchCompression(kgo.ZstdCompression()))
			w.flow(1, tt.before)
			for range tt.bombs {
				// Two records of one batch.
				huge := bytes.Repeat([]byte("0"), 10<<20)
				err := armed.ProduceSync(w.ctx, &kgo.Record{Topic: topicName, Value: huge}, &kgo.Record{Topic: topicName, Value: huge}).FirstErr()
				if err != nil {
					t.Fatal(err)
				}
			}
			end := int64(tt.before + 2*tt.bombs)
			w.ends[0] = end
			w.flow(1, tt.after)
			w.flow(2, 20)
			e := w.start(w.config())
			w.settled()
			e.stop()

			var dead, good []int64
			for _, m := range w.tasks() {
				at, err := wire.ParseKafkaOrigin(m.header.Get(wire.HeaderOrigin))
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case at.Partition != 0:
				case m.subject == "pelton.task.default."+wire.TaskDead:
					dead = append(dead, at.Offset)
					if m.header.Get(wire.HeaderErrorType) != wire.FailureBadInput || len(m.data) > 0 {
						t.Errorf("dead letter %v of %d bytes", m.header, len(m.data))
					}
				default:
					good = append(good, at.Offset)
				}
			}
			if len(dead) != tt.bombs || dead[0] != int64(tt.before) || len(good) != tt.before+tt.after+10 {
				t.Errorf("dead letters of %v, tasks of %v", dead, good)
			}
			// What was stored is not read again.
			stored := len(w.tasks())
			w.flow(1, 1)
			w.start(w.config())
			w.settled()
			if n := len(w.tasks()); n != stored+1 {
				t.Errorf("%d tasks, %d before", n, stored)
			}
		})
	}
}
