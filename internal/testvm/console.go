package testvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	consoleLimit = 16 << 20              // readable text kept in memory; the log file holds all
	settle       = 20 * time.Millisecond // pause between two searches, so that single characters don't cost one each
	tailLines    = 40                    // of the console in an error
	maxMarks     = 1 << 16
)

// ErrEnded is in the error of Expect when the machine ended before the pattern appeared.
var ErrEnded = errors.New("the machine has ended")

// Match is what Expect found.
type Match struct {
	Text   string        // all of it
	Groups []string      // parenthesised parts in order, empty for those that took no part
	At     time.Duration // since power on, when its last byte arrived
}

// mark notes when the text up to an offset had arrived.
type mark struct {
	offset int64
	at     time.Duration
}

// console collects what a machine prints. write and end belong to one goroutine, everything else may be called from any.
type console struct {
	raw, timed io.Writer
	now        func() time.Duration // since power on
	onText     func(text []byte)    // called by write with readable text; nil: nobody

	// Only used by write.
	cleaner   cleaner
	lineBegun bool // in the timed log

	mu      sync.Mutex
	text    []byte // readable, the first dropped bytes are gone
	dropped int64
	marks   []mark
	pos     int64         // where the next search begins
	changed chan struct{} // closed and replaced when text grows or ended is set
	ended   bool
	err     error // of the log files
}

func newConsole(raw, timed io.Writer, now func() time.Duration) *console {
	return &console{raw: raw, timed: timed, now: now, changed: make(chan struct{})}
}

// write takes the next bytes of the stream.
func (c *console) write(raw []byte) {
	at := c.now()
	_, rawErr := c.raw.Write(raw)
	fresh := c.cleaner.clean(nil, raw)
	timedErr := c.writeTimed(fresh, at)
	c.mu.Lock()
	c.err = errors.Join(c.err, rawErr, timedErr)
	c.text = append(c.text, fresh...)
	if len(c.text) > consoleLimit {
		drop := len(c.text) - consoleLimit/2
		c.text = append([]byte(nil), c.text[drop:]...)
		c.dropped += int64(drop)
		c.pos = max(c.pos, c.dropped)
	}
	c.markLocked(at)
	c.wakeLocked()
	c.mu.Unlock()
	if c.onText != nil && len(fresh) > 0 {
		c.onText(fresh)
	}
}

// end says that nothing more will come.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wakeLocked()
}

func (c *console) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// markLocked remembers the time; marks within a millisecond are joined, and every second one goes when there are too many.
func (c *console) markLocked(at time.Duration) {
	offset := c.dropped + int64(len(c.text))
	if n := len(c.marks); n > 0 && at-c.marks[n-1].at < time.Millisecond {
		c.marks[n-1] = mark{offset, at}
		return
	}
	if len(c.marks) == maxMarks {
		for i := range maxMarks / 2 {
			c.marks[i] = c.marks[2*i+1]
		}
		c.marks = c.marks[:maxMarks/2]
	}
	c.marks = append(c.marks, mark{offset, at})
}

// timeOfLocked returns when the byte before offset arrived.
func (c *console) timeOfLocked(offset int64) time.Duration {
	for _, m := range c.marks {
		if m.offset >= offset {
			return m.at
		}
	}
	return 0
}

// writeTimed writes lines that begin with the seconds since power on.
func (c *console) writeTimed(text []byte, at time.Duration) error {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		if !c.lineBegun {
			fmt.Fprintf(&out, "[%9.3f] ", at.Seconds())
		}
		out.Write(line)
		c.lineBegun = line[len(line)-1] != '\n'
	}
	if out.Len() == 0 {
		return nil
	}
	_, err := c.timed.Write(out.Bytes())
	return err
}

// search looks for re behind the last match and moves on when it is found. fatal counts only when it stands before re.
func (c *console) search(re, fatal *regexp.Regexp) (match Match, found bool, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.text[c.pos-c.dropped:]
	at := re.FindSubmatchIndex(rest)
	if bad := fatal.FindIndex(rest); bad != nil && (at == nil || bad[0] < at[0]) {
		return Match{}, false, nil, fmt.Errorf("the console says %q", rest[bad[0]:bad[1]])
	}
	if at == nil {
		if c.ended {
			return Match{}, false, nil, errors.Join(ErrEnded, c.err)
		}
		return Match{}, false, c.changed, nil
	}
	end := c.pos + int64(at[1])
	match = Match{Text: string(rest[at[0]:at[1]]), At: c.timeOfLocked(end)}
	for i := 2; i < len(at); i += 2 {
		group := ""
		if at[i] >= 0 {
			group = string(rest[at[i]:at[i+1]])
		}
		match.Groups = append(match.Groups, group)
	}
	c.pos = end
	return match, true, nil, nil
}

// expect waits for re. The caller adds who and what to the error.
func (c *console) expect(ctx context.Context, re, fatal *regexp.Regexp) (Match, error) {
	for {
		match, found, changed, err := c.search(re, fatal)
		if found || err != nil {
			return match, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Match{}, ctx.Err()
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done(): // one more search, so that what has come in time counts
			if match, found, _, err := c.search(re, fatal); found || err != nil {
				return match, err
			}
			return Match{}, ctx.Err()
		}
	}
}

// all returns the readable text kept.
func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// tail returns the last lines that are not empty.
func (c *console) tail(lines int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	const enough = 64 << 10
	text := string(c.text[max(0, len(c.text)-enough):])
	var kept []string
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			kept = append(kept, strings.TrimRight(line, " \t\n"))
		}
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "\n")
}

// openLogs creates the two log files of a console.
func openLogs(path string) (raw, timed *os.File, err error) {
	if raw, err = os.Create(path); err != nil {
		return nil, nil, fmt.Errorf("console log: %w", err)
	}
	if timed, err = os.Create(path + ".timed"); err != nil {
		raw.Close()
		return nil, nil, fmt.Errorf("console log: %w", err)
	}
	return raw, timed, nil
}
