package schedules

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine/ledger"
	"pelton/engine/wire"
)

// rivals are beats that have read the same ledger and look at the same moment,
// minute after minute. It returns how often an occurrence was stored twice.
func (w *world) rivals(change func(*keeper)) (doubles, single int) {
	w.Helper()
	start := time.Now().Truncate(time.Minute).Add(-time.Hour)
	e := printEvery("ping", time.Minute)
	s := w.put(e)
	w.seed(s, start)
	keepers := []*keeper{w.keeper(s), w.keeper(s), w.keeper(s)}
	for _, k := range keepers {
		if err := k.adopt(w.Context()); err != nil {
			w.Fatal(err)
		}
		change(k)
	}
	for minute := 1; minute <= 10; minute++ {
		now := start.Add(time.Duration(minute) * time.Minute)
		done := make(chan error, len(keepers))
		for _, k := range keepers {
			go func() {
				_, err := k.look(w.Context(), now, false)
				done <- err
			}()
		}
		for range keepers {
			if err := <-done; err != nil {
				w.Fatal(err)
			}
		}
	}
	for _, n := range w.sent("default") {
		if n > 1 {
			doubles++
		} else {
			single++
		}
	}
	return doubles, single
}

func TestRivals(t *testing.T) {
	w := newWorld(t)
	if doubles, single := w.rivals(func(*keeper) {}); doubles > 0 || single != 10 {
		t.Errorf("%d occurrences were stored twice, %d once", doubles, single)
	}
}

// Control: a ledger without its expected sequence.
func TestRivalsWithoutFence(t *testing.T) {
	w := newWorld(t)
	doubles, _ := w.rivals(func(k *keeper) { k.commit = unfenced(w.c.JetStream()) })
	if doubles == 0 {
		t.Error("nothing was stored twice: the control proves nothing")
	}
}

// unfenced writes tasks, and then the ledger, whatever was read of it.
func unfenced(js jetstream.JetStream) func(context.Context, ledger.Part, bool) (ledger.Entry, error) {
	return func(ctx context.Context, p ledger.Part, _ bool) (ledger.Entry, error) {
		for _, m := range p.Tasks {
			if _, err := js.PublishMsg(ctx, m); err != nil {
				return ledger.Entry{}, err
			}
		}
		newest, err := p.Ledger.Read(ctx)
		if err != nil {
			return ledger.Entry{}, err
		}
		for {
			at, err := p.Ledger.Write(ctx, newest.Sequence, nil, p.Position)
			fenced, refused := errors.AsType[*ledger.FencedError](err)
			if !refused {
				return at, err
			}
			newest = fenced.Found
		}
	}
}

// keyLocker is a distributed locker of gocron's: a key that is there while the
// job runs.
type keyLocker struct{ kv jetstream.KeyValue }

type keyLock struct {
	kv  jetstream.KeyValue
	key string
}

func (l keyLocker) Lock(ctx context.Context, key string) (gocron.Lock, error) {
	if _, err := l.kv.Create(ctx, key, nil); err != nil {
		return nil, err
	}
	return keyLock{l.kv, key}, nil
}

func (l keyLock) Unlock(ctx context.Context) error { return l.kv.Delete(ctx, l.key) }

// Control: gocron's locker in place of the ledger, with clocks that differ by
// less than a second.
func TestGocronLocker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kv, err := w.c.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "LOCKS"})
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{}, 100)
	for _, by := range []time.Duration{-300 * time.Millisecond, 0, 300 * time.Millisecond} {
		clock := skewed{clockwork.NewRealClock(), by}
		s, err := gocron.NewScheduler(gocron.WithClock(clock), gocron.WithDistributedLocker(keyLocker{kv}), gocron.WithLocation(time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Shutdown() })
		send := func() {
			id := OccurrenceID("ping", clock.Now().Round(time.Second))
			subject := w.c.Namespace().TaskSubject(wire.Address{Lane: wire.PlainLane("default"), Task: "print", ID: id})
			if _, err := w.c.JetStream().PublishMsg(context.WithoutCancel(t.Context()), &nats.Msg{Subject: subject, Data: []byte("{}")}); err == nil {
				sent <- struct{}{}
			}
		}
		first := clock.Now().Truncate(time.Second).Add(2 * time.Second)
		if _, err := s.NewJob(gocron.DurationJob(time.Second), gocron.NewTask(send), gocron.WithName("ping"),
			gocron.WithStartAt(gocron.WithStartDateTime(first))); err != nil {
			t.Fatal(err)
		}
		s.Start()
	}
	for range 9 {
		select {
		case <-sent:
		case <-time.After(patience):
			t.Fatal("gocron sends nothing")
		}
	}
	doubles := 0
	for _, n := range w.sent("default") {
		if n > 1 {
			doubles++
		}
	}
	if doubles == 0 {
		t.Error("nothing was stored twice: the control proves nothing")
	}
}
