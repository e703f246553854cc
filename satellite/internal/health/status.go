package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the status socket in the data directory.
const SocketName = "status.sock"

// maxStatusBytes bounds what Query reads.
const maxStatusBytes = 8 << 20

// ErrNotRunning says that nobody answers on the status socket.
var ErrNotRunning = errors.New("ltsp-satellite is not running")

// Status is what a running satellite tells of itself.
type Status struct {
	Site, Satellite string
	Build           string
	Started         time.Time
	// Controller is its address, Connected whether the stream to it is up, CertificateExpires when ours ends.
	Controller         string
	Connected          bool
	CertificateExpires time.Time
	Revision           uint64
	Versions           []Version
	Subnets            []Subnet
	Members            []Member
	Problems           []string
	DiskFreeBytes      uint64
	DiskSizeBytes      uint64
	MemoryBytes        uint64
	NBDConnections     int
	Clients            map[string]int // by state
	LoginHost          LoginHost
	Policy             Policy
}

// LoginHost is how the accounts of the site's login host are got. State is ok, unset, unreachable, host-key, denied or error.
type LoginHost struct {
	Address, State string
	Error          string `json:",omitempty"`
	PublicKey      string
	Users          int
	Updated        time.Time // zero: never
}

// Policy is the policy in force: of which revision of the desired state (0: none), with how many levels. Missing archives keep a newer one from being so.
type Policy struct {
	Revision        uint64
	Levels, Missing int
}

// Version is a wanted version. State is waiting, proving, fetching, serving, verified or failed. Method and Reason are the way in which it came or
// comes and why, Behind what makes that slower than planned.
type Version struct {
	Image, ID, State                    string
	Number                              uint64
	Channels                            []string
	BytesDone, BytesTotal, BytesFetched uint64
	Error                               string `json:",omitempty"`
	Method, Reason, Behind              string `json:",omitempty"`
}

// Subnet is one subnet of the site as this satellite serves it.
type Subnet struct {
	Name, CIDR, Mode, State, Interface string
	Leases, RangeSize                  uint32
}

// Member is a satellite of the site.
type Member struct {
	Name, Address, State string
	Versions             []string
}

// Serve answers status queries on a socket in dir, for root only, until ctx ends.
func Serve(ctx context.Context, dir string, status func() Status) error {
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("status socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("status socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return fmt.Errorf("status socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(status()) // a peer that is gone needs no answer
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status socket: %w", err)
	}
	return ctx.Err()
}

// Query asks the satellite that runs on dir. ErrNotRunning if there is none.
func Query(ctx context.Context, dir string) (Status, error) {
	path := filepath.Join(dir, SocketName)
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://satellite/status", nil)
	if err != nil {
		return Status{}, err
	}
	resp, err := c.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" && !errors.Is(err, os.ErrPermission) {
			return Status{}, fmt.Errorf("%w on %s", ErrNotRunning, dir)
		}
		return Status{}, fmt.Errorf("ask ltsp-satellite: %w", err)
	}
	defer resp.Body.Close()
	var s Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatusBytes)).Decode(&s); err != nil {
		return Status{}, fmt.Errorf("read the status: %w", err)
	}
	return s, nil
}
