// Package satellite wires the rooms of a satellite together: the box that boots the PCs of one site. It holds no logic but the order of
// things: which room gets what, and who starts and ends. The rooms are in internal.
//
// Whatever the controller sends is stored first, so a satellite that starts without its controller serves from its own disk: state, images and
// leases lie in Config.Local.DataDir.
package satellite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/task"
	"github.com/ltsp-fleet/ltsp-fleet/internal/telemetry"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/accounts"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootconf"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootfiles"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/chunksync"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/commands"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/dhcp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/events"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/gossip"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/nbd"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/neighbour"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/ra"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/reports"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/tftp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

// Config configures a Satellite.
type Config struct {
	Local config.Local
	Build string // this program's version
	// Logger receives the log; nil discards it.
	Logger *slog.Logger
	// Registry takes and serves the metrics; nil: none.
	Registry *prometheus.Registry
}

// Satellite is a satellite that was set up but does not run yet.
type Satellite struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	board   *health.Board

	id       *identity.Identity
	db       *state.Store
	store    *imagestore.Store
	sync     *chunksync.Syncer
	up       *upstream.Client
	gossip   *gossip.Cluster
	registry *clients.Registry
	tree     *bootfiles.Tree
	http     *bootfiles.Server
	tftp     *tftp.Server
	nbd      *nbd.Server
	reports  *reports.Server
	dhcp     *dhcp.Server
	ra       *ra.Server

	policies   *policies.Keeper
	accounts   *accounts.Watcher
	bootconf   *bootconf.Evaluator
	events     *events.Queue
	dispatcher *commands.Dispatcher

	director  *director
	listeners *listeners
	seen      *nbdWatch
	traces    chan upstream.BootTrace
	results   chan config.CommandResult
	speed     recompression
}

// New opens what lies on the disk and sets up all rooms. It listens on nothing yet. identity.ErrNotJoined if the satellite has not joined.
func New(cfg Config) (*Satellite, error) {
	if err := cfg.Local.Validate(); err != nil {
		return nil, err
	}
	s := &Satellite{cfg: cfg, log: cfg.Logger, started: time.Now(), board: new(health.Board)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.id, err = identity.Load(cfg.Local.DataDir); err != nil {
		return nil, err
	}
	if s.db, err = state.Open(filepath.Join(cfg.Local.DataDir, state.FileName)); err != nil {
		return nil, err
	}
	for _, step := range []func() error{s.newStore, s.newClients, s.newUpstream, s.newPolicies, s.newGossip, s.newServers, s.newDHCP, s.newDirector} {
		if err := step(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	s.board.Changed = s.up.StatusChanged
	return s, nil
}

// metrics is the registry as rooms take it: a nil *Registry must not become a non-nil interface.
func (s *Satellite) metrics() prometheus.Registerer {
	if s.cfg.Registry == nil {
		return nil
	}
	return s.cfg.Registry
}

func (s *Satellite) room(name string) *slog.Logger { return s.log.With("room", name) }

func (s *Satellite) newStore() (err error) {
	s.store, err = imagestore.Open(imagestore.Config{Dir: s.cfg.Local.DataDir, Keys: s.id.SigningKeys, Retain: s.cfg.Local.Retain,
		ReserveBytes: s.cfg.Local.ReserveBytes, Logger: s.room("imagestore"), Metrics: s.metrics()})
	return err
}

func (s *Satellite) newClients() (err error) {
	s.registry, err = clients.New(clients.Config{Store: s.db, Neighbour: neighbour.Lookup, Logger: s.room("clients"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.events, err = events.New(nil, s.metrics())
	return err
}

func (s *Satellite) newUpstream() (err error) {
	s.traces = make(chan upstream.BootTrace, maxTraces)
	s.results = make(chan config.CommandResult, commands.MaxRunning)
	s.up, err = upstream.New(upstream.Config{
		Identity: s.id, Build: s.cfg.Build,
		Desired:   func(d *config.Desired) { s.director.take(d) },
		Revision:  func() uint64 { return s.director.revision() },
		Status:    s.status,
		Clients:   clientFeed{s.registry, s.id.Name(), s.wantedPolicy},
		Events:    eventFeed{s.events},
		Traces:    s.traces,
		Command:   func(c config.Command) { s.dispatcher.Handle(c) },
		Results:   s.results,
		Connected: func(is bool) { s.director.online(is) },
		Problem:   s.board.Set,
		Logger:    s.room("upstream"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.sync, err = chunksync.New(chunksync.Config{Store: s.store, Source: s.up, Manifests: s.up, Planner: link{s.up}, Deltas: link{s.up}, Streams: s.cfg.Local.Streams,
		Recompress: s.speed.bytesPerSecond, MemoryBytes: s.cfg.Local.DeltaMemoryBytes, TempDir: s.cfg.Local.DataDir,
		Changed: func() { s.director.poke() }, Problem: s.board.Set, Logger: s.room("chunksync"), Metrics: s.metrics()})
	return err
}

func (s *Satellite) newGossip() (err error) {
	s.gossip, err = gossip.New(gossip.Config{Changed: s.up.StatusChanged, Problem: s.board.Set, Logger: s.room("gossip"), Metrics: s.metrics()})
	return err
}

func (s *Satellite) newServers() (err error) {
	s.tree, err = bootfiles.NewTree(bootfiles.TreeConfig{Store: bootStore{s.store}, Registry: s.registry, Logger: s.room("bootfiles")})
	if err != nil {
		return err
	}
	s.http, err = bootfiles.NewServer(bootfiles.Config{Tree: s.tree, Clients: s.registry.Counts, Logger: s.room("http"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.tftp, err = tftp.New(tftp.Config{Open: tftpFiles{s.tree}.open, Logger: s.room("tftp"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.reports, err = reports.New(reports.Config{Registry: s.registry, Certificate: s.id.Holder(), Policy: s.clientPolicy, Event: s.events.Add, Logger: s.room("reports"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.seen = &nbdWatch{registry: s.registry, opened: make(chan struct{}, 1)}
	s.nbd, err = nbd.New(nbd.Config{Exports: exports{s.store, s.seen.poke}, Record: newTracer(s.store, s.traces).record, OnReadFailure: s.exportFailed, Logger: s.room("nbd"), Metrics: s.metrics()})
	return err
}

func (s *Satellite) newDHCP() error {
	leases, err := state.NewLeases(s.db.DB())
	if err != nil {
		return err
	}
	s.dhcp, err = dhcp.New(dhcp.Config{Log: leases, Boot: dhcp.NewLoaders(dhcp.LoaderConfig{HTTPPort: s.cfg.Local.HTTPPort}),
		OnEvent: sawDHCP(s.registry), Logger: s.room("dhcp"), Registerer: s.metrics()})
	if err != nil {
		return err
	}
	s.ra, err = ra.New(ra.Config{Logger: s.room("ra"), Registerer: s.metrics()})
	return err
}

// newDirector comes last: the director acts on all rooms.
func (s *Satellite) newDirector() error {
	local := s.cfg.Local
	s.listeners = newListeners(s.board, s.room("listen"),
		service{"NBD", "tcp", local.NBDPort, s.listenNBD},
		service{"HTTP", "tcp", local.HTTPPort, listenTCP(s.http.Serve)},
		service{"reports", "tcp", local.ReportPort, listenTCP(s.reports.Serve)},
		service{"TFTP", "udp", tftpPort, s.listenTFTP},
	)
	var err error
	s.director, err = newDirector(s)
	return err
}

// Run serves until ctx ends, then drains and returns nil. An error means that the satellite could not go on. Call it once.
func (s *Satellite) Run(ctx context.Context) error {
	s.log.Info("satellite starts", "site", s.id.Site(), "satellite", s.id.Name(), "build", s.cfg.Build, "revision", s.director.revision())
	tasks := []task.Task{
		{Name: "director", Run: s.director.run},
		{Name: "synchronisation", Run: s.sync.Run},
		{Name: "controller", Run: s.up.Run},
		{Name: "clients", Run: s.registry.Run},
		{Name: "policies", Run: s.policies.Run},
		{Name: "accounts", Run: s.accounts.Run},
		{Name: "commands", Run: s.dispatcher.Run},
		{Name: "listeners", Run: s.listeners.run},
		{Name: "nbd watch", Run: func(ctx context.Context) error { return s.seen.run(ctx, s.nbd.Connections) }},
		{Name: "dhcp", Run: s.dhcp.Run},
		{Name: "router advertisements", Run: s.ra.Run},
		{Name: "gossip", Run: s.gossip.Run},
		{Name: "status socket", Run: s.serveStatus},
		{Name: "metrics", Run: s.serveMetrics},
		{Name: "recompression", Run: s.speed.measure},
	}
	err := task.Run(ctx, s.log, tasks...)
	err = errors.Join(err, s.close())
	s.log.Info("satellite ends")
	return err
}

// close gives back what New opened.
func (s *Satellite) close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(append(errs, s.db.Close())...)
}

// serveStatus and serveMetrics help people; a satellite works without them, so that a failure is a problem and not the end.
func (s *Satellite) serveStatus(ctx context.Context) error {
	return s.optional(ctx, "status", health.Serve(ctx, s.cfg.Local.DataDir, s.localStatus))
}

func (s *Satellite) serveMetrics(ctx context.Context) error {
	if s.cfg.Local.Metrics == "" || s.cfg.Registry == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.optional(ctx, "metrics", telemetry.ServeMetrics(ctx, s.cfg.Local.Metrics, s.cfg.Registry))
}

func (s *Satellite) optional(ctx context.Context, what string, err error) error {
	if ctx.Err() == nil {
		s.log.Error(what+" can't be served", "err", err)
		s.board.Set(what, fmt.Sprintf("%s can't be served: %v", what, err))
		<-ctx.Done()
	}
	return ctx.Err()
}

// exportFailed takes an export away that can't be read: its clients go to another satellite, and the version is proven anew.
func (s *Satellite) exportFailed(name string, err error) {
	s.log.Error("export can't be read", "export", name, "err", err)
	for _, v := range s.store.List() {
		if v.DiskBytes > 0 && v.Manifest.ExportName() == name {
			s.store.Withdraw(v.ID)
		}
	}
	s.sync.Kick()
	s.director.poke()
}
