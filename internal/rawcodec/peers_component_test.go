//go:build component

package rawcodec_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	blobSize    = 60 << 20
	serverDir   = "LTSP_RAWCODEC_SERVER" // the environment of the server process: its directory
	rawMethod   = "/ltsp.bench.v1.Raw/Fetch"
	memMethod   = "/ltsp.bench.v1.Raw/FetchMemory"
	protoMethod = "/ltsp.bench.v1.Proto/Fetch"
	clockTicks  = 100 // of /proc/PID/stat per second, on every Linux architecture
)

// TestMain is also the main function of the server process, so that its CPU time can be told from the client's.
func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := runServer(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runServer serves the blob over gRPC and HTTPS, prints both addresses, and ends with its standard input.
func runServer(dir string) error {
	id, err := loadIdentity(dir)
	if err != nil {
		return err
	}
	blob, err := os.Open(filepath.Join(dir, "blob"))
	if err != nil {
		return err
	}
	defer blob.Close()
	memory, err := io.ReadAll(blob)
	if err != nil {
		return err
	}
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	hl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := grpc.NewServer(append(rawcodec.ServerOptions(), grpc.Creds(rawcodec.ServerCredentials(id.config())))...)
	rawcodec.Register(srv, "ltsp.bench.v1.Raw", rawcodec.Method{Name: "Fetch", Handle: func(_ context.Context, _ []byte, out *rawcodec.Sender) error {
		return out.SendFrom(blob, 0, blobSize)
	}}, rawcodec.Method{Name: "FetchMemory", Handle: func(_ context.Context, _ []byte, out *rawcodec.Sender) error {
		for off := 0; off < blobSize; off += rawcodec.FrameSize {
			if err := out.SendBuffer(mem.SliceBuffer(memory[off : off+rawcodec.FrameSize])); err != nil {
				return err
			}
		}
		return nil
	}})
	srv.RegisterService(protoService(blob), nil)
	conf := id.config()
	conf.NextProtos = []string{"http/1.1"}
	web := &http.Server{TLSConfig: conf, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "blob", time.Time{}, io.NewSectionReader(blob, 0, blobSize))
	})}
	failed := make(chan error, 2)
	go func() { failed <- srv.Serve(gl) }()
	go func() { failed <- web.ServeTLS(hl, "", "") }()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	fmt.Println(gl.Addr(), hl.Addr())
	return <-failed
}

// protoService sends the same frames as messages with a bytes field, as generated code would.
func protoService(blob io.ReaderAt) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "ltsp.bench.v1.Proto", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Fetch", ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
				return err
			}
			for off := int64(0); off < blobSize; off += rawcodec.FrameSize {
				buf := make([]byte, rawcodec.FrameSize)
				if _, err := blob.ReadAt(buf, off); err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.Bytes(buf)); err != nil {
					return err
				}
			}
			return nil
		},
	}}}
}

func saveIdentity(tb testing.TB, id identity, dir string) {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		tb.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: id.der}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func loadIdentity(dir string) (identity, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return identity{}, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return identity{pair.Certificate[0], pair.PrivateKey.(*ecdsa.PrivateKey), pool}, nil
}

// startServer starts the server process; it gives its addresses for gRPC and HTTPS and its process number.
func startServer(tb testing.TB, dir string) (grpcAddr, webAddr string, pid int) {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("server process: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatalf("server process gave no addresses: %v", err)
	}
	grpcAddr, webAddr, _ = strings.Cut(strings.TrimSpace(line), " ")
	return grpcAddr, webAddr, cmd.Process.Pid
}

// startNginx serves dir in one process, with client certificates; it gives its address and process number.
func startNginx(tb testing.TB, dir string) (addr string, pid int) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events { worker_connections 64; }
http {
  access_log off; sendfile on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  server {
    listen %[2]s ssl; root %[1]s; ssl_protocols TLSv1.3; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
    ssl_client_certificate %[1]s/cert.pem; ssl_verify_client on;
  }
}
`, dir, addr)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("nginx", "-c", filepath.Join(dir, "nginx.conf"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatalf("nginx (Debian package nginx-light): %v", err)
	}
	tb.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			tb.Errorf("nginx: %v\n%s", err, &stderr)
		}
	})
	deadline := time.After(10 * time.Second)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, cmd.Process.Pid
		}
		select {
		case <-deadline:
			tb.Fatalf("nginx does not answer: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// cpuSeconds is what the process has used, in user and system mode.
func cpuSeconds(tb testing.TB, pid int) float64 {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		tb.Fatal(err)
	}
	return float64(user+system) / clockTicks
}
