package schedules

import (
	"encoding/json"
	"slices"
)

// queue is the entry's queue, default unless it says.
func (e Entry) queue() string {
	if e.Queue == "" {
		return "default"
	}
	return e.Queue
}

// encodeEntry is the value of the entry in the bucket.
func encodeEntry(e Entry) ([]byte, error) { return json.Marshal(e) }

func sortSkipped(list []Skipped) {
	slices.SortFunc(list, func(a, b Skipped) int { return a.Nominal.Compare(b.Nominal) })
}
