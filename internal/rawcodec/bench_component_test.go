//go:build component

package rawcodec_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A way fetches the whole blob once; w gets its bytes.
type way struct {
	name  string
	pid   int
	fetch func(ctx context.Context, w io.Writer) error

	seconds, cpu float64 // in all rounds
}

// ways starts all servers. One connection each, client certificates, TLS 1.3; ranges and frames of 256 KiB.
func ways(tb testing.TB) ([]*way, [sha256.Size]byte) {
	tb.Helper()
	dir := tb.TempDir()
	id := newIdentity(tb)
	saveIdentity(tb, id, dir)
	blob := randomBytes(blobSize)
	if err := os.WriteFile(filepath.Join(dir, "blob"), blob, 0o644); err != nil {
		tb.Fatal(err)
	}
	grpcAddr, webAddr, pid := startServer(tb, dir)
	nginxAddr, nginxPID := startNginx(tb, dir)
	cc := dial(tb, id, grpcAddr, rawcodec.DialOptions()...)
	ranges := func(addr string) func(context.Context, io.Writer) error {
		conf := id.config()
		tr := &http.Transport{TLSClientConfig: conf, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, ReadBufferSize: 256 << 10}
		tb.Cleanup(tr.CloseIdleConnections)
		return func(ctx context.Context, w io.Writer) error { return fetchRanges(ctx, tr, addr, w) }
	}
	raw := func(method string) func(context.Context, io.Writer) error {
		return func(ctx context.Context, w io.Writer) error {
			return rawcodec.Fetch(ctx, cc, method, nil, func(frame []byte) error { _, err := w.Write(frame); return err })
		}
	}
	return []*way{
		{name: "raw frames", pid: pid, fetch: raw(rawMethod)},
		{name: "raw, from memory", pid: pid, fetch: raw(memMethod)},
		{name: "protobuf bytes", pid: pid, fetch: func(ctx context.Context, w io.Writer) error { return fetchProto(ctx, cc, w) }},
		{name: "Go HTTPS ranges", pid: pid, fetch: ranges(webAddr)},
		{name: "nginx HTTPS ranges", pid: nginxPID, fetch: ranges(nginxAddr)},
	}, sha256.Sum256(blob)
}

func fetchProto(ctx context.Context, cc *grpc.ClientConn, w io.Writer) error {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, protoMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&wrapperspb.BytesValue{}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var m wrapperspb.BytesValue
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := w.Write(m.Value); err != nil {
			return err
		}
	}
}

func fetchRanges(ctx context.Context, tr *http.Transport, addr string, w io.Writer) error {
	buf := make([]byte, rawcodec.FrameSize)
	for off := 0; off < blobSize; off += rawcodec.FrameSize {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/blob", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+rawcodec.FrameSize-1))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusPartialContent {
			resp.Body.Close()
			return fmt.Errorf("range at %d: %s", off, resp.Status)
		}
		_, err = io.ReadFull(resp.Body, buf)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func TestAllWaysGiveTheBlob(t *testing.T) {
	all, want := ways(t)
	for _, w := range all {
		h := sha256.New()
		if err := w.fetch(t.Context(), h); err != nil {
			t.Errorf("%s: %v", w.name, err)
		}
		if [sha256.Size]byte(h.Sum(nil)) != want {
			t.Errorf("%s: other bytes", w.name)
		}
	}
}

// BenchmarkPeers takes turns, so that all meet the same disturbances, and prints each way's speed and server CPU time, and the ratios
// of the raw frames to each.
func BenchmarkPeers(b *testing.B) {
	all, _ := ways(b)
	for _, w := range all { // connections and page cache
		if err := w.fetch(b.Context(), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	rounds := 0
	for b.Loop() {
		rounds++
		for _, w := range all {
			cpu, start := cpuSeconds(b, w.pid), time.Now()
			for range 4 {
				if err := w.fetch(b.Context(), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			w.seconds += time.Since(start).Seconds()
			w.cpu += cpuSeconds(b, w.pid) - cpu
		}
	}
	gb := float64(rounds) * 4 * blobSize / 1e9
	raw := all[0]
	for _, w := range all {
		fmt.Printf("%-20s %6.0f MB/s  %5.2f CPU s/GB of the server; raw frames: %.2f x the speed at %.2f x the CPU time\n",
			w.name, gb*1000/w.seconds, w.cpu/gb, w.seconds/raw.seconds, raw.cpu/w.cpu)
	}
	nginx := all[len(all)-1]
	b.ReportMetric(nginx.seconds/raw.seconds, "speed/nginx")
	b.ReportMetric(raw.cpu/nginx.cpu, "cpu/nginx")
	b.ReportMetric(raw.cpu/gb, "cpu-s/GB")
}
