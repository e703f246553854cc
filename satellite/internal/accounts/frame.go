package accounts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Marks at the start of the lines that count.
const (
	accountsMark = "LTSP-ACCOUNTS "
	aliveMark    = "LTSP-ALIVE"
)

// Bounds of what a login host may send.
const (
	maxLine     = 4 << 10                // of a line between accounts
	maxGreeting = 64                     // lines before the first accounts
	maxText     = agentproto.MaxAccounts // passwd and group together
)

// errFrame is wrapped by errors of what a login host sends.
var errFrame = errors.New("the login host sends something else than accounts")

// texts are passwd and group as they came.
type texts struct{ passwd, group string }

// frames reads what Script prints.
type frames struct {
	r        *bufio.Reader
	greeting int // lines so far that were neither accounts nor a sign of life, before the first accounts
	begun    bool
}

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, maxLine)} }

// next returns the next accounts, or alive if nothing has changed. The error is io.EOF at the end, or wraps errFrame, or is the reader's.
func (f *frames) next() (t texts, alive bool, err error) {
	for {
		raw, err := f.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return texts{}, false, fmt.Errorf("%w: a line of more than %d bytes", errFrame, maxLine)
		}
		if err != nil {
			return texts{}, false, err
		}
		line := strings.TrimRight(string(raw), "\r\n")
		if lengths, ok := strings.CutPrefix(line, accountsMark); ok {
			f.begun = true
			t, err := f.body(lengths)
			return t, false, err
		}
		if line == aliveMark {
			f.begun = true
			return texts{}, true, nil
		}
		if f.greeting++; f.begun || f.greeting > maxGreeting {
			return texts{}, false, fmt.Errorf("%w: %.80q", errFrame, line)
		}
	}
}

func (f *frames) body(lengths string) (texts, error) {
	var n [2]int
	parts := strings.Fields(lengths)
	if len(parts) != len(n) {
		return texts{}, fmt.Errorf("%w: lengths %.40q", errFrame, lengths)
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 31)
		if err != nil || v > maxText {
			return texts{}, fmt.Errorf("%w: accounts of %.20s bytes, the limit is %d", errFrame, p, maxText)
		}
		n[i] = int(v)
	}
	if n[0]+n[1] > maxText {
		return texts{}, fmt.Errorf("%w: accounts of %d bytes, the limit is %d", errFrame, n[0]+n[1], maxText)
	}
	buf := make([]byte, n[0]+n[1])
	if _, err := io.ReadFull(f.r, buf); err != nil {
		return texts{}, fmt.Errorf("%w: the accounts end early: %w", errFrame, err)
	}
	return texts{string(buf[:n[0]]), string(buf[n[0]:])}, nil
}
