package testvm

// cleaner takes terminal control out of a console stream so that patterns match what a person reads: escape sequences,
// carriage returns, backspaces and other control characters vanish, newline and tab stay. Moving the cursor to another row
// counts as a newline, because firmware draws its screen that way. It keeps its state between calls: a sequence may be cut
// anywhere. The zero value is ready.
type cleaner struct {
	state  cleanState
	params []byte // of the CSI sequence being read
	row    string // where the last cursor movement went
	atLine bool   // the last byte given out was a newline
}

type cleanState int

const (
	cleanText   cleanState = iota
	cleanEscape            // after ESC
	cleanCSI               // after ESC [
	cleanString            // after ESC ] P X ^ _, until BEL or ESC \
	cleanStringEscape
	cleanCharset // after ESC ( ) * + #: one more byte
)

const maxParams = 32 // a longer sequence is not one

// clean appends the readable part of raw to text.
func (c *cleaner) clean(text, raw []byte) []byte {
	for _, b := range raw {
		switch c.state {
		case cleanText:
			text = c.plain(text, b)
		case cleanEscape:
			c.escape(b)
		case cleanCSI:
			text = c.csi(text, b)
		case cleanString:
			switch b {
			case 0x07:
				c.state = cleanText
			case 0x1b:
				c.state = cleanStringEscape
			}
		case cleanStringEscape, cleanCharset:
			c.state = cleanText
		}
	}
	return text
}

func (c *cleaner) plain(text []byte, b byte) []byte {
	switch {
	case b == 0x1b:
		c.state = cleanEscape
		return text
	case b == '\n':
		c.atLine = true
	case b == '\t' || b >= 0x20 && b != 0x7f:
		c.atLine = false
	default:
		return text
	}
	return append(text, b)
}

// escape handles the byte after ESC (ECMA-48 section 5.3).
func (c *cleaner) escape(b byte) {
	c.state = cleanText
	switch b {
	case '[':
		c.state, c.params = cleanCSI, c.params[:0]
	case ']', 'P', 'X', '^', '_':
		c.state = cleanString
	case '(', ')', '*', '+', '#':
		c.state = cleanCharset
	case 0x1b:
		c.state = cleanEscape
	}
}

// csi handles a byte of a control sequence: parameters, then one final byte from 0x40 to 0x7e (ECMA-48 section 5.4).
func (c *cleaner) csi(text []byte, b byte) []byte {
	switch {
	case b == 0x1b: // broken off by another one
		c.state = cleanEscape
		return text
	case b < 0x40 && len(c.params) < maxParams:
		c.params = append(c.params, b)
		return text
	}
	c.state = cleanText
	if b != 'H' && b != 'f' {
		return text
	}
	row := string(c.params)
	for i := range row {
		if row[i] == ';' {
			row = row[:i]
			break
		}
	}
	if row == c.row {
		return text
	}
	c.row = row
	if c.atLine {
		return text
	}
	c.atLine = true
	return append(text, '\n')
}
