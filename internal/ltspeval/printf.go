package ltspeval

import (
	"fmt"
	"strconv"
	"strings"
)

// maxWidth bounds the width and the precision of printf's fields.
const maxWidth = 4096

// printf writes its arguments by a format, again and again until they are used up.
func (c *call) printf() {
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		c.r.setStatus(2, false)
		return
	}
	p := &printer{format: args[0], args: args[1:]}
	for {
		before := len(p.args)
		p.once()
		if p.bad {
			c.r.setStatus(1, false)
		}
		c.print(p.out.String())
		p.out.Reset()
		if len(p.args) == 0 || len(p.args) == before || p.stop || !c.r.step(1+len(p.format)/16) {
			return
		}
	}
}

type printer struct {
	format string
	args   []string
	out    strings.Builder
	bad    bool
	stop   bool // by \c
}

func (p *printer) next() string {
	if len(p.args) == 0 {
		return ""
	}
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

// once goes through the format.
func (p *printer) once() {
	for s := p.format; s != "" && !p.stop; {
		switch {
		case s[0] == '\\':
			n := p.escape(s, false)
			s = s[n:]
		case strings.HasPrefix(s, "%%"):
			p.out.WriteByte('%')
			s = s[2:]
		case s[0] == '%':
			s = s[p.conversion(s):]
		default:
			p.out.WriteByte(s[0])
			s = s[1:]
		}
	}
}

// conversion writes one argument and returns the length of the specification.
func (p *printer) conversion(s string) int {
	i := 1
	for i < len(s) && strings.IndexByte("-+ 0#", s[i]) >= 0 {
		i++
	}
	flags := s[1:i]
	width, n := p.count(s[i:])
	i += n
	precision := -1
	if i < len(s) && s[i] == '.' {
		precision, n = p.count(s[i+1:])
		i += 1 + n
	}
	if i >= len(s) {
		p.bad, p.stop = true, true
		return len(s)
	}
	spec := "%" + flags
	if width > 0 {
		spec += strconv.Itoa(width)
	}
	if precision >= 0 {
		spec += "." + strconv.Itoa(precision)
	}
	p.convert(spec, s[i])
	return i + 1
}

func (p *printer) count(s string) (value, length int) {
	if strings.HasPrefix(s, "*") {
		n, _ := strconv.Atoi(p.next())
		return min(max(n, 0), maxWidth), 1
	}
	for length < len(s) && isDigit(s[length]) {
		length++
	}
	n, _ := strconv.Atoi(s[:length])
	return min(n, maxWidth), length
}

func (p *printer) convert(spec string, verb byte) {
	switch verb {
	case 's':
		fmt.Fprintf(&p.out, spec+"s", p.next())
	case 'b':
		inner := &printer{}
		for s := p.next(); s != "" && !inner.stop; {
			n := 1
			if s[0] == '\\' {
				n = inner.escape(s, true)
			} else {
				inner.out.WriteByte(s[0])
			}
			s = s[n:]
		}
		p.stop = inner.stop
		fmt.Fprintf(&p.out, spec+"s", inner.out.String())
	case 'c':
		if a := p.next(); a != "" {
			p.out.WriteString(a[:1])
		}
	case 'd', 'i':
		fmt.Fprintf(&p.out, spec+"d", p.integer())
	case 'u':
		fmt.Fprintf(&p.out, spec+"d", uint64(p.integer()))
	case 'o', 'x', 'X':
		fmt.Fprintf(&p.out, spec+string(verb), uint64(p.integer()))
	default:
		p.bad, p.stop = true, true
	}
}

func (p *printer) integer() int64 {
	a := strings.TrimSpace(p.next())
	if a == "" {
		return 0
	}
	if a[0] == '\'' || a[0] == '"' {
		if len(a) > 1 {
			return int64(a[1])
		}
		return 0
	}
	n, err := strconv.ParseInt(a, 0, 64)
	p.bad = p.bad || err != nil
	return n
}

var simpleEscapes = map[byte]byte{'a': 7, 'b': 8, 'f': 12, 'n': 10, 'r': 13, 't': 9, 'v': 11, '\\': '\\'}

// escape writes what a backslash begins and returns its length. In the argument of %b octal numbers begin with 0.
func (p *printer) escape(s string, argument bool) int {
	if len(s) == 1 {
		p.out.WriteByte('\\')
		return 1
	}
	if b, ok := simpleEscapes[s[1]]; ok {
		p.out.WriteByte(b)
		return 2
	}
	if argument && s[1] == 'c' {
		p.stop = true
		return 2
	}
	i := 1
	if argument && s[1] == '0' {
		i = 2
	}
	end := i
	for end < len(s) && end < i+3 && s[end] >= '0' && s[end] <= '7' {
		end++
	}
	if end == 1 {
		p.out.WriteByte('\\')
		return 1
	}
	n, _ := strconv.ParseUint("0"+s[i:end], 8, 16)
	if n != 0 { // no variable holds a NUL
		p.out.WriteByte(byte(n))
	}
	return end
}
