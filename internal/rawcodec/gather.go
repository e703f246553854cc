package rawcodec

import (
	"crypto/tls"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// gatherSize is how many bytes of TLS records a connection collects before it writes them.
const gatherSize = 128 << 10

// ServerCredentials are credentials.NewTLS for servers that send much: crypto/tls makes a system call for each record of 16 KiB, and these
// write many records in one, which is a good part of the CPU time of a fast connection. Everything else, such as what
// handlers see of the client's certificate, is as with credentials.NewTLS. The configuration is copied.
func ServerCredentials(conf *tls.Config) credentials.TransportCredentials {
	conf = conf.Clone()
	conf.DynamicRecordSizingDisabled = true // small records help browsers, not bulk data
	return &gatherCredentials{TransportCredentials: credentials.NewTLS(conf), pool: &sync.Pool{}}
}

type gatherCredentials struct {
	credentials.TransportCredentials
	pool *sync.Pool // of *[]byte with room for gatherSize
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *gatherCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	below := &gatherConn{Conn: raw, pool: c.pool}
	secure, info, err := c.TransportCredentials.ServerHandshake(below)
	if err != nil {
		return nil, nil, err
	}
	return &gatheredTLS{Conn: secure, below: below}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (c *gatherCredentials) Clone() credentials.TransportCredentials {
	return &gatherCredentials{TransportCredentials: c.TransportCredentials.Clone(), pool: c.pool}
}

// gatheredTLS lies above the TLS layer and knows where a write begins and ends.
type gatheredTLS struct {
	net.Conn
	below *gatherConn
}

// Write is for one goroutine at a time, as in gRPC.
func (c *gatheredTLS) Write(p []byte) (int, error) {
	c.below.hold()
	n, err := c.Conn.Write(p)
	if flushErr := c.below.release(); err == nil && flushErr != nil {
		return 0, flushErr
	}
	return n, err
}

// SyscallConn lets gRPC set socket options, as on the connections of credentials.NewTLS.
func (c *gatheredTLS) SyscallConn() (syscall.RawConn, error) { return c.below.SyscallConn() }

// gatherConn lies below the TLS layer. Between hold and release it collects what is written.
type gatherConn struct {
	net.Conn
	pool *sync.Pool

	mu   sync.Mutex // the TLS layer may also write while it reads (alerts, key updates)
	held bool
	buf  *[]byte // nil when nothing is collected
}

// SyscallConn implements syscall.Conn if the connection does.
func (c *gatherConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, syscall.ENOTSUP
}

func (c *gatherConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = true
}

func (c *gatherConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	return c.flushLocked()
}

// Write implements net.Conn. The mutex is held while the socket blocks: order matters more than an alert.
func (c *gatherConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.held {
		return c.Conn.Write(p)
	}
	if c.buf != nil && len(*c.buf)+len(p) > gatherSize {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if len(p) > gatherSize {
		return c.Conn.Write(p)
	}
	if c.buf == nil {
		c.buf, _ = c.pool.Get().(*[]byte)
	}
	if c.buf == nil {
		b := make([]byte, 0, gatherSize)
		c.buf = &b
	}
	*c.buf = append(*c.buf, p...)
	return len(p), nil
}

// flushLocked writes what was collected. The caller holds mu.
func (c *gatherConn) flushLocked() error {
	if c.buf == nil {
		return nil
	}
	_, err := c.Conn.Write(*c.buf)
	*c.buf = (*c.buf)[:0]
	c.pool.Put(c.buf)
	c.buf = nil
	return err
}
