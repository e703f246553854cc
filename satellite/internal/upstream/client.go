package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
)

// ErrOffline says that there is no connection to the controller at present.
var ErrOffline = errors.New("the controller is not connected")

// Times of the connection.
const (
	keepaliveTime    = 15 * time.Second // of silence; gRPC sets TCP_USER_TIMEOUT to keepaliveTimeout too
	keepaliveTimeout = 10 * time.Second
	firstMessage     = 30 * time.Second // from the dial to the first desired state
	reportGap        = 500 * time.Millisecond
	backoffMin       = 500 * time.Millisecond
	backoffBase      = time.Second
	backoffMax       = time.Minute
	renewRetry       = 10 * time.Minute
	callTimeout      = 30 * time.Second
)

// Defaults of Config.
const (
	DefaultReportInterval = 15 * time.Second
	DefaultStallTimeout   = 60 * time.Second
)

// ClientSource hands out what is known of clients. MarkAll makes Pending return every client again.
type ClientSource interface {
	Notify() <-chan struct{}
	Pending() []ClientReport // at most maxClientReports at once
	MarkAll()
}

// EventSource holds what happened on clients until it was sent.
type EventSource interface {
	// Notify returns a channel that gets a value when there is something to send.
	Notify() <-chan struct{}
	// Pending returns the oldest events, at most maxClientEvents; they stay until Sent.
	Pending() []ClientEvent
	// Sent takes away the n oldest.
	Sent(n int)
}

// Config configures a Client. Identity, Desired and Status are required.
type Config struct {
	Identity *identity.Identity
	// Desired takes each desired state, from the stream's goroutine: it must store the state and return soon.
	Desired func(*config.Desired)
	// Status makes a report.
	Status func() Status
	// Revision tells the revision of the desired state on the disk; nil means 0.
	Revision func() uint64
	// Clients may be nil.
	Clients ClientSource
	// Events may be nil.
	Events EventSource
	// Traces are sent as they come; may be nil.
	Traces <-chan BootTrace
	// Command takes each command for a client, from the stream's goroutine: it must not block. nil: commands are ignored.
	Command func(config.Command)
	// Results are sent as they come; may be nil. Those that come while the controller is away are dropped: nobody waits for them any more.
	Results <-chan config.CommandResult
	// Connected, if not nil, is told when the controller has answered and when the stream is lost.
	Connected func(bool)
	// Problem, if not nil, is told what a person should look at, by key; an empty text says that it is over.
	Problem func(key, text string)
	// Build is this program's version.
	Build string
	// ReportInterval is the time between reports without a change; StallTimeout is how long nothing may arrive of what was asked for. Zero means the default.
	ReportInterval, StallTimeout time.Duration
	// Dial makes the TCP connections; nil: net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger receives the log; nil discards it. Metrics receives the metrics of the package comment; nil means none.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Client is the connection to the controller. Manifest, PlanSync, Fetch, FetchDelta and StatusChanged are safe for concurrent use.
type Client struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	changed chan struct{}

	mu   sync.Mutex
	link *link // nil while offline

	renewAfter time.Time // not before, after a failed renewal; used by Run only
}

// link is one pair of connections.
type link struct {
	control, bulk *grpc.ClientConn
}

// New returns a Client that is not connected yet.
func New(cfg Config) (*Client, error) {
	if cfg.Identity == nil || cfg.Desired == nil || cfg.Status == nil {
		return nil, errors.New("upstream needs an identity, a taker of desired state and a status")
	}
	cfg.ReportInterval = orDefault(cfg.ReportInterval, DefaultReportInterval)
	cfg.StallTimeout = orDefault(cfg.StallTimeout, DefaultStallTimeout)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Revision == nil {
		cfg.Revision = func() uint64 { return 0 }
	}
	if cfg.Connected == nil {
		cfg.Connected = func(bool) {}
	}
	if cfg.Problem == nil {
		cfg.Problem = func(string, string) {}
	}
	if cfg.Clients == nil {
		cfg.Clients = noClients{}
	}
	if cfg.Events == nil {
		cfg.Events = noEvents{}
	}
	if cfg.Command == nil {
		cfg.Command = func(config.Command) {}
	}
	c := &Client{cfg: cfg, log: cfg.Logger, changed: make(chan struct{}, 1)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	var err error
	c.metrics, err = newMetrics(cfg.Metrics, c)
	return c, err
}

type noClients struct{}

func (noClients) Notify() <-chan struct{} { return nil }
func (noClients) Pending() []ClientReport { return nil }
func (noClients) MarkAll()                {}

type noEvents struct{}

func (noEvents) Notify() <-chan struct{} { return nil }
func (noEvents) Pending() []ClientEvent  { return nil }
func (noEvents) Sent(int)                {}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// StatusChanged asks for a report soon; several changes within half a second make one report. It does not block.
func (c *Client) StatusChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Online tells whether the controller has answered on the present stream.
func (c *Client) Online() bool { return c.current() != nil }

func (c *Client) current() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *Client) setLink(l *link) {
	c.mu.Lock()
	was := c.link != nil
	c.link = l
	c.mu.Unlock()
	if is := l != nil; is != was {
		c.metrics.online(is)
		c.cfg.Connected(is)
	}
}

// Run keeps the stream up until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		answered, err := c.session(ctx)
		c.setLink(nil)
		if ctx.Err() != nil {
			break
		}
		if answered {
			failures = 0
		}
		if errors.Is(err, errRenewed) {
			continue
		}
		failures++
		wait := backoff(failures)
		c.metrics.failed()
		c.log.Warn("the controller is not connected", "addr", c.cfg.Identity.Controller(), "err", err, "dur", wait)
		c.cfg.Problem("upstream", fmt.Sprintf("the controller %s is not connected: %v", c.cfg.Identity.Controller(), err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// backoff is backoffMin plus a random part of a bound that doubles with each failure.
func backoff(failures int) time.Duration {
	bound := min(backoffBase<<min(failures-1, 10), backoffMax)
	return backoffMin + rand.N(bound)
}

// dial prepares the connections with the certificate that the identity presents at present. refused tells why the controller's
// certificate was not accepted, after a failure.
func (c *Client) dial() (l *link, refused func() error, err error) {
	cfg, reason := watchVerify(pki.ClientTLS(c.cfg.Identity.Holder(), c.cfg.Identity.CA()))
	l = new(link)
	if l.control, err = c.conn(cfg); err != nil {
		return nil, nil, err
	}
	if l.bulk, err = c.conn(cfg.Clone(), rawcodec.DialOptions()...); err != nil {
		_ = l.control.Close()
		return nil, nil, err
	}
	return l, func() error {
		if p := reason.Load(); p != nil {
			return *p
		}
		return nil
	}, nil
}

func (c *Client) conn(cfg *tls.Config, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithUserAgent("ltsp-satellite/" + c.cfg.Build),
	}
	opts = append(opts, more...)
	if c.cfg.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(c.cfg.Dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Identity.Controller(), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to controller %s: %w", c.cfg.Identity.Controller(), err)
	}
	return conn, nil
}

func (l *link) close() {
	_ = l.control.Close() // the connection is given up
	_ = l.bulk.Close()
}

// plain takes the reason out of what gRPC wraps around a failed connection.
func plain(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := st.Message()
	for _, mark := range []string{"Error while dialing: ", "error reading server preface: ", "authentication handshake failed: "} {
		if _, after, ok := strings.Cut(text, mark); ok {
			return errors.New(strings.TrimSuffix(after, `"`))
		}
	}
	return errors.New(text)
}

// explain adds what a person can do to the reason why the controller's certificate was refused.
func (c *Client) explain(err, refused error) error {
	if refused == nil {
		c.cfg.Problem("clock", "")
		return plain(err)
	}
	var invalid x509.CertificateInvalidError
	if errors.As(refused, &invalid) && invalid.Reason == x509.Expired {
		c.cfg.Problem("clock", fmt.Sprintf("the clock of this satellite (%s) is outside the dates of the controller's certificate: set it right, or renew that certificate",
			c.cfg.Now().UTC().Format(time.RFC3339)))
	}
	return fmt.Errorf("the controller's certificate is refused: %w", refused)
}
