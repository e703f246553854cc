// Package api is the controller's gRPC door: services, who may call what, limits, and conversion between generated and plain types, which
// meet nowhere else. A call passes, in this order: TLS (a certificate of our CA, or none), the authority (tap handle: table of methods,
// state of the identity, streams per identity) before any of its message is read, the interceptors (panics, error codes, metrics), the service.
//
// Metrics: ltsp_controller_rpcs_total{method,code}, ltsp_controller_rpcs_limited_total{limit}, ltsp_controller_enrolments_total{result},
// ltsp_controller_chunk_sent_bytes_total, ltsp_controller_connections.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/transfer"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/watch"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// Limits bounds what clients can cause. A zero field means its default.
type Limits struct {
	Connections        int           // open connections, further ones wait; default 4096
	StreamsPerIdentity int           // calls of one identity at once; default 64
	Anonymous          int           // calls without a certificate at once; default 16
	PutStreams         int           // uploads at once; default 8
	FetchStreams       int           // downloads of chunks at once; default 128
	MessageBytes       int           // of one message; default MessageBytes
	Drain              time.Duration // how long calls may go on after the end; default 10 s
}

// MessageBytes is the largest message that the controller takes or sends: a manifest of 900,000 chunks. Clients must allow it too.
const MessageBytes = 32 << 20

// Transport settings: keepalive so that dead satellites are noticed within a minute. Windows and buffers are the rawcodec room's.
const (
	handshakeTimeout = 10 * time.Second
	pingAfter        = 30 * time.Second
	pingTimeout      = 20 * time.Second
	pingAtMost       = 10 * time.Second
	idleTimeout      = 15 * time.Minute
)

// Config holds what a server works with. All but Limits, Now, Log and Metrics must be set.
type Config struct {
	Store    *store.Store
	Catalog  *catalog.Catalog
	Link     *link.Registry
	Deltas   *deltas.Maker
	Transfer *transfer.Planner
	Policies *policies.Keeper
	Watch    *watch.Hub
	CA       *enroll.CA
	// TLS is a pki.ServerTLS.
	TLS     *tls.Config
	Build   string
	Started time.Time
	Limits  Limits
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Server serves the API.
type Server struct {
	cfg       Config
	grpc      *grpc.Server
	guard     *guard
	authority *authority
	limiter   *enroll.Limiter
	metrics   *metrics
	puts      *semaphore.Weighted
	fetches   *semaphore.Weighted
	diffs     *semaphore.Weighted
	archives  *semaphore.Weighted // policies that are held in memory
	commands  *semaphore.Weighted
	confs     confCache
	closing   context.Context // ends when the server begins to drain
	close     context.CancelFunc
	receivers sync.WaitGroup // goroutines that read satellites' streams
}

// New makes a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Catalog == nil || cfg.Link == nil || cfg.Deltas == nil || cfg.Transfer == nil || cfg.Policies == nil || cfg.Watch == nil || cfg.CA == nil || cfg.TLS == nil {
		return nil, errors.New("api: a collaborator is missing")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Limits.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, guard: newGuard(cfg.Limits), limiter: enroll.NewLimiter(cfg.Now), puts: semaphore.NewWeighted(int64(cfg.Limits.PutStreams)),
		fetches: semaphore.NewWeighted(int64(cfg.Limits.FetchStreams)), diffs: semaphore.NewWeighted(2), archives: semaphore.NewWeighted(4),
		commands: semaphore.NewWeighted(commandCalls),
	}
	s.metrics = newMetrics(cfg.Metrics, s.guard.connections)
	s.authority = &authority{store: cfg.Store, guard: s.guard, table: methods(), now: cfg.Now, log: cfg.Log, metrics: s.metrics}
	s.closing, s.close = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(s.options()...)
	s.register()
	cfg.Store.Observe(s.publishChanges)
	return s, nil
}

func (l *Limits) fill() error {
	for _, f := range []struct {
		value    *int
		fallback int
	}{
		{&l.Connections, 4096}, {&l.StreamsPerIdentity, 64}, {&l.Anonymous, 16}, {&l.PutStreams, 8}, {&l.FetchStreams, 128}, {&l.MessageBytes, MessageBytes},
	} {
		if *f.value < 0 {
			return errors.New("api: a limit is negative")
		}
		if *f.value == 0 {
			*f.value = f.fallback
		}
	}
	if l.Drain == 0 {
		l.Drain = 10 * time.Second
	}
	return nil
}

func (s *Server) options() []grpc.ServerOption {
	return append(rawcodec.ServerOptions(),
		grpc.Creds(newServerCredentials(s.cfg.TLS, s.guard)),
		grpc.InTapHandle(s.authority.tap),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(s.cfg.Limits.MessageBytes),
		grpc.MaxSendMsgSize(s.cfg.Limits.MessageBytes),
		grpc.MaxConcurrentStreams(uint32(s.cfg.Limits.StreamsPerIdentity)),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAtMost, PermitWithoutStream: true}),
	)
}

func (s *Server) register() {
	satellitev1.RegisterEnrolmentServiceServer(s.grpc, &enrolmentService{Server: s})
	satellitev1.RegisterLinkServiceServer(s.grpc, &linkService{Server: s})
	chunkv1.RegisterChunkServiceServer(s.grpc, &chunkService{Server: s})
	rawcodec.Register(s.grpc, blobService, rawcodec.Method{Name: "Fetch", Handle: s.fetch})
	adminv1.RegisterImageServiceServer(s.grpc, &imageService{Server: s})
	adminv1.RegisterSiteServiceServer(s.grpc, &siteService{Server: s})
	adminv1.RegisterSubnetServiceServer(s.grpc, &subnetService{Server: s})
	adminv1.RegisterSatelliteServiceServer(s.grpc, &satelliteService{Server: s})
	adminv1.RegisterClientServiceServer(s.grpc, &clientService{Server: s})
	adminv1.RegisterPolicyServiceServer(s.grpc, &policyService{Server: s})
	adminv1.RegisterTokenServiceServer(s.grpc, &tokenService{Server: s})
	adminv1.RegisterAuditServiceServer(s.grpc, &auditService{Server: s})
	adminv1.RegisterServerServiceServer(s.grpc, &serverService{Server: s})
}

// Serve answers on l until ctx ends, then lets calls finish for Limits.Drain. It closes l. It must be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	l = netutil.LimitListener(l, s.cfg.Limits.Connections)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.drain()
	})
	err := s.grpc.Serve(l)
	if stop() {
		s.drain()
	} else {
		<-stopped
	}
	s.receivers.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// drain refuses new calls, waits for those under way and breaks off those that do not end in time.
func (s *Server) drain() {
	s.close()
	timer := time.AfterFunc(s.cfg.Limits.Drain, s.grpc.Stop)
	defer timer.Stop()
	s.grpc.GracefulStop()
}

// publishChanges tells watchers which kinds of things a transaction has changed.
func (s *Server) publishChanges(c store.Commit) {
	var kinds []string
	for _, kind := range c.Kinds {
		if name := watched(kind); name != "" {
			kinds = append(kinds, name)
		}
	}
	s.cfg.Watch.Notify(kinds...)
}

func watched(kind store.Kind) string {
	switch kind {
	case store.KindImage, store.KindVersion:
		return watch.Image
	case store.KindSite:
		return watch.Site
	case store.KindSubnet:
		return watch.Subnet
	case store.KindSatellite, store.KindStatus:
		return watch.Satellite
	case store.KindClient, store.KindClientReport:
		return watch.Client
	case store.KindPolicy:
		return watch.Policy
	case store.KindToken:
		return watch.Token
	}
	return ""
}
