package engine

import "sync"

// mailbox passes things from many goroutines to one that takes all at once, so
// that a burst costs one wake-up. What it holds is bounded by whoever puts.
type mailbox[T any] struct {
	mu    sync.Mutex
	items []T
	spare []T
	told  chan struct{} // has something in it when there may be items
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{told: make(chan struct{}, 1)} }

func (b *mailbox[T]) put(x T) {
	b.mu.Lock()
	b.items = append(b.items, x)
	first := len(b.items) == 1
	b.mu.Unlock()
	if first {
		tell(b.told)
	}
}

// take is all that has been put. It holds until the next take.
func (b *mailbox[T]) take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	clear(b.spare)
	b.items, b.spare = b.spare[:0], items
	return items
}

func (b *mailbox[T]) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.items)
}

// tell wakes whoever waits for a channel of capacity one.
func tell(told chan struct{}) {
	select {
	case told <- struct{}{}:
	default:
	}
}
