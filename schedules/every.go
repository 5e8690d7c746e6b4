package schedules

import (
	"encoding/json"
	"fmt"
	"time"

	"pelton/engine"
)

// Every is an entry that sends a task again and again, at whole multiples of d
// since the start of Unix time unless its Start is set. The name stands in the
// ids of its tasks. What else an entry may say is set on what is returned:
//
//	e := schedules.Every("ping", 10*time.Second, ping, Ping{Host: "a"})
//	e.Overlap = schedules.OverlapSkip
//
// It panics where the input cannot be written as JSON.
func Every[In, Out any](name string, d time.Duration, t *engine.Task[In, Out], in In) Entry {
	e := entryOf(name, t, in)
	e.Every = d
	return e
}

// Cron is an entry that sends a task at the times of a cron line of five or six
// fields, in UTC unless its Zone is set. It panics as [Every] does.
func Cron[In, Out any](name, line string, t *engine.Task[In, Out], in In) Entry {
	e := entryOf(name, t, in)
	e.Cron = line
	return e
}

// At is an entry that sends a task once. It panics as [Every] does.
func At[In, Out any](name string, at time.Time, t *engine.Task[In, Out], in In) Entry {
	e := entryOf(name, t, in)
	e.At = at
	return e
}

// List is entries as a beat takes them.
func List(entries ...Entry) []Stored {
	list := make([]Stored, len(entries))
	for i, e := range entries {
		list[i] = Stored{Entry: e}
	}
	return list
}

func entryOf[In, Out any](name string, t *engine.Task[In, Out], in In) Entry {
	body, err := json.Marshal(in)
	if err != nil {
		panic(fmt.Sprintf("entry %s: body: %v", name, err))
	}
	return Entry{Name: name, Task: t.Name(), Queue: t.Queue(), Body: body}
}
