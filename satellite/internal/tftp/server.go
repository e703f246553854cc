// Package tftp serves files by TFTP, read-only, on github.com/pin/tftp: RFC 1350 with blksize (RFC 2348, bounded by the interface's MTU) and
// tsize (RFC 2349). It knows names only by Config.Open; what they mean is another room's matter. Only the satellite's wiring imports it.
//
// The library answers each request from a socket of its own, bound to the address that the client asked, one block at a time. It has no
// limits; here transfers are bounded in all and per client address, and those that are beyond are refused with an error packet. A lost block is sent
// again after Config.Timeout, Config.Retries times. Writing is refused with "access violation" (RFC 1350, error 2), whatever the file;
// missing files with the text "file not found", without a path. A client that asks for a size and aborts is normal (UEFI).
//
//	ltsp_satellite_tftp_transfers                   gauge: transfers under way
//	ltsp_satellite_tftp_requests_total{result}      requests by how they ended: sent, aborted, not_found, error, busy, address_busy, write, malformed
//	ltsp_satellite_tftp_sent_bytes_total            bytes of files sent and acknowledged
package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	pin "github.com/pin/tftp/v3"
	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Config.
const (
	DefaultMaxTransfers  = 512
	DefaultMaxPerAddress = 8
	DefaultTimeout       = time.Second
	DefaultRetries       = 8
	DefaultDrainTimeout  = 2 * time.Second
)

// receiveBuffer is the size of the request socket's buffer: a whole school switched on at once must fit.
const receiveBuffer = 1 << 20

// File is an open file. It is read by one goroutine.
type File interface {
	io.ReadSeekCloser
	// Delivered is called once when the client has acknowledged the last block.
	Delivered()
}

// Config configures a Server. Zero values are the defaults.
type Config struct {
	// Open finds a file. name is as the client sent it, client and local are the addresses of the two ends; local may be the zero Addr. An
	// error that wraps fs.ErrNotExist is a client's, any other a fault of ours. The server closes the file.
	Open          func(name string, client, local netip.Addr) (File, error)
	MaxTransfers  int // at once
	MaxPerAddress int // at once to one client address
	Timeout       time.Duration
	Retries       int
	DrainTimeout  time.Duration // how long transfers may go on when Serve ends
	Logger        *slog.Logger  // nil discards
	Metrics       prometheus.Registerer
}

// Server is a TFTP server.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu     sync.Mutex
	active int
	addrs  map[netip.Addr]int
}

// New returns a server for cfg, whose Open must be set.
func New(cfg Config) (*Server, error) {
	if cfg.Open == nil {
		return nil, errors.New("TFTP server needs files")
	}
	orDefault(&cfg.MaxTransfers, DefaultMaxTransfers)
	orDefault(&cfg.MaxPerAddress, DefaultMaxPerAddress)
	orDefault(&cfg.Timeout, DefaultTimeout)
	orDefault(&cfg.Retries, DefaultRetries)
	orDefault(&cfg.DrainTimeout, DefaultDrainTimeout)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, log: cfg.Logger, metrics: m, addrs: make(map[netip.Addr]int)}, nil
}

func orDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Serve answers requests on conn until ctx ends; then it lets transfers go on for Config.DrainTimeout and returns nil. It closes conn, which should
// be an IPv4 socket bound to any number of addresses; the answers come from the address that was asked. One Server may serve several
// sockets at once.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	if err := conn.SetReadBuffer(receiveBuffer); err != nil {
		s.log.Debug("receive buffer of the TFTP socket", "err", err)
	}
	cut, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	srv := pin.NewServer(
		func(name string, rf io.ReaderFrom) error { return s.read(cut, name, rf) },
		func(name string, wt io.WriterTo) error { return s.refuseWrite(name, wt) },
	)
	srv.SetTimeout(s.cfg.Timeout)
	srv.SetRetries(s.cfg.Retries)
	srv.SetBackoff(func(int) time.Duration { return 0 }) // the timeout is wait enough
	srv.SetHook(hook{s})
	addr := conn.LocalAddr()
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(conn) }()
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("it ended by itself")
		}
		return fmt.Errorf("serve TFTP on %s: %w", addr, err)
	case <-ctx.Done():
	}
	timer := time.AfterFunc(s.cfg.DrainTimeout, cutOff)
	defer timer.Stop()
	srv.Shutdown() // waits for transfers, which cutOff ends
	if err := <-ended; err != nil {
		s.log.Debug("TFTP server ended", "addr", addr, "err", err)
	}
	_ = conn.Close() // it may be closed already
	return nil
}

// read answers one read request.
func (s *Server) read(ctx context.Context, name string, rf io.ReaderFrom) error {
	client, local := ends(rf)
	if result := s.admit(client); result != "" {
		s.count(result)
		s.log.Warn("TFTP request refused", "addr", client, "path", loggable(name), "err", result)
		return errors.New("too many transfers, try again")
	}
	defer s.release(client)
	f, err := s.cfg.Open(name, client, local)
	if err != nil {
		return s.refuseRead(name, client, err)
	}
	defer f.Close()
	n, err := transfer(rf, &cutReader{ctx, f})
	s.metrics.sent.Add(float64(n))
	if err != nil {
		s.count("aborted")
		s.log.Debug("TFTP transfer ended early", "addr", client, "path", loggable(name), "bytes", n, "err", err)
		return nil // the library has told the client
	}
	s.count("sent")
	s.log.Debug("TFTP transfer", "addr", client, "path", loggable(name), "bytes", n)
	f.Delivered()
	return nil
}

// transfer sends a file. The library (v3.2.0) runs over the end of its buffer when it repeats a blksize of hundreds of digits in its OACK: that
// must end one transfer, not the satellite.
func transfer(rf io.ReaderFrom, r io.Reader) (n int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("options that the library cannot answer: %v", p)
		}
	}()
	return rf.ReadFrom(r)
}

// refuseRead returns what the client is told, which says nothing about our disk.
func (s *Server) refuseRead(name string, client netip.Addr, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		s.count("not_found")
		s.log.Debug("TFTP file not found", "addr", client, "path", loggable(name), "err", err)
		return errors.New("file not found")
	}
	s.count("error")
	s.log.Error("TFTP file cannot be read", "addr", client, "path", loggable(name), "err", err)
	return errors.New("this satellite cannot read the file")
}

// cutReader ends when ctx does. It seeks, so that the library can tell the size (tsize).
type cutReader struct {
	ctx context.Context
	f   File
}

func (c *cutReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, errors.New("this satellite is being stopped")
	}
	return c.f.Read(p)
}

func (c *cutReader) Seek(offset int64, whence int) (int64, error) { return c.f.Seek(offset, whence) }

// errorAccess is an ERROR packet with code 2 (RFC 1350, appendix).
func errorAccess() []byte {
	p := binary.BigEndian.AppendUint16(nil, 5)
	p = binary.BigEndian.AppendUint16(p, 2)
	return append(p, "access violation: this server is read-only\x00"...)
}

// refuseWrite answers a write request. The library would answer with error 1 ("file not found") only, so a packet with the right code goes
// before; clients stop at the first.
func (s *Server) refuseWrite(name string, wt io.WriterTo) error {
	s.count("write")
	t, ok := wt.(pin.IncomingTransfer)
	if !ok {
		return errors.New("access violation")
	}
	to := t.RemoteAddr()
	from := &net.UDPAddr{}
	if info, ok := wt.(pin.RequestPacketInfo); ok {
		from.IP = info.LocalIP()
	}
	s.log.Debug("TFTP write refused", "addr", to.IP, "path", loggable(name))
	c, err := net.DialUDP("udp", from, &to)
	if err != nil {
		return errors.New("access violation")
	}
	defer c.Close()
	_, _ = c.Write(errorAccess()) // the library's packet follows
	return errors.New("access violation")
}

// ends returns the addresses of client and satellite.
func ends(rf io.ReaderFrom) (client, local netip.Addr) {
	if t, ok := rf.(pin.OutgoingTransfer); ok {
		a := t.RemoteAddr()
		client = toAddr(a.IP)
	}
	if info, ok := rf.(pin.RequestPacketInfo); ok {
		local = toAddr(info.LocalIP())
	}
	return client, local
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// admit counts a transfer, or returns the limit that is reached.
func (s *Server) admit(client netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.active >= s.cfg.MaxTransfers:
		return "busy"
	case s.addrs[client] >= s.cfg.MaxPerAddress:
		return "address_busy"
	}
	s.active++
	s.addrs[client]++
	s.metrics.transfers.Inc()
	return ""
}

func (s *Server) release(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.metrics.transfers.Dec()
	if s.addrs[client]--; s.addrs[client] == 0 {
		delete(s.addrs, client)
	}
}

func (s *Server) count(result string) { s.metrics.requests.WithLabelValues(result).Inc() }

// loggable bounds a name from the network for the log; slog quotes the rest.
func loggable(name string) string {
	if len(name) > 128 {
		return name[:128] + "..."
	}
	return name
}

// hook hears of packets that are no request; transfers are counted where they are made.
type hook struct{ s *Server }

func (h hook) OnSuccess(pin.TransferStats) {}

func (h hook) OnFailure(stats pin.TransferStats, err error) {
	if stats.RemoteAddr == nil {
		h.s.count("malformed")
		h.s.log.Debug("TFTP packet", "err", err)
	}
}
