package shell

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// output reads what scripts print.
type output struct {
	file *os.File
	done chan struct{}

	mu   sync.Mutex
	last []string // since mark, at most maxTail bytes
	size int
}

// collect reads until the last process that holds the other end is gone, or close.
func collect(file *os.File, each func(string)) *output {
	o := &output{file: file, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		r := bufio.NewReaderSize(file, 4096)
		for total := 0; ; {
			// A line without end is taken in pieces.
			line, err := r.ReadSlice('\n')
			if total += len(line); len(line) > 0 && total <= maxOutput {
				text := strings.TrimSuffix(string(line), "\n")
				o.add(text)
				if each != nil {
					each(text)
				}
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				_, _ = io.Copy(io.Discard, file) // a writer must not block
				return
			}
		}
	}()
	return o
}

func (o *output) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = append(o.last, line)
	for o.size += len(line); o.size > maxTail && len(o.last) > 1; o.last = o.last[1:] {
		o.size -= len(o.last[0])
	}
}

// mark forgets what was printed up to now.
func (o *output) mark() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.size = nil, 0
}

// tail is the end of what was printed since mark, as one line.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.Join(o.last, "; ")
	return strings.TrimSpace(text[max(0, len(text)-maxTail):])
}

// settle waits until what a dead shell has printed has been read; a process that it left behind does not hold us up.
func (o *output) settle() {
	select {
	case <-o.done:
	case <-time.After(100 * time.Millisecond):
	}
}

func (o *output) close() {
	o.settle()
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
	o.file.Close()
	<-o.done
}
