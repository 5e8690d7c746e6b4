package ledger

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// group is ledgers of one stream with their newest entries.
type group struct {
	ledgers []*Ledger
	fences  []uint64
}

func newGroup(t *testing.T, w *world, n int) *group {
	t.Helper()
	js, g := w.connect(), &group{fences: make([]uint64, n)}
	for i := range n {
		l, err := New(Config{JetStream: js, Stream: testStream, Subject: fmt.Sprintf("pelton.ledger.default.beat.e%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		g.ledgers = append(g.ledgers, l)
	}
	return g
}

// parts are of each ledger its i-th number of tasks.
func (g *group) parts(round int) []Part {
	var parts []Part
	for i, l := range g.ledgers {
		p := Part{Ledger: l, Fence: g.fences[i], Position: position(round)}
		for n := range i {
			p.Tasks = append(p.Tasks, &nats.Msg{Subject: testTask, Data: fmt.Appendf(nil, "%d-%d-%d", round, i, n)})
		}
		parts = append(parts, p)
	}
	return parts
}

func TestWriteTogether(t *testing.T) {
	w := newWorld(t)
	g := newGroup(t, w, 5)
	for round := range 3 {
		entries, err := WriteTogether(t.Context(), g.parts(round))
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range g.ledgers {
			found, err := l.Read(t.Context())
			if err != nil || found.Sequence != entries[i].Sequence || found.CRC != entries[i].CRC || nextOf(t, found) != round {
				t.Errorf("round %d, ledger %d: %+v, %v, told %+v", round, i, found, err, entries[i])
			}
			g.fences[i] = entries[i].Sequence
		}
	}
	// An entry written together is known again as the ledger's own.
	parts := g.parts(9)
	entries, err := WriteTogether(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parts[2].Ledger.Write(t.Context(), parts[2].Fence, parts[2].Tasks, parts[2].Position)
	if err != nil || again.Sequence != entries[2].Sequence {
		t.Errorf("Write of what is stored = %+v, %v, want sequence %d", again, err, entries[2].Sequence)
	}
}

// One wrong fence refuses all.
func TestWriteTogetherFenced(t *testing.T) {
	w := newWorld(t)
	g := newGroup(t, w, 4)
	if _, err := g.ledgers[2].Write(t.Context(), 0, nil, position(1)); err != nil {
		t.Fatal(err)
	}
	before := w.info().State.LastSeq
	if _, err := WriteTogether(t.Context(), g.parts(0)); !errors.Is(err, ErrFenced) {
		t.Errorf("WriteTogether = %v", err)
	}
	if after := w.info().State.LastSeq; after != before {
		t.Errorf("%d messages are stored", after-before)
	}
	for _, l := range g.ledgers {
		l.unfenced = true
	}
	if _, err := WriteTogether(t.Context(), g.parts(0)); err != nil {
		t.Errorf("without fences: %v", err)
	}
}

func TestWriteTogetherTooMany(t *testing.T) {
	w := newWorld(t)
	g := newGroup(t, w, 2)
	parts := g.parts(0)
	for range MaxTasks {
		parts[1].Tasks = append(parts[1].Tasks, &nats.Msg{Subject: testTask})
	}
	parts[1].Tasks = parts[1].Tasks[:MaxTasks]
	if _, err := WriteTogether(t.Context(), parts); !errors.Is(err, ErrTooLarge) {
		t.Errorf("WriteTogether = %v", err)
	}
	if n := w.info().State.LastSeq; n > 0 {
		t.Errorf("%d messages are stored", n)
	}
}
