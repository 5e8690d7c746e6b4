package schedules

import (
	"slices"
	"sync"
)

// marks are the queues in which each entry has had a ledger, as the bucket
// tells. They are safe for concurrent use.
type marks struct {
	mu     sync.Mutex
	queues map[string][]string
}

func (m *marks) set(queue, name string, there bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := without(m.queues[name], queue)
	if there {
		list = append(list, queue)
	}
	m.queues[name] = list
}

func (m *marks) of(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.queues[name])
}

func (m *marks) has(queue, name string) bool { return slices.Contains(m.of(name), queue) }
