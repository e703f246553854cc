package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// liveness says how a dead client is found. A probe goes out after idle without a sign of life and every interval then; a PC
// that has not answered anything for dead is gone, with or without a reply under way. A live PC answers probes however idle it is.
type liveness struct {
	idle, interval, dead time.Duration
}

// defaultLiveness frees the slot of a killed PC in less than a minute, and forgives a switch that restarts its ports.
func defaultLiveness() liveness {
	return liveness{idle: 20 * time.Second, interval: 10 * time.Second, dead: 45 * time.Second}
}

// goodBacklog is the number of connects at one instant that should be queued: a classroom, or all of a satellite's clients
// when they reconnect. A short queue makes PCs hang: Linux then answers with SYN cookies, the PC believes itself connected, and
// waits for a greeting that never comes because in NBD the server speaks first.
const goodBacklog = 1024

const congestionControl = "cubic"

// Listen opens a TCP listener for Serve. addr is as for net.Listen. Its queue is as long as net.core.somaxconn allows; its
// connections notice a dead client within about a minute (TCP keepalive and TCP_USER_TIMEOUT), and use cubic where the host's
// default is bbr: on a LAN, bbr's pacing costs several times the CPU. What can't be had is logged to log (nil discards).
func Listen(ctx context.Context, addr string, log *slog.Logger) (net.Listener, error) {
	return listen(ctx, addr, log, defaultLiveness())
}

func listen(ctx context.Context, addr string, log *slog.Logger, live liveness) (net.Listener, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// Options are set once on the listening socket and inherited by accepted ones (Linux, inet_csk_clone_lock), which saves
	// four system calls a connection in a storm of connects. Hence Go's own keepalive is off.
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = prepare(int(fd), log, live) }); cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for nbd: %w", err)
	}
	if n, err := somaxconn(); err == nil && n < goodBacklog {
		log.Warn("net.core.somaxconn is small: when many PCs connect at once some may hang, raise it to 4096", "limit", n)
	}
	return ln, nil
}

// prepare sets the options of a listening socket.
func prepare(fd int, log *slog.Logger, live liveness) error {
	for _, o := range []struct {
		level, name, value int
	}{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(live.idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(live.interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int(live.dead / live.interval)},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(live.dead / time.Millisecond)},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	current, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil || !strings.HasPrefix(current, "bbr") {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestionControl); err != nil {
		log.Warn("the host's TCP congestion control is bbr, which is slow on a LAN, and cubic can't be set: load tcp_cubic", "err", err)
		return nil
	}
	log.Info("using cubic for nbd: the host's TCP congestion control is bbr, which is slow on a LAN")
	return nil
}

func somaxconn() (int, error) {
	b, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// passing reports whether an error of accept goes away by itself: a connection that ended in the queue, or too few
// descriptors or too little memory at the moment.
func passing(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EPROTO, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
