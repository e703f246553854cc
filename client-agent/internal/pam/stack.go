package pam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Marks of the parts of a file that pam-auth-update(8) manages.
const (
	primaryMark    = `# here are the per-package modules (the "Primary" block)`
	fallbackMark   = `# here's the fallback if no module succeeds`
	additionalMark = `# and here are more per-package modules (the "Additional" block)`
	endMark        = `# end of pam-auth-update config`
)

// emptyPrimary is the line of a Primary block that has no modules.
const emptyPrimary = "[default=1]\t\t\tpam_permit.so"

// stack is one file of /etc/pam.d with the managed blocks.
type stack struct {
	kind  string // "auth" or "session"
	lines []string
}

// parseStack finds the blocks; the error says which mark is missing.
func parseStack(kind string, text []byte) (*stack, error) {
	s := &stack{kind: kind, lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")}
	at := 0
	for _, mark := range []string{primaryMark, fallbackMark, additionalMark, endMark} {
		i := slices.IndexFunc(s.lines[at:], func(l string) bool { return strings.HasPrefix(l, mark) })
		if i < 0 {
			return nil, fmt.Errorf("%w: no line %q", ErrUnmanaged, mark)
		}
		at += i + 1
	}
	return s, nil
}

func (s *stack) text() []byte { return []byte(strings.Join(s.lines, "\n") + "\n") }

// block returns the range of the lines of the Primary or the Additional block.
func (s *stack) block(additional bool) (from, to int) {
	first, last := primaryMark, fallbackMark
	if additional {
		first, last = additionalMark, endMark
	}
	find := func(from int, mark string) int {
		return from + slices.IndexFunc(s.lines[from:], func(l string) bool { return strings.HasPrefix(l, mark) })
	}
	from = find(0, first) + 1
	return from, find(from, last)
}

// isModule tells whether a line is a module of this stack, which jumps count.
func (s *stack) isModule(line string) bool {
	fields := strings.Fields(line)
	return len(fields) > 1 && strings.EqualFold(strings.TrimPrefix(fields[0], "-"), s.kind)
}

// insert puts a module before the line at. Jumps that went beyond that place still land where they did; a jump onto the module that was there lands on
// the new one, as a jump to "the next" should.
func (s *stack) insert(at int, line string) {
	s.shift(at, 1)
	s.lines = slices.Insert(s.lines, at, line)
}

// remove takes out the line at, and undoes insert.
func (s *stack) remove(at int) {
	s.shift(at, -1)
	s.lines = slices.Delete(s.lines, at, at+1)
}

// shift adds delta to each jump that starts before the line at and goes beyond it.
func (s *stack) shift(at, delta int) {
	between := 0 // modules between the line looked at and at
	for i := at - 1; i >= 0; i-- {
		if strings.HasPrefix(strings.TrimSpace(s.lines[i]), "@include") {
			return // how many modules that is cannot be seen here; nothing in Debian jumps over an include
		}
		if !s.isModule(s.lines[i]) {
			continue
		}
		s.lines[i] = mapControl(s.lines[i], func(jump int) int {
			if jump > between {
				return jump + delta
			}
			return jump
		})
		between++
	}
}

// mapControl changes the jumps in the bracketed control of a line, the numbers in [success=2 default=ignore].
func mapControl(line string, change func(int) int) string {
	from, to := strings.IndexByte(line, '['), strings.IndexByte(line, ']')
	if from < 0 || to < from {
		return line
	}
	var out strings.Builder
	for rest := line[from:to]; rest != ""; {
		i := strings.IndexByte(rest, '=') + 1
		end := i + len(rest[i:]) - len(strings.TrimLeft(rest[i:], "0123456789"))
		n, err := strconv.Atoi(rest[i:end])
		switch {
		case i == 0:
			end = len(rest)
			out.WriteString(rest)
		case err == nil && n > 0:
			out.WriteString(rest[:i] + strconv.Itoa(change(n)))
		default:
			out.WriteString(rest[:end])
		}
		rest = rest[end:]
	}
	return line[:from] + out.String() + line[to:]
}
