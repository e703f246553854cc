package bootfiles

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
)

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

type httpLab struct {
	*lab
	server *Server
	addr   string
	log    *syncBuffer
	stop   func()
}

func newHTTP(t *testing.T, change func(*Config)) *httpLab {
	t.Helper()
	h := &httpLab{lab: newTree(t), log: new(syncBuffer)}
	cfg := Config{
		Tree: h.Tree, Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Clients: func() map[clients.State]int { return map[clients.State]int{clients.Healthy: 2} },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if h.server, err = NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.server.Serve(ctx, l) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// do sends a request and returns the answer with its body read. The path goes out as it is written.
func (h *httpLab) do(t *testing.T, method, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := method + " " + path + " HTTP/1.1\r\nHost: satellite\r\nConnection: close\r\n" + strings.Join(append(header, ""), "\r\n") + "\r\n"
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, body
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	kernel := "/boot/v/" + labID.String() + "/kernel"
	tag := `"` + labID.String() + `-kernel"`
	tests := []struct {
		name, method, path string
		header             []string
		code               int
		body               string // its beginning
	}{
		{"kernel", "GET", kernel, nil, 200, "the kernel"},
		{"doubled slashes, no redirect", "GET", "//boot//v/" + labID.String() + "//kernel", nil, 200, "the kernel"},
		{"as shim asks", "GET", "/ltsp//snponly.efi", nil, 200, "EFI loader"},
		{"head", "HEAD", kernel, nil, 200, ""},
		{"range", "GET", kernel, []string{"Range: bytes=4-5"}, 206, "ke"},
		{"rest", "GET", kernel, []string{"Range: bytes=4-"}, 206, "kernel"},
		{"range beyond the end", "GET", kernel, []string{"Range: bytes=100-"}, 416, ""},
		{"same tag", "GET", kernel, []string{"If-None-Match: " + tag}, 304, ""},
		{"another tag", "GET", kernel, []string{`If-None-Match: "x"`}, 200, "the kernel"},
		{"range of a changed file", "GET", kernel, []string{"Range: bytes=4-5", `If-Range: "x"`}, 200, "the kernel"},
		{"script", "GET", "/boot.ipxe?mac=" + pc01, nil, 200, "#!ipxe\necho\necho LTSP Fleet: image lab"},
		{"script without a MAC", "GET", "/boot.ipxe", nil, 200, "#!ipxe\n:again\nchain --replace --autofree http://127.0.0.1/boot.ipxe?"},
		{"bad MAC", "GET", "/boot.ipxe?mac=%0a", nil, 400, "the query"},
		{"boot configuration", "GET", "/boot/client.cpio?mac=" + pc01, nil, 200, "070701"},
		{"boot configuration without a MAC", "GET", "/boot/client.cpio", nil, 400, ""},
		{"missing", "GET", "/boot/loader/grubx64.efi", nil, 404, "file not found"},
		{"traversal", "GET", "/boot/../../outside", nil, 404, "file not found"},
		{"escaped traversal", "GET", "/boot/loader/%2e%2e%2foutside", nil, 404, "file not found"},
		{"zero byte", "GET", "/undionly.kpxe%00", nil, 404, ""},
		{"write", "POST", kernel, []string{"Content-Length: 0"}, 405, "only GET and HEAD"},
		{"health", "GET", "/healthz", nil, 200, "ok"},
	}
	for _, tt := range tests {
		resp, body := h.do(t, tt.method, tt.path, tt.header...)
		if resp.StatusCode != tt.code || !strings.HasPrefix(string(body), tt.body) || tt.method == "HEAD" && len(body) > 0 {
			t.Errorf("%s: %d %.100q", tt.name, resp.StatusCode, body)
		}
		if tt.path == kernel && tt.code < 300 && resp.Header.Get("ETag") != tag {
			t.Errorf("%s: ETag %s", tt.name, resp.Header.Get("ETag"))
		}
		if tt.method == "HEAD" && resp.ContentLength != 10 {
			t.Errorf("%s: length %d", tt.name, resp.ContentLength)
		}
		if strings.Contains(tt.path, "client.cpio") && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be cached", tt.name)
		}
	}
}

func TestDelivered(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	kernel := "/boot/v/" + labID.String() + "/kernel"
	h.do(t, "HEAD", kernel)
	h.do(t, "GET", kernel, "Range: bytes=4-")
	h.do(t, "GET", kernel, `If-None-Match: "`+labID.String()+`-kernel"`)
	_, body := h.do(t, "GET", "/ltsp/lab/initrd.img")
	if !bytes.Equal(body, h.initrd) {
		t.Errorf("%d bytes of the initrd, want its %d", len(body), len(h.initrd))
	}
	if step := <-h.registry.steps; step != clients.StepInitrd {
		t.Errorf("first step %q, want the whole initrd only", step)
	}
	h.do(t, "GET", kernel)
	if step := <-h.registry.steps; step != clients.StepKernel {
		t.Errorf("second step %q", step)
	}
	h.stop()
	if n := testutil.ToFloat64(h.server.metrics.sent); n != bigLength+10 {
		t.Errorf("%v bytes counted", n)
	}
}

// TestAbortedTransferIsNormal resets the connection in the middle, as firmware does.
func TestAbortedTransferIsNormal(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /ltsp/lab/initrd.img HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	h.stop()
	if log := h.log.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") || strings.Contains(log, "level=INFO") {
		t.Errorf("log:\n%s", log)
	}
	if len(h.registry.list()) != 0 {
		t.Errorf("sightings %v", h.registry.list())
	}
}

func TestFaultOfTheDiskIsLogged(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	h.store.fail = fs.ErrPermission
	resp, body := h.do(t, "GET", "/undionly.kpxe")
	if resp.StatusCode != 500 || strings.Contains(string(body), "permission") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	h.stop()
	if !strings.Contains(h.log.String(), "level=ERROR") {
		t.Errorf("log:\n%s", h.log)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	h.menu.Store(nil)
	for _, path := range []string{"/healthz", "/boot.ipxe", "/undionly.kpxe"} {
		if resp, _ := h.do(t, "GET", path); resp.StatusCode != 503 {
			t.Errorf("%s without a configuration: %d", path, resp.StatusCode)
		}
	}
	if resp, _ := h.do(t, "GET", "/status"); resp.StatusCode != 200 {
		t.Errorf("status without a configuration: %d", resp.StatusCode)
	}
	h.SetMenu(testMenu(t))
	resp, body := h.do(t, "GET", "/boot.ipxe?mac="+pc01)
	if resp.StatusCode != 200 || !strings.Contains(string(body), "Nothing to boot yet: image lab is not ready") {
		t.Errorf("%d:\n%s", resp.StatusCode, body)
	}
	if resp, _ := h.do(t, "GET", "/boot/client.cpio?mac="+pc01); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("boot configuration without a version: %d", resp.StatusCode)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, nil)
	_, body := h.do(t, "GET", "/status")
	var got Status
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := Status{
		Satellite: "a1", Site: "school", Revision: 3, Clients: map[clients.State]int{clients.Healthy: 2},
		Versions: []VersionStatus{
			{Image: "lab", Number: 7, Kind: "image", ID: labID.String(), Verified: true},
			{Image: "bootloaders", Number: 1, Kind: "bootloaders", ID: loaderID.String(), Verified: true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// waitFor polls what other goroutines bring about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Config)
		reason string
	}{
		{"total", func(c *Config) { c.MaxConnections = 2 }, "total"},
		{"per address", func(c *Config) { c.MaxPerAddress = 2 }, "address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHTTP(t, tt.change)
			var held []net.Conn
			for range 2 {
				c, err := net.Dial("tcp", h.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
				if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				held = append(held, c)
			}
			over, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer over.Close()
			if n, err := over.Read(make([]byte, 1)); err == nil {
				t.Errorf("a connection beyond the limit got %d bytes", n)
			}
			if n := testutil.ToFloat64(h.server.metrics.refused.WithLabelValues(tt.reason)); n != 1 {
				t.Errorf("%v refused", n)
			}
			for _, c := range held {
				c.Close()
			}
			waitFor(t, "all connections to be released", func() bool {
				h.server.limit.mu.Lock()
				defer h.server.limit.mu.Unlock()
				return len(h.server.limit.addrs) == 0 && len(h.server.limit.conns) == 0
			})
			if n := testutil.ToFloat64(h.server.metrics.connections); n != 0 {
				t.Errorf("%v connections counted after the end", n)
			}
		})
	}
}

// TestClassroom lets 200 clients fetch the same 10 MB at once.
func TestClassroom(t *testing.T) {
	t.Parallel()
	h := newHTTP(t, func(c *Config) { c.MaxPerAddress = 200 })
	want := sha256.Sum256(h.initrd)
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0}, Timeout: 2 * time.Minute}
	defer client.CloseIdleConnections()
	for range 200 {
		wg.Go(func() {
			resp, err := client.Get("http://" + h.addr + "/ltsp/lab/initrd.img")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			if err != nil || n != bigLength || [32]byte(sum.Sum(nil)) != want {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	h.stop()
	if n := testutil.ToFloat64(h.server.metrics.delivered[kindInitrd]); n != 200 {
		t.Errorf("%v delivered", n)
	}
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := NewServer(Config{Tree: newTree(t).Tree, Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	want := []string{
		"ltsp_satellite_http_connections", "ltsp_satellite_http_delivered_total", "ltsp_satellite_http_refused_total",
		"ltsp_satellite_http_requests_total", "ltsp_satellite_http_sent_bytes_total",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if _, err := NewServer(Config{}); err == nil {
		t.Error("a server without a tree was accepted")
	}
	if _, err := NewTree(TreeConfig{}); err == nil {
		t.Error("a tree without a store was accepted")
	}
}
