package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait of a test; it is long because the machine may be busy.
const patience = 20 * time.Second

// appendOption appends one option as a client sends it.
func appendOption(b []byte, o option, data []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// appendInfoRequest appends the data of NBD_OPT_INFO and NBD_OPT_GO.
func appendInfoRequest(b []byte, name string, wants ...uint16) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(wants)))
	for _, w := range wants {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// appendRequest appends one request as a client sends it.
func appendRequest(b []byte, r request) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, r.flags)
	b = binary.BigEndian.AppendUint16(b, uint16(r.command))
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	return binary.BigEndian.AppendUint32(b, r.length)
}

// client is the other side of a conversation. Its methods fail the test on errors.
type client struct {
	t    testing.TB
	conn net.Conn
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("client sends %d bytes: %v", len(b), err)
	}
}

func (c *client) receive(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatalf("client receives %d of %d bytes: %v", got, n, err)
	}
	return b
}

// closed expects that the server ends the connection with nothing more to say.
func (c *client) closed() {
	c.t.Helper()
	b := make([]byte, 64)
	switch n, err := c.conn.Read(b); {
	case n > 0:
		c.t.Fatalf("client receives %x, want the end", b[:n])
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.t.Fatal("the server does not end the connection")
	}
}

func (c *client) hello(flags uint32) {
	c.t.Helper()
	if got, want := c.receive(greetingSize), appendGreeting(nil); !bytes.Equal(got, want) {
		c.t.Fatalf("greeting %x, want %x", got, want)
	}
	c.send(binary.BigEndian.AppendUint32(nil, flags))
}

// repliedOption is one reply to an option.
type repliedOption struct {
	Type optionReply
	Data string
}

// haggle sends an option and returns all replies up to the final one.
func (c *client) haggle(o option, data []byte) []repliedOption {
	c.t.Helper()
	c.send(appendOption(nil, o, data))
	var list []repliedOption
	for {
		h := c.receive(20)
		if m := binary.BigEndian.Uint64(h); m != magicOptionReply {
			c.t.Fatalf("reply begins with %#x", m)
		}
		if got := option(binary.BigEndian.Uint32(h[8:])); got != o {
			c.t.Fatalf("reply to option %d, asked %d", got, o)
		}
		r := repliedOption{Type: optionReply(binary.BigEndian.Uint32(h[12:]))}
		r.Data = string(c.receive(int(binary.BigEndian.Uint32(h[16:]))))
		list = append(list, r)
		if r.Type == replyAck || r.Type >= replyErrUnsup {
			return list
		}
	}
}

// enter negotiates the export by NBD_OPT_GO.
func (c *client) enter(name string) {
	c.t.Helper()
	c.hello(flagFixedNewstyle | flagNoZeroes)
	if r := c.haggle(optGo, appendInfoRequest(nil, name)); r[len(r)-1].Type != replyAck {
		c.t.Fatalf("NBD_OPT_GO %q: %v", name, r)
	}
}

// replied expects a simple reply and returns its n bytes of payload, none after an error.
func (c *client) replied(cookie uint64, e errno, n int) []byte {
	c.t.Helper()
	var want [replySize]byte
	putSimpleReply(&want, e, cookie)
	if got := c.receive(replySize); !bytes.Equal(got, want[:]) {
		c.t.Fatalf("reply %x, want %x", got, want)
	}
	if e != errnoNone {
		return nil
	}
	return c.receive(n)
}

// read asks for bytes and returns them.
func (c *client) read(off uint64, n int) []byte {
	c.t.Helper()
	cookie := rand.Uint64()
	c.send(appendRequest(nil, request{command: cmdRead, cookie: cookie, offset: off, length: uint32(n)}))
	return c.replied(cookie, errnoNone, n)
}

// shelf is a set of exports that counts its open handles and can be told to fail.
type shelf struct {
	exports map[string]Export

	mu      sync.Mutex
	open    int
	opened  int
	openErr error
}

func (s *shelf) List(context.Context) []ExportInfo {
	var list []ExportInfo
	for _, e := range s.exports {
		list = append(list, e.Info())
	}
	return list
}

func (s *shelf) Open(_ context.Context, name string) (Export, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openErr != nil {
		return nil, s.openErr
	}
	e := s.exports[name]
	if e == nil {
		return nil, ErrUnknownExport
	}
	s.open++
	s.opened++
	if a, ok := e.(*arrivingExport); ok {
		return &lentArriving{lentFile{FileExport: a, shelf: s}, a}, nil
	}
	if f, ok := e.(FileExport); ok {
		return &lentFile{FileExport: f, shelf: s}, nil
	}
	return &lent{Export: e, shelf: s}, nil
}

func (s *shelf) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

func (s *shelf) handles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

type lent struct {
	Export
	shelf *shelf
}

func (l *lent) Close() error { l.shelf.closed(); return nil }

type lentFile struct {
	FileExport
	shelf *shelf
}

func (l *lentFile) Close() error { l.shelf.closed(); return nil }

type lentArriving struct {
	lentFile
	Waiter
}

// arrivingExport is a file whose bytes from arrived on are still to come: read fails with late unless they come.
type arrivingExport struct {
	*fileExport
	arrived int64
	come    chan error // one value ends one wait
	waiting chan int64
}

func (a *arrivingExport) Wait(ctx context.Context, off, n int64) error {
	if off+n <= a.arrived {
		return nil
	}
	a.waiting <- off
	select {
	case err := <-a.come:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memExport is an export in memory.
type memExport struct {
	info ExportInfo
	data []byte
	err  error // of reads, if set
}

func (m *memExport) Info() ExportInfo { return m.info }
func (m *memExport) Close() error     { return nil }
func (m *memExport) ReadAt(p []byte, off int64) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	return bytes.NewReader(m.data).ReadAt(p, off)
}

// fileExport is a part of a file as an export.
type fileExport struct {
	memExport
	f      *os.File
	offset int64
}

func (f *fileExport) File() (*os.File, int64) { return f.f, f.offset }

func (f *fileExport) ReadAt([]byte, int64) (int, error) {
	return 0, errors.New("a file export is not read by ReadAt")
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// newFileExport writes lead bytes of something else, data, and a tail to a file and returns data as an export.
func newFileExport(t testing.TB, name string, data []byte, lead int) *fileExport {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	all := append(bytes.Repeat([]byte{0xee}, lead), data...)
	if err := os.WriteFile(path, append(all, "tail"...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &fileExport{memExport: memExport{info: ExportInfo{Name: name, Description: "a file", Size: int64(len(data))}}, f: f, offset: int64(lead)}
}

// harness is a running server. connect gives a new connection to it.
type harness struct {
	*Server
	t     testing.TB
	shelf *shelf
	addr  string
	stop  context.CancelFunc
	ended chan error
}

// start serves on loopback until the test ends; then it checks that Serve returned nil and that no handle is left.
func start(t testing.TB, cfg Config, exports ...Export) *harness {
	t.Helper()
	h := &harness{t: t, shelf: &shelf{exports: map[string]Export{}}, ended: make(chan error, 1)}
	for _, e := range exports {
		h.shelf.exports[e.Info().Name] = e
	}
	cfg.Exports = h.shelf
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var err error
	if h.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	ln, err := Listen(ctx, "127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	go func() { h.ended <- h.Serve(ctx, ln) }()
	t.Cleanup(h.finish)
	return h
}

func (h *harness) finish() {
	h.stop()
	select {
	case err := <-h.ended:
		if err != nil {
			h.t.Errorf("Serve: %v", err)
		}
		h.ended <- nil // for another finish
	case <-time.After(patience):
		h.t.Error("Serve does not return")
		return
	}
	if n := h.shelf.handles(); n != 0 {
		h.t.Errorf("%d exports are still open", n)
	}
	if n := len(h.Connections()); n != 0 {
		h.t.Errorf("%d connections are still registered", n)
	}
	if n := len(h.sources.open); n != 0 {
		h.t.Errorf("%d files are still mapped", n)
	}
}

func (h *harness) connect() *client {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", h.addr, patience)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	return &client{h.t, conn}
}
