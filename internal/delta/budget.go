package delta

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// budget lends memory to goroutines that work at the same time.
type budget struct {
	limit int64
	sem   *semaphore.Weighted
}

// newBudget lends half of the memory: the other half is for caches.
func newBudget(memory int64) *budget {
	return &budget{limit: memory / 2, sem: semaphore.NewWeighted(memory / 2)}
}

// take waits for n bytes; release gives them back. More than there is at all is ErrLimit.
func (b *budget) take(ctx context.Context, n int64) (release func(), err error) {
	if n > b.limit {
		return func() {}, fmt.Errorf("group takes %d bytes of memory, %d are allowed: %w", n, b.limit, ErrLimit)
	}
	if err := b.sem.Acquire(ctx, n); err != nil {
		return func() {}, err
	}
	return func() { b.sem.Release(n) }, nil
}
