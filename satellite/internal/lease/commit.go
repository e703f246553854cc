package lease

import (
	"context"
	"errors"
	"sync"
)

// A Log keeps records across crashes.
type Log interface {
	// Append returns when all records are durable, in order, all or none. It may block for as long as the disk takes.
	Append(ctx context.Context, records []Record) error
	// Load calls f with the last record of each address, in no particular order, and stops at f's first error.
	Load(f func(Record) error) error
}

// ErrClosed is what a commit that came after the end gets.
var ErrClosed = errors.New("lease log closed")

// maxBatch bounds the records of one Append, so that one transaction stays a matter of milliseconds.
const maxBatch = 2048

// A Committer writes records to a Log. While one Append is under way, all who come meanwhile wait for the next and share it:
// nobody waits for a timer, and a thousand clients at once cost a few disk flushes.
type Committer struct {
	log  Log
	wake chan struct{}

	mu      sync.Mutex
	waiting []commit
	closed  bool
}

type commit struct {
	records []Record
	done    func(error)
}

// NewCommitter makes a committer for log; Run must be running for commits to happen.
func NewCommitter(log Log) *Committer {
	return &Committer{log: log, wake: make(chan struct{}, 1)}
}

// Submit queues records and returns at once. done is called with the result, in the order of submission, by Run's goroutine: it
// must not block. The caller bounds how much it submits. A nil done is allowed.
func (c *Committer) Submit(records []Record, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.waiting = append(c.waiting, commit{records, done})
	}
	c.mu.Unlock()
	if closed {
		done(ErrClosed)
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run commits until ctx ends, then what is still waiting, and returns nil. It can be called once.
func (c *Committer) Run(ctx context.Context) error {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			c.mu.Lock()
			c.closed = true
			c.mu.Unlock()
			c.drain(context.WithoutCancel(ctx))
			return nil
		}
		c.drain(context.WithoutCancel(ctx))
	}
}

// drain commits all that waits. A commit that has begun is not cancelled: it is short, and its clients wait for the answer.
func (c *Committer) drain(ctx context.Context) {
	var records []Record
	for batch := c.take(); len(batch) > 0; batch = c.take() {
		records = records[:0]
		for _, w := range batch {
			records = append(records, w.records...)
		}
		err := c.log.Append(ctx, records)
		for _, w := range batch {
			w.done(err)
		}
	}
}

// take removes up to maxBatch records' worth of commits from the queue.
func (c *Committer) take() []commit {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, records := 0, 0
	for n < len(c.waiting) && (n == 0 || records < maxBatch) {
		records += len(c.waiting[n].records)
		n++
	}
	batch := c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	if len(c.waiting) == 0 {
		c.waiting = nil
	}
	return batch
}
