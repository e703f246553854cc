package resident

import (
	"context"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// maxLines bounds what waits for a satellite: a client that is alone for an hour need not tell everything that happened.
	maxLines = 64
	// emptyPoll is how often is looked whether all has been told.
	emptyPoll = 20 * time.Millisecond
)

// Outbox holds lines (results, events) until a satellite has taken them. It is safe for concurrent use.
type Outbox struct {
	ready chan struct{} // has a token when there may be lines

	mu    sync.Mutex
	lines []agentproto.Message
	out   bool // a line is under way
}

// NewOutbox returns an empty Outbox.
func NewOutbox() *Outbox { return &Outbox{ready: make(chan struct{}, 1)} }

// Add adds a line. Where there is no room the oldest event goes, or if all are results the oldest of them.
func (o *Outbox) Add(m agentproto.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.roomLocked()
	o.lines = append(o.lines, m)
	o.wakeLocked()
}

func (o *Outbox) roomLocked() {
	if len(o.lines) < maxLines {
		return
	}
	oldest := 0
	for i, m := range o.lines {
		if m.Event != nil {
			oldest = i
			break
		}
	}
	o.lines = append(o.lines[:oldest:oldest], o.lines[oldest+1:]...)
}

func (o *Outbox) wakeLocked() {
	select {
	case o.ready <- struct{}{}:
	default: // is awake
	}
}

// take removes the oldest line and returns it, or false. Settle must be called when its fate is known.
func (o *Outbox) take() (agentproto.Message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) == 0 {
		return agentproto.Message{}, false
	}
	m := o.lines[0]
	o.lines, o.out = o.lines[1:], true
	return m, true
}

// settle forgets the line that was taken, or with again puts it back to the front.
func (o *Outbox) settle(m agentproto.Message, again bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out = false
	if again {
		o.roomLocked()
		o.lines = append([]agentproto.Message{m}, o.lines...)
		o.wakeLocked()
	}
}

func (o *Outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.lines) == 0 && !o.out
}

// awaitEmpty returns when all lines have been told, or ctx ends.
func (o *Outbox) awaitEmpty(ctx context.Context) {
	for !o.empty() && pause(ctx, emptyPoll) {
		continue
	}
}
