// Package rawcodec carries bulk data over gRPC as bare bytes: one request, then a stream of frames that are nothing but the bytes of
// what was asked for, in order. It costs about two thirds of the CPU time of protobuf messages with a bytes field, because messages
// are neither encoded nor copied.
//
// The calls live on the same server, port and connections as protobuf services, and pass the same interceptors: on the wire a call is
// an ordinary server streaming method whose content type is application/grpc+ltsp-raw. The server needs ServerOptions and should have
// ServerCredentials, the client's connection should have DialOptions. The package knows nothing of what is sent; errors are gRPC
// statuses.
package rawcodec

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Limits, in bytes.
const (
	// FrameSize is the length of the frames that a Sender makes; the last one is shorter.
	FrameSize = 256 << 10
	// MaxFrame is the longest frame that either side accepts.
	MaxFrame = 1 << 20
	// MaxRequest is the longest request that either side accepts.
	MaxRequest = 64 << 10
)

const (
	windowSize = 4 << 20   // what may be under way without an answer: 100 ms at 40 MB/s
	ioSize     = 256 << 10 // of one read or write on the connection
)

// Name is the codec's name, which follows "application/grpc+" in the content type.
const Name = "ltsp-raw"

// Frame is a message of bare bytes.
type Frame struct {
	// Data is the content. A Frame to be sent gives its reference away; a received one holds its own until Free.
	Data mem.BufferSlice
}

// Free gives the buffers back. Their bytes must not be used any more.
func (f *Frame) Free() {
	f.Data.Free()
	f.Data = nil
}

// Codec sends and receives Frames as they are, and every other message as protobuf, so that one server can have both. Make it with
// NewCodec. It is safe for concurrent use.
type Codec struct {
	proto encoding.CodecV2
}

// NewCodec makes the codec. It is not registered anywhere: pass it in options, as ServerOptions and Fetch do.
func NewCodec() Codec { return Codec{proto: encoding.GetCodecV2(proto.Name)} }

// Name implements encoding.CodecV2.
func (Codec) Name() string { return Name }

// Marshal implements encoding.CodecV2. The buffers of a Frame become the caller's.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		return c.proto.Marshal(v)
	}
	if n := f.Data.Len(); n > MaxFrame {
		f.Free()
		return nil, fmt.Errorf("frame of %d bytes is longer than %d", n, MaxFrame)
	}
	return f.Data, nil
}

// Unmarshal implements encoding.CodecV2. A Frame takes a reference to data and lets go of what it held.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*Frame)
	if !ok {
		return c.proto.Unmarshal(data, v)
	}
	if n := data.Len(); n > MaxFrame {
		return fmt.Errorf("frame of %d bytes is longer than %d", n, MaxFrame)
	}
	f.Free()
	data.Ref()
	f.Data = data
	return nil
}

// ServerOptions are what a server needs: the codec, which protobuf services do not notice, windows and buffers. The read and write
// buffers cost up to 512 KiB for each connection, and the windows let a client have 4 MiB under way towards the server.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(NewCodec()),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(windowSize),
		grpc.ReadBufferSize(ioSize),
		grpc.WriteBufferSize(ioSize),
	}
}

// DialOptions are what a client should have: 4 MiB windows, without which a long line is not filled, and large buffers.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(windowSize),
		grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithReadBufferSize(ioSize),
		grpc.WithWriteBufferSize(ioSize),
	}
}
