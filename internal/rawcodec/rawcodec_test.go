package rawcodec_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// countingPool counts the buffers that were given back.
type countingPool struct{ back atomic.Int64 }

func (p *countingPool) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (p *countingPool) Put(*[]byte)       { p.back.Add(1) }

func TestFetchGivesTheBytes(t *testing.T) {
	blob := randomBytes(3<<20 + 12345)
	pool := &countingPool{}
	ways := map[string]rawcodec.StreamHandler{
		"Send whole": func(_ context.Context, _ []byte, out *rawcodec.Sender) error { return out.Send(blob) },
		"Send with one buffer": func(_ context.Context, _ []byte, out *rawcodec.Sender) error {
			buf := make([]byte, 100_000)
			for r := bytes.NewReader(blob); ; {
				n, err := r.Read(buf)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err := out.Send(buf[:n]); err != nil {
					return err
				}
				clear(buf)
			}
		},
		"SendFrom": func(_ context.Context, _ []byte, out *rawcodec.Sender) error {
			return errors.Join(out.SendFrom(bytes.NewReader(blob), 0, 1_000_000), out.SendFrom(bytes.NewReader(blob), 1_000_000, int64(len(blob))-1_000_000))
		},
		"SendBuffer": func(_ context.Context, _ []byte, out *rawcodec.Sender) error {
			for rest := blob; len(rest) > 0; rest = rest[min(rawcodec.MaxFrame, len(rest)):] {
				if err := out.SendBuffer(mem.Copy(rest[:min(rawcodec.MaxFrame, len(rest))], pool)); err != nil {
					return err
				}
			}
			return out.SendBuffer(mem.SliceBuffer(nil))
		},
	}
	cc := serve(t, func(s *grpc.Server) {
		rawcodec.Register(s, "ltsp.test.v1.BlobService", rawcodec.Method{Name: "Fetch", Handle: func(ctx context.Context, request []byte, out *rawcodec.Sender) error {
			return ways[string(request)](ctx, request, out)
		}})
	})
	for name := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 3 { // pooled buffers are used again
				got, err := fetch(t.Context(), cc, name)
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("%d bytes, error %v, want the %d bytes of the blob", len(got), err, len(blob))
				}
			}
		})
	}
	t.Cleanup(func() { // runs after the parallel tests and before the server is stopped
		if n := pool.back.Load(); n != 3*4 {
			t.Errorf("%d buffers were given back, want 12", n)
		}
	})
}

func TestFetchMixesWithProtobufAndInterceptors(t *testing.T) {
	var denied atomic.Int32
	cc := serve(t, func(s *grpc.Server) {
		healthpb.RegisterHealthServer(s, health.NewServer())
		rawcodec.RegisterFetch(s, fetchMethod, func(_ context.Context, request []byte, send func([]byte) error) error {
			return send(append([]byte("for "), request...))
		})
	}, grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(ss.Context())
		if info.FullMethod == fetchMethod && len(md.Get("allow")) == 0 {
			denied.Add(1)
			return status.Error(codes.PermissionDenied, "not allowed")
		}
		if info.FullMethod == fetchMethod && md.Get("content-type")[0] != "application/grpc+ltsp-raw" {
			return status.Errorf(codes.Internal, "content type %q", md.Get("content-type"))
		}
		return h(srv, ss)
	}))
	allowed := metadata.AppendToOutgoingContext(t.Context(), "allow", "1")
	for range 3 {
		if got, err := fetch(allowed, cc, "me"); err != nil || string(got) != "for me" {
			t.Errorf("fetch = %q, %v", got, err)
		}
		answer, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health = %v, %v", answer, err)
		}
		if _, err := fetch(t.Context(), cc, "me"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("fetch without permission: %v", err)
		}
	}
	if denied.Load() != 3 {
		t.Errorf("the interceptor denied %d calls, want 3", denied.Load())
	}
}

func TestFetchErrors(t *testing.T) {
	cc := serve(t, func(s *grpc.Server) {
		rawcodec.Register(s, "ltsp.test.v1.BlobService", rawcodec.Method{Name: "Fetch", Handle: func(_ context.Context, request []byte, out *rawcodec.Sender) error {
			switch string(request) {
			case "status":
				return errors.Join(out.Send([]byte("some")), status.Error(codes.NotFound, "no such blob"))
			case "plain":
				return errors.New("disk is on fire")
			case "cancelled":
				return context.Canceled
			case "deadline":
				return context.DeadlineExceeded
			case "short":
				return out.SendFrom(strings.NewReader("abc"), 1, 3)
			case "long frame":
				return out.SendBuffer(mem.SliceBuffer(make([]byte, rawcodec.MaxFrame+1)))
			}
			return nil
		}})
	})
	for _, tt := range []struct {
		request string
		code    codes.Code
		text    string
	}{
		{"status", codes.NotFound, "no such blob"},
		{"plain", codes.Unknown, "disk is on fire"},
		{"cancelled", codes.Canceled, ""},
		{"deadline", codes.DeadlineExceeded, ""},
		{"short", codes.Unknown, "unexpected EOF"},
		{"long frame", codes.Internal, "longer than"},
		{"", codes.OK, ""},
		{strings.Repeat("x", rawcodec.MaxRequest), codes.OK, ""},
		{strings.Repeat("x", rawcodec.MaxRequest+1), codes.InvalidArgument, "longer than"},
	} {
		_, err := fetch(t.Context(), cc, tt.request)
		if status.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("request %.20q of %d bytes: error %v, want %s with %q", tt.request, len(tt.request), err, tt.code, tt.text)
		}
	}
	if err := rawcodec.Fetch(t.Context(), cc, "/ltsp.test.v1.BlobService/Other", nil, nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
}

// A server must hold against clients that do not use Fetch.
func TestServerRefusesLongRequestsOfStrangers(t *testing.T) {
	cc := serve(t, func(s *grpc.Server) {
		rawcodec.RegisterFetch(s, fetchMethod, func(_ context.Context, request []byte, send func([]byte) error) error { return send(request) })
	})
	for _, tt := range []struct {
		name    string
		request *wrapperspb.BytesValue
		want    codes.Code
	}{
		{"long", wrapperspb.Bytes(make([]byte, rawcodec.MaxRequest)), codes.InvalidArgument},
		{"longer than a frame", wrapperspb.Bytes(make([]byte, rawcodec.MaxFrame)), codes.Internal},
		{"none", nil, codes.Internal},
	} {
		stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, fetchMethod)
		if err != nil {
			t.Fatal(err)
		}
		if tt.request != nil {
			if err := stream.SendMsg(tt.request); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestFetchRefusesLongFrames(t *testing.T) {
	cc := serve(t, func(s *grpc.Server) {
		s.RegisterService(&grpc.ServiceDesc{ServiceName: "ltsp.test.v1.BlobService", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Fetch", ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				return stream.SendMsg(wrapperspb.Bytes(make([]byte, rawcodec.MaxFrame)))
			},
		}}}, nil)
	})
	if got, err := fetch(t.Context(), cc, "x"); status.Code(err) != codes.ResourceExhausted || len(got) != 0 {
		t.Errorf("%d bytes, error %v, want ResourceExhausted", len(got), err)
	}
}

func TestFetchEndsWhenTheReceiverFails(t *testing.T) {
	ended := make(chan error, 2)
	cc := serve(t, func(s *grpc.Server) {
		rawcodec.RegisterFetch(s, fetchMethod, func(_ context.Context, _ []byte, send func([]byte) error) error {
			for piece := make([]byte, rawcodec.FrameSize); ; {
				if err := send(piece); err != nil {
					ended <- err
					return err
				}
			}
		})
	})
	full := errors.New("disk is full")
	err := rawcodec.Fetch(t.Context(), cc, fetchMethod, nil, func([]byte) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("error %v, want that of the receiver", err)
	}
	if err := <-ended; status.Code(err) != codes.Canceled && status.Code(err) != codes.Unavailable {
		t.Errorf("the handler's send ended with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = rawcodec.Fetch(ctx, cc, fetchMethod, nil, func([]byte) error { cancel(); return nil })
	if status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: error %v, want codes.Canceled", err)
	}
	<-ended
}

func TestRegisterFetchRefusesNames(t *testing.T) {
	for _, name := range []string{"", "Fetch", "service/Fetch", "/Fetch", "//Fetch", "/service/", "/a/b/c"} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			rawcodec.RegisterFetch(grpc.NewServer(), name, nil)
		})
	}
}
