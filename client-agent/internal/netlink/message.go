// Package netlink is the small part of the kernel's netlink protocol that the agent needs: messages, attributes, a socket, and the generic
// family lookup. Layouts are those of <linux/netlink.h> and <linux/genetlink.h>; numbers are in the machine's byte order.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	headerLen = 16 // struct nlmsghdr
	attrLen   = 4  // struct nlattr
	// nestedFlag and typeMask split an attribute's type field (NLA_F_NESTED, NLA_TYPE_MASK).
	nestedFlag = 1 << 15
	typeMask   = 0x3fff
)

// ErrMalformed is wrapped by every parsing error.
var ErrMalformed = errors.New("malformed netlink message")

var native = binary.NativeEndian

// Message is one netlink message without its header's lengths.
type Message struct {
	Type  uint16
	Flags uint16
	Seq   uint32
	Data  []byte
}

// encode returns m with its header, padded.
func (m Message) encode() []byte {
	b := make([]byte, headerLen, headerLen+align(len(m.Data)))
	native.PutUint32(b[0:], uint32(headerLen+len(m.Data)))
	native.PutUint16(b[4:], m.Type)
	native.PutUint16(b[6:], m.Flags)
	native.PutUint32(b[8:], m.Seq)
	b = append(b, m.Data...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// Parse splits a datagram from the kernel. The messages share data's memory.
func Parse(data []byte) ([]Message, error) {
	var list []Message
	for len(data) >= headerLen {
		n := int(native.Uint32(data))
		if n < headerLen || n > len(data) {
			return nil, fmt.Errorf("%w: length %d of %d bytes", ErrMalformed, n, len(data))
		}
		list = append(list, Message{
			Type: native.Uint16(data[4:]), Flags: native.Uint16(data[6:]), Seq: native.Uint32(data[8:]), Data: data[headerLen:n:n],
		})
		data = data[min(align(n), len(data)):]
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%w: %d bytes left over", ErrMalformed, len(data))
	}
	return list, nil
}

// Err returns the error that an NLMSG_ERROR message carries: nil for an acknowledgement and for messages of other types. It can be tested
// for the kernel's error number.
func (m Message) Err() error {
	if m.Type != unix.NLMSG_ERROR {
		return nil
	}
	if len(m.Data) < 4 {
		return fmt.Errorf("%w: error message of %d bytes", ErrMalformed, len(m.Data))
	}
	if code := int32(native.Uint32(m.Data)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// Attr is one attribute. Its type is without the flag bits.
type Attr struct {
	Type uint16
	Data []byte
}

// ParseAttrs splits a sequence of attributes, which share data's memory.
func ParseAttrs(data []byte) ([]Attr, error) {
	var list []Attr
	for len(data) >= attrLen {
		n := int(native.Uint16(data))
		if n < attrLen || n > len(data) {
			return nil, fmt.Errorf("%w: attribute length %d of %d bytes", ErrMalformed, n, len(data))
		}
		list = append(list, Attr{Type: native.Uint16(data[2:]) & typeMask, Data: data[attrLen:n:n]})
		data = data[min(align(n), len(data)):]
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the attributes", ErrMalformed, len(data))
	}
	return list, nil
}

// Uint16 returns the attribute's number, and whether it is one of at least that size.
func (a Attr) Uint16() (uint16, bool) {
	if len(a.Data) < 2 {
		return 0, false
	}
	return native.Uint16(a.Data), true
}

// Uint32 is like Uint16.
func (a Attr) Uint32() (uint32, bool) {
	if len(a.Data) < 4 {
		return 0, false
	}
	return native.Uint32(a.Data), true
}

// String returns the attribute's text up to the first NUL.
func (a Attr) String() string {
	s, _, _ := strings.Cut(string(a.Data), "\x00")
	return s
}

// Attrs builds a sequence of attributes.
type Attrs struct {
	b []byte
}

// Bytes returns the sequence.
func (a *Attrs) Bytes() []byte { return a.b }

// Raw appends an attribute with data as it is.
func (a *Attrs) Raw(kind uint16, data []byte) {
	a.b = native.AppendUint16(a.b, uint16(attrLen+len(data)))
	a.b = native.AppendUint16(a.b, kind)
	a.b = append(a.b, data...)
	a.b = append(a.b, make([]byte, align(len(a.b))-len(a.b))...)
}

// Uint32 appends a 32-bit number.
func (a *Attrs) Uint32(kind uint16, v uint32) { a.Raw(kind, native.AppendUint32(nil, v)) }

// Uint64 appends a 64-bit number.
func (a *Attrs) Uint64(kind uint16, v uint64) { a.Raw(kind, native.AppendUint64(nil, v)) }

// String appends a text with its NUL.
func (a *Attrs) String(kind uint16, s string) { a.Raw(kind, append([]byte(s), 0)) }

// Nested appends an attribute that holds the attributes that fill appends.
func (a *Attrs) Nested(kind uint16, fill func(*Attrs)) {
	var inner Attrs
	fill(&inner)
	a.Raw(kind|nestedFlag, inner.b)
}

// align rounds up to NLMSG_ALIGNTO, which equals NLA_ALIGNTO.
func align(n int) int { return (n + 3) &^ 3 }
