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
	last []string // since expect, at most maxTail bytes
	size int
	end  string        // what ends the output of the script that runs
	came chan struct{} // closed when it came
}

// collect reads until the last process that holds the other end is gone, or close.
func collect(file *os.File, each func(string)) *output {
	o := &output{file: file, done: make(chan struct{}), came: make(chan struct{})}
	go func() {
		defer close(o.done)
		r := bufio.NewReaderSize(file, 4096)
		for total := 0; ; {
			// A line without end is taken in pieces.
			line, err := r.ReadSlice('\n')
			if total += len(line); len(line) > 0 && total <= maxOutput {
				text, more := o.cut(strings.TrimSuffix(string(line), "\n"))
				if more {
					o.add(text)
				}
				if more && each != nil {
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

// expect forgets what was printed up to now and says what will end the output of the next script.
func (o *output) expect(end string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.size, o.end, o.came = nil, 0, end, make(chan struct{})
}

// cut takes the end off a line; more tells whether there was something else.
func (o *output) cut(line string) (text string, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text, ends := strings.CutSuffix(line, o.end)
	if o.end == "" || !ends {
		return line, true
	}
	o.end = ""
	close(o.came)
	return text, text != ""
}

// tail is the end of what was printed since expect, as one line.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := strings.Join(o.last, "; ")
	return strings.TrimSpace(text[max(0, len(text)-maxTail):])
}

// settle waits until what a script, or a shell that has died, has printed has been read. A process that it left behind does not hold us up.
func (o *output) settle() {
	o.mu.Lock()
	came := o.came
	o.mu.Unlock()
	select {
	case <-came:
	case <-o.done:
	case <-time.After(100 * time.Millisecond):
	}
}

func (o *output) close() {
	select {
	case <-o.done:
	case <-time.After(100 * time.Millisecond):
	}
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
	o.file.Close()
	<-o.done
}
