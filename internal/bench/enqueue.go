package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pelton/engine"
)

// callers of the path that has many.
const callers = 64

// Enqueue is the paths into a queue.
func Enqueue() []Path {
	return []Path{
		{Name: "one", Says: "one caller that waits", Tasks: 5000, Headers: 1, Raw: rawOne, Pelton: sendOne},
		{Name: "64", Says: "64 callers that wait", Tasks: 60_000, Headers: 1, Raw: atOnce(rawOne), Pelton: atOnce(sendOne)},
		{Name: "with-id", Says: "one caller with explicit ids", Tasks: 5000, Headers: 2, Raw: rawID, Pelton: sendID},
		{Name: "future", Says: "futures", Tasks: 100_000, Raw: rawAsync, Pelton: sendAsync},
		{Name: "many", Says: "many at once", Tasks: 200_000, Raw: rawFast, Pelton: sendMany},
		{Name: "power-safe", Says: "many at once, every write forced", Tasks: 50_000, SyncAlways: true, Headers: 2, Raw: rawAtomic, Pelton: sendMany},
	}
}

// atOnce shares the tasks of a run among callers.
func atOnce(work func(context.Context, *Run) error) func(context.Context, *Run) error {
	return func(ctx context.Context, r *Run) error {
		var group sync.WaitGroup
		errs := make([]error, callers)
		for i := range callers {
			share := *r
			share.Tasks = r.Tasks / callers
			if i < r.Tasks%callers {
				share.Tasks++
			}
			group.Go(func() { errs[i] = work(ctx, &share) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
}

func rawOne(ctx context.Context, r *Run) error {
	for range r.Tasks {
		m := &nats.Msg{Subject: r.Subject, Header: nats.Header{"Nats-Msg-Id": {rand.Text()}}, Data: r.Body}
		if _, err := r.JS.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func sendOne(ctx context.Context, r *Run) error {
	for range r.Tasks {
		if _, err := r.Client.SendRaw(ctx, r.Queue, "nop", r.Body); err != nil {
			return err
		}
	}
	return nil
}

func rawID(ctx context.Context, r *Run) error {
	for i := range r.Tasks {
		m := &nats.Msg{Subject: r.Subject + ".id" + strconv.Itoa(i), Data: r.Body, Header: nats.Header{
			"Nats-Msg-Id": {rand.Text()}, "Nats-Expected-Last-Subject-Sequence": {"0"},
		}}
		if _, err := r.JS.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func sendID(ctx context.Context, r *Run) error {
	for i := range r.Tasks {
		if _, err := r.Client.SendRaw(ctx, r.Queue, "nop", r.Body, engine.WithID("id"+strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

func rawAsync(ctx context.Context, r *Run) error {
	for range r.Tasks {
		if _, err := r.JS.PublishAsync(r.Subject, r.Body, jetstream.WithStallWait(stall)); err != nil {
			return err
		}
	}
	return r.published(ctx)
}

func sendAsync(ctx context.Context, r *Run) error {
	for range r.Tasks {
		if _, err := r.Client.SendRawAsync(ctx, r.Queue, "nop", r.Body); err != nil {
			return err
		}
	}
	return r.Client.Flush(ctx)
}

func sendMany(ctx context.Context, r *Run) error {
	results, err := r.Client.SendManyRaw(ctx, r.Queue, "nop", r.bodies())
	if err == nil && results[len(results)-1].ID() != r.Queue+"-"+strconv.Itoa(r.Tasks) {
		err = fmt.Errorf("the last of %d tasks is %s", r.Tasks, results[len(results)-1].ID())
	}
	return err
}

// rawFast is the least that fast batch ingest takes: one batch, two
// confirmations ahead.
func rawFast(_ context.Context, r *Run) error {
	prefix := r.NC.NewInbox() + "." + rand.Text()[:10]
	sub, err := r.NC.SubscribeSync(prefix + ".>")
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	prefix += ".500.fail."
	var acked, pace int
	for sent := 1; sent <= r.Tasks; sent++ {
		operation := ".1.$FI"
		switch sent {
		case 1:
			operation = ".0.$FI"
		case r.Tasks:
			operation = ".2.$FI"
		}
		if err := r.NC.PublishRequest(r.Subject, prefix+strconv.Itoa(sent)+operation, r.Body); err != nil {
			return err
		}
		for sent == r.Tasks || pace == 0 || sent >= acked+2*pace {
			m, err := sub.NextMsg(10 * time.Second)
			if err != nil {
				return err
			}
			var a struct {
				Type  string
				Seq   int
				Msgs  int
				Count int
				Error *jetstream.APIError
			}
			if err := json.Unmarshal(m.Data, &a); err != nil {
				return err
			}
			switch {
			case a.Error != nil:
				return a.Error
			case a.Type == "ack":
				acked, pace = a.Seq, a.Msgs
			case a.Count == r.Tasks:
				return nil
			default:
				return fmt.Errorf("the batch broke at %d of %d", a.Count, r.Tasks)
			}
		}
	}
	return nil
}

// rawAtomic is atomic batches of a thousand, one after the other.
func rawAtomic(ctx context.Context, r *Run) error {
	for left := r.Tasks; left > 0; left -= 1000 {
		n, id := min(left, 1000), rand.Text()
		for i := 1; i < n; i++ {
			m := &nats.Msg{Subject: r.Subject, Data: r.Body, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i)}}}
			if err := r.NC.PublishMsg(m); err != nil {
				return err
			}
		}
		m := &nats.Msg{Subject: r.Subject, Data: r.Body, Header: nats.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(n)}, "Nats-Batch-Commit": {"1"},
		}}
		answer, err := r.NC.RequestMsgWithContext(ctx, m)
		if err != nil {
			return err
		}
		var ack struct {
			Count int
			Error *jetstream.APIError
		}
		if err := json.Unmarshal(answer.Data, &ack); err != nil {
			return err
		}
		if ack.Error != nil {
			return ack.Error
		}
		if ack.Count != n {
			return fmt.Errorf("a batch of %d has %d messages", n, ack.Count)
		}
	}
	return nil
}
