package agentproto

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrLineTooLong tells that a line exceeds MaxLine; the stream cannot be used any further.
	ErrLineTooLong = fmt.Errorf("line is longer than %d bytes", MaxLine)
	// ErrBadMessage tells that a line is no JSON or has not exactly one field that is known.
	ErrBadMessage = errors.New("bad message")
	// ErrBlob tells that the bytes behind a Blob line are not those that it announced; the stream cannot be used any further.
	ErrBlob = errors.New("the bytes of a blob do not have its digest")
)

// Reader reads one side of a stream. It is not safe for concurrent use.
type Reader struct {
	r *bufio.Reader
}

// NewReader returns a Reader that holds at most MaxLine bytes of r's data.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, MaxLine)}
}

// Read returns the next message. The error is io.EOF between two lines, io.ErrUnexpectedEOF within one, or wraps ErrLineTooLong or
// ErrBadMessage, or is that of the underlying reader. After an error the stream is over.
func (r *Reader) Read() (Message, error) {
	line, err := r.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return Message{}, ErrLineTooLong
	case errors.Is(err, io.EOF) && len(line) > 0:
		return Message{}, io.ErrUnexpectedEOF
	case err != nil:
		return Message{}, err
	}
	var m Message
	if err := json.Unmarshal(line, &m); err != nil {
		return Message{}, fmt.Errorf("%w: %v", ErrBadMessage, err)
	}
	if n := m.fields(); n != 1 {
		return Message{}, fmt.Errorf("%w: %d known fields, want exactly one", ErrBadMessage, n)
	}
	return m, nil
}

// ReadBlob copies the bytes that follow the line of b to w and checks their digest. The error wraps ErrBadMessage if b is unusable, ErrBlob if the digest is
// another, io.ErrUnexpectedEOF if the stream ends early, or is that of the reader or of w. What w got before an error is worth nothing.
func (r *Reader) ReadBlob(b Blob, w io.Writer) error {
	if err := b.Validate(); err != nil {
		return err
	}
	sum := sha256.New()
	_, err := io.CopyN(io.MultiWriter(w, sum), r.r, int64(b.Size))
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case hex.EncodeToString(sum.Sum(nil)) != b.SHA256:
		return fmt.Errorf("%w: %s", ErrBlob, b.SHA256)
	}
	return nil
}

// Writer writes one side of a stream. It is not safe for concurrent use.
type Writer struct {
	w io.Writer
}

// NewWriter returns a Writer on w. Each message is one call of w.Write.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends m, which must have exactly one field set. The error wraps ErrLineTooLong or ErrBadMessage if m cannot be sent (nothing has been
// written then), else it is that of the underlying writer.
func (w *Writer) Write(m Message) error {
	if n := m.fields(); n != 1 {
		return fmt.Errorf("%w: %d fields, want exactly one", ErrBadMessage, n)
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // it would make six bytes of each "<" in a command's output
	if err := enc.Encode(m); err != nil {
		return fmt.Errorf("%w: %v", ErrBadMessage, err)
	}
	if line.Len() > MaxLine {
		return fmt.Errorf("%w: %d bytes", ErrLineTooLong, line.Len())
	}
	_, err := w.w.Write(line.Bytes())
	return err
}

func (m *Message) fields() int {
	n := 0
	for _, set := range []bool{
		m.Hello != nil, m.Report != nil, m.Failure != nil, m.Result != nil, m.Event != nil, m.Fetch != nil,
		m.Ack != nil, m.Notice != nil, m.Command != nil, m.Blob != nil,
	} {
		if set {
			n++
		}
	}
	return n
}

// Validate checks what a satellite relies on: version, the written form of the MAC address, the UUID and the token, and lengths.
func (h *Hello) Validate() error {
	switch {
	case h.Version != Version:
		return fmt.Errorf("%w: version %d, want %d", ErrBadMessage, h.Version, Version)
	case !isGrouped(h.MAC, ':', 2, 2, 2, 2, 2, 2):
		return fmt.Errorf("%w: mac %.40q is not of the form 00:11:22:aa:bb:cc", ErrBadMessage, h.MAC)
	case h.UUID != "" && !isGrouped(h.UUID, '-', 8, 4, 4, 4, 12):
		return fmt.Errorf("%w: uuid %.40q is not in lower-case canonical form", ErrBadMessage, h.UUID)
	case !isLowerHex(h.Token, 32):
		return fmt.Errorf("%w: token is not 32 lower-case hex digits", ErrBadMessage)
	case len(h.Agent) > 128 || len(h.BootID) > 64:
		return fmt.Errorf("%w: agent or boot_id is too long", ErrBadMessage)
	}
	return nil
}

// isGrouped tells whether s is groups of lower-case hex digits of the given lengths with sep between them.
func isGrouped(s string, sep byte, lengths ...int) bool {
	for i, n := range lengths {
		if i > 0 {
			if s == "" || s[0] != sep {
				return false
			}
			s = s[1:]
		}
		if len(s) < n || !isLowerHex(s[:n], n) {
			return false
		}
		s = s[n:]
	}
	return s == ""
}
