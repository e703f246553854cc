package rawcodec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Handler answers one call. request is the bytes of the request message, up to MaxRequest, and the handler's to keep. send sends the
// next bytes of the answer; it copies them, cuts them into frames and blocks while the client does not keep up; it ends with an error
// when the call is over. An error of the handler becomes the status of the call: what is no status is codes.Unknown with the error's
// text, context errors get their own codes. Handlers run concurrently; send is for one goroutine at a time.
type Handler func(ctx context.Context, request []byte, send func(frame []byte) error) error

// StreamHandler is a Handler that can also send without copying.
type StreamHandler func(ctx context.Context, request []byte, out *Sender) error

// Method is one method of a service.
type Method struct {
	Name   string // without the service
	Handle StreamHandler
}

// RegisterFetch makes h answer the method of that full name ("/ltsp.chunk.v1.BlobService/Fetch"), which is what interceptors see. The
// service must have no other methods, as gRPC takes each service once; see Register. A name of another form is a mistake in the
// program and panics.
func RegisterFetch(s grpc.ServiceRegistrar, method string, h Handler) {
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if !ok || service == "" || name == "" || strings.Contains(name, "/") || !strings.HasPrefix(method, "/") {
		panic(fmt.Sprintf("rawcodec: method %q is not /service/method", method))
	}
	Register(s, service, Method{name, func(ctx context.Context, request []byte, out *Sender) error {
		return h(ctx, request, out.Send)
	}})
}

// Register adds a service ("ltsp.chunk.v1.BlobService") with these methods. It must be called before the server serves. All methods
// share a pool of buffers.
func Register(s grpc.ServiceRegistrar, service string, methods ...Method) {
	pool := &framePool{}
	desc := &grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil), Metadata: Name}
	for _, m := range methods {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName:    m.Name,
			ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				return serve(stream, pool, m.Handle)
			},
		})
	}
	s.RegisterService(desc, nil)
}

// serve handles one call.
func serve(stream grpc.ServerStream, pool *framePool, h StreamHandler) error {
	var f Frame
	if err := stream.RecvMsg(&f); err != nil {
		return err // a call without a request, or with one that is no frame
	}
	if n := f.Data.Len(); n > MaxRequest {
		f.Free()
		return status.Errorf(codes.InvalidArgument, "request of %d bytes is longer than %d", n, MaxRequest)
	}
	request := f.Data.Materialize()
	f.Free()
	err := h(stream.Context(), request, &Sender{stream: stream, pool: pool})
	if _, is := status.FromError(err); !is && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return status.FromContextError(err).Err()
	}
	return err
}

// Sender sends the frames of one answer. Its methods block while the client does not keep up; about two frames of each call are in
// memory. They are for one goroutine at a time, not after the handler has returned. An error, except one of a reader, is a status that
// tells that the call is over.
type Sender struct {
	stream grpc.ServerStream
	pool   *framePool
}

// Send sends p, which is copied: it is the caller's again when Send returns. p may have any length.
func (s *Sender) Send(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), FrameSize)
		buf := s.pool.Get(n)
		copy(*buf, p)
		if err := s.send(mem.NewBuffer(buf, s.pool)); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// SendFrom sends the n bytes at off of r, reading straight into the buffers that are sent: the best way to send a file. The end of r
// before the last of them is io.ErrUnexpectedEOF.
func (s *Sender) SendFrom(r io.ReaderAt, off, n int64) error {
	for n > 0 {
		k := int(min(n, FrameSize))
		buf := s.pool.Get(k)
		if got, err := r.ReadAt(*buf, off); got < k {
			s.pool.Put(buf)
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes at %d to send them: %w", k, off, err)
		}
		if err := s.send(mem.NewBuffer(buf, s.pool)); err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// SendBuffer sends b as one frame without copying, and takes over the reference to it. The bytes must neither change nor go away (as a
// mapping does) before the last reference is freed, which may be after the call has ended; a buffer of garbage collected memory
// (mem.SliceBuffer) needs no care but that nobody writes to it. More than MaxFrame bytes are refused.
func (s *Sender) SendBuffer(b mem.Buffer) error {
	if n := b.Len(); n > MaxFrame {
		b.Free()
		return status.Errorf(codes.Internal, "frame of %d bytes is longer than %d", n, MaxFrame)
	}
	if b.Len() == 0 {
		b.Free()
		return nil
	}
	return s.send(b)
}

func (s *Sender) send(b mem.Buffer) error {
	return s.stream.SendMsg(&Frame{Data: mem.BufferSlice{b}})
}

// framePool keeps buffers of FrameSize bytes. gRPC's own pool would give 1 MiB for each, and clear it each time.
type framePool struct {
	pool sync.Pool
}

// Get implements mem.BufferPool for lengths up to FrameSize. What the buffer holds is left from its last use.
func (p *framePool) Get(length int) *[]byte {
	buf, _ := p.pool.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, FrameSize)
		buf = &b
	}
	*buf = (*buf)[:length]
	return buf
}

// Put implements mem.BufferPool.
func (p *framePool) Put(buf *[]byte) {
	*buf = (*buf)[:cap(*buf)]
	p.pool.Put(buf)
}
