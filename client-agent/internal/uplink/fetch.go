package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// ErrCorrupt is wrapped by the error of a fetch whose bytes are not those that were asked for.
var ErrCorrupt = errors.New("other bytes than announced")

// stallTimeout is how long a satellite may be silent while it sends bytes.
const stallTimeout = 10 * time.Second

// Fetcher is an open fetch stream behind its hello. It is not safe for concurrent use.
type Fetcher struct {
	conn net.Conn
	r    *agentproto.Reader
	w    *agentproto.Writer
}

// DialFetch connects to a satellite and opens a fetch stream. It blocks for ten seconds at most.
func DialFetch(ctx context.Context, sat agentproto.Satellite, cfg *tls.Config, hello agentproto.Hello) (*Fetcher, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	conn, err := dial(ctx, sat)
	if err != nil {
		return nil, err
	}
	f, err := StartFetch(ctx, conn, cfg, hello)
	if err != nil {
		return nil, fmt.Errorf("satellite %s: %w", conn.RemoteAddr(), err)
	}
	return f, nil
}

// StartFetch makes a fetch stream of a fresh connection, which it closes on error.
func StartFetch(ctx context.Context, conn net.Conn, cfg *tls.Config, hello agentproto.Hello) (*Fetcher, error) {
	c, err := secure(ctx, conn, cfg)
	if err != nil {
		return nil, err
	}
	f := &Fetcher{conn: c, w: agentproto.NewWriter(c)}
	f.r = agentproto.NewReader(steady{c})
	hello.Fetch = true
	if err := f.hello(ctx, hello); err != nil {
		f.Close()
		return nil, fmt.Errorf("hello: %w", err)
	}
	return f, nil
}

func (f *Fetcher) hello(ctx context.Context, hello agentproto.Hello) error {
	answer, err := f.ask(ctx, agentproto.Message{Hello: &hello})
	switch {
	case err != nil:
		return err
	case answer.Ack == nil:
		return fmt.Errorf("%w: it sent no acknowledgement", agentproto.ErrBadMessage)
	}
	return judge(*answer.Ack)
}

// Fetch asks for bytes and copies them to w while it checks them. Name is agentproto.PolicyName or a SHA-256 in hex, which the bytes must have. Limit
// bounds their number. The error wraps ErrRefused if the satellite does not have them, ErrCorrupt if they are not what was asked for; w may then
// have got some. After any error but ErrRefused the stream is of no more use.
func (f *Fetcher) Fetch(ctx context.Context, name string, limit uint64, w io.Writer) (agentproto.Blob, error) {
	answer, err := f.ask(ctx, agentproto.Message{Fetch: &agentproto.Fetch{Name: name}})
	if err != nil {
		return agentproto.Blob{}, err
	}
	blob := answer.Blob
	switch {
	case answer.Ack != nil && answer.Ack.Error != "":
		return agentproto.Blob{}, judge(*answer.Ack)
	case blob == nil:
		return agentproto.Blob{}, fmt.Errorf("%w: neither bytes nor an error", agentproto.ErrBadMessage)
	case blob.Size > min(limit, agentproto.MaxBlob):
		return agentproto.Blob{}, fmt.Errorf("%w: %d bytes, at most %d are wanted", ErrCorrupt, blob.Size, min(limit, agentproto.MaxBlob))
	case name != agentproto.PolicyName && blob.SHA256 != name:
		return agentproto.Blob{}, fmt.Errorf("%w: %.64q instead of %s", ErrCorrupt, blob.SHA256, name)
	}
	return *blob, f.copy(ctx, *blob, w)
}

func (f *Fetcher) copy(ctx context.Context, blob agentproto.Blob, w io.Writer) error {
	stop := f.endWith(ctx)
	defer stop()
	err := f.r.ReadBlob(blob, w)
	if errors.Is(err, agentproto.ErrBlob) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return because(ctx, err)
}

// ask sends a line and reads the answer's line.
func (f *Fetcher) ask(ctx context.Context, m agentproto.Message) (agentproto.Message, error) {
	stop := f.endWith(ctx)
	defer stop()
	if err := f.conn.SetWriteDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return agentproto.Message{}, because(ctx, err)
	}
	if err := f.w.Write(m); err != nil {
		return agentproto.Message{}, because(ctx, err)
	}
	answer, err := f.r.Read()
	if err != nil {
		return agentproto.Message{}, because(ctx, err)
	}
	return answer, nil
}

// because prefers the end of ctx to what came of it.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// endWith closes the stream when ctx ends before stop is called.
func (f *Fetcher) endWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { f.conn.Close() })
}

// Close ends the stream.
func (f *Fetcher) Close() error { return f.conn.Close() }

// steady is a connection on which each read may take stallTimeout.
type steady struct{ net.Conn }

func (s steady) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}
