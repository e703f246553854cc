package rawcodec

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// Fetch calls a method that was registered with RegisterFetch or Register, and gives the bytes of the answer to recv in order. How they
// are cut is not defined: recv gets 1 byte to MaxFrame bytes at a time, mostly 16 KiB, and must not use them after it has returned.
// Fetch blocks until the answer has ended, which is the only case without an error. Errors of the call are statuses (a frame longer
// than MaxFrame: codes.ResourceExhausted); an error of recv ends the call and is returned as it is. Safe for concurrent use on one
// connection.
func Fetch(ctx context.Context, cc grpc.ClientConnInterface, method string, request []byte, recv func(frame []byte) error,
	opts ...grpc.CallOption,
) error {
	if len(request) > MaxRequest {
		return status.Errorf(codes.InvalidArgument, "request of %d bytes is longer than %d", len(request), MaxRequest)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the one way to end a stream before its end
	opts = append(slices.Clip(opts), grpc.ForceCodecV2(NewCodec()), grpc.MaxCallRecvMsgSize(MaxFrame))
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, opts...)
	if err != nil {
		return err
	}
	// An error of sending is io.EOF, which means that receiving tells the status.
	if err := stream.SendMsg(&Frame{Data: mem.BufferSlice{mem.SliceBuffer(slices.Clone(request))}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var f Frame
	defer f.Free()
	for {
		switch err := stream.RecvMsg(&f); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		for _, b := range f.Data {
			if b.Len() == 0 {
				continue
			}
			if err := recv(b.ReadOnlyData()); err != nil {
				return err
			}
		}
		f.Free()
	}
}
