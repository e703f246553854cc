// Package controller wires the controller's rooms together: Init makes a data directory, New opens it, Run serves until its context
// ends. It decides nothing itself.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/datadir"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/transfer"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/watch"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/task"
	"github.com/ltsp-fleet/ltsp-fleet/internal/telemetry"
)

// Defaults of Config.
const (
	DefaultDataDir = "/var/lib/ltsp-controller"
	DefaultListen  = ":7400"
	DefaultMetrics = "127.0.0.1:7401"

	DefaultDeltaBytes  = deltas.DefaultMaxBytes
	DefaultDeltaMemory = deltas.DefaultMemoryBytes
)

// Config says how a controller runs.
type Config struct {
	// DataDir must have been made by Init.
	DataDir string
	// Listen is the address of the API, HOST:PORT.
	Listen string
	// Metrics is the address of /metrics; empty serves none.
	Metrics string
	// ReserveBytes stays free on the chunks' file system; 0 means chunkstore.DefaultReserveBytes, a negative value none.
	ReserveBytes int64
	// Grace is how long chunks that no version needs stay; 0 means catalog.DefaultGrace.
	Grace time.Duration
	// DeltaBytes bounds the deltas that are kept, DeltaMemory is what making one may take; 0 means the defaults of the deltas room.
	DeltaBytes, DeltaMemory int64
	// Limits bounds what clients can cause; zero fields mean defaults.
	Limits api.Limits
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log nil discards.
	Log *slog.Logger
}

// Controller is an open data directory with a listening socket.
type Controller struct {
	cfg      Config
	dir      datadir.Dir
	keys     datadir.Credentials
	own      *pki.Holder
	store    *store.Store
	catalog  *catalog.Catalog
	link     *link.Registry
	deltas   *deltas.Maker
	transfer *transfer.Planner
	policies *policies.Keeper
	api      *api.Server
	registry *prometheus.Registry
	listener net.Listener
}

// New opens the data directory and listens. datadir.ErrNotInitialised if Init has not run, store.ErrLocked if another controller runs on it. Run
// or Close must follow.
func New(ctx context.Context, cfg Config) (*Controller, error) {
	if cfg.DataDir == "" || cfg.Listen == "" {
		return nil, errors.New("controller: want a data directory and an address to listen on")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Controller{cfg: cfg, dir: datadir.Dir(cfg.DataDir), registry: telemetry.NewRegistry()}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Controller) open(ctx context.Context) error {
	var err error
	if c.keys, err = c.dir.Load(); err != nil {
		return err
	}
	pair, renewed, err := c.dir.ServerCertificate(c.keys.CA, c.cfg.Now())
	if err != nil {
		return err
	}
	c.own = pki.NewHolder(pair)
	c.logCertificate(renewed)
	if c.store, err = store.Open(store.Config{Path: c.dir.Database(), Now: c.cfg.Now, Log: c.cfg.Log}); err != nil {
		return err
	}
	disk, err := chunkstore.OpenDisk(chunkstore.DiskConfig{Dir: c.dir.Chunks(), ReserveBytes: c.cfg.ReserveBytes, Now: c.cfg.Now})
	if err != nil {
		return err
	}
	c.registry.MustRegister(spaceGauges(disk)...)
	c.catalog, err = catalog.New(catalog.Config{
		Store: c.store, Chunks: disk, SigningKey: c.keys.Signing, Grace: c.cfg.Grace, WorkDir: c.dir.Work(), Now: c.cfg.Now, Log: c.cfg.Log, Metrics: c.registry,
	})
	if err != nil {
		return err
	}
	if err := c.openDeltas(); err != nil {
		return err
	}
	if c.link, err = link.New(ctx, link.Config{Store: c.store, Now: c.cfg.Now, Log: c.cfg.Log, Metrics: c.registry}); err != nil {
		return err
	}
	c.policies, err = policies.New(ctx, policies.Config{Store: c.store, Dir: c.dir.Policies(), Now: c.cfg.Now, Log: c.cfg.Log})
	if err != nil {
		return err
	}
	if c.api, err = api.New(c.apiConfig()); err != nil {
		return err
	}
	if c.listener, err = net.Listen("tcp", c.cfg.Listen); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	return nil
}

func (c *Controller) openDeltas() error {
	if err := c.dir.ClearWork(); err != nil {
		return err
	}
	var err error
	c.deltas, err = deltas.New(deltas.Config{
		Dir: c.dir.Deltas(), Library: c.catalog, MaxBytes: c.cfg.DeltaBytes, MemoryBytes: c.cfg.DeltaMemory, Now: c.cfg.Now, Log: c.cfg.Log, Metrics: c.registry,
	})
	if err != nil {
		return err
	}
	c.transfer, err = transfer.New(transfer.Config{
		Store: c.store, Catalog: c.catalog, Deltas: c.deltas, Now: c.cfg.Now, Log: c.cfg.Log, Metrics: c.registry,
	})
	return err
}

func (c *Controller) apiConfig() api.Config {
	return api.Config{
		Store: c.store, Catalog: c.catalog, Link: c.link, Deltas: c.deltas, Transfer: c.transfer, Policies: c.policies, Watch: new(watch.Hub), CA: c.keys.CA,
		TLS:   pki.ServerTLS(c.own, c.keys.CA.Certificate()),
		Build: buildinfo.Version(), Started: c.cfg.Now(), Limits: c.cfg.Limits, Now: c.cfg.Now, Log: c.cfg.Log, Metrics: c.registry,
	}
}

// Addr is the address that the controller listens on.
func (c *Controller) Addr() net.Addr { return c.listener.Addr() }

// Close frees what New opened, if Run is not called.
func (c *Controller) Close() error {
	var errs []error
	if c.listener != nil {
		errs = append(errs, c.listener.Close())
	}
	if c.store != nil {
		errs = append(errs, c.store.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends or a part cannot go on; then it drains, writes what is in memory and closes the data directory. It must be called once.
func (c *Controller) Run(ctx context.Context) error {
	tasks := []task.Task{
		{Name: "api", Run: func(ctx context.Context) error { return c.api.Serve(ctx, c.listener) }},
		{Name: "link", Run: c.link.Run},
		{Name: "catalog", Run: c.catalog.Run},
		{Name: "deltas", Run: c.deltas.Run},
		{Name: "certificates", Run: c.watchCertificates},
		{Name: "audit", Run: c.verifyAudit},
	}
	if c.cfg.Metrics != "" {
		tasks = append(tasks, task.Task{Name: "metrics", Run: func(ctx context.Context) error {
			return telemetry.ServeMetrics(ctx, c.cfg.Metrics, c.registry)
		}})
	}
	c.cfg.Log.Info("controller serves", "addr", c.Addr(), "build", buildinfo.Version(), "fingerprint", c.keys.CA.Fingerprint())
	err := task.Run(ctx, c.cfg.Log, tasks...)
	err = errors.Join(err, c.store.Close())
	c.cfg.Log.Info("controller stopped")
	return err
}

// verifyAudit checks the audit log once and then waits for the end.
func (c *Controller) verifyAudit(ctx context.Context) error {
	if err := c.store.VerifyAudit(ctx); err != nil && ctx.Err() == nil {
		c.cfg.Log.Error("the audit log was tampered with or is damaged", "err", err)
	}
	<-ctx.Done()
	return nil
}

// spaceGauges tell about the file system of the chunks; they are zero when it cannot be asked.
func spaceGauges(disk *chunkstore.Disk) []prometheus.Collector {
	gauge := func(name, help string, pick func(free, size uint64) uint64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_controller_" + name, Help: help}, func() float64 {
			free, size, err := disk.Space()
			if err != nil {
				return 0
			}
			return float64(pick(free, size))
		})
	}
	return []prometheus.Collector{
		gauge("chunk_space_free_bytes", "Bytes that chunks may still take.", func(free, _ uint64) uint64 { return free }),
		gauge("chunk_space_size_bytes", "Size of the file system that holds the chunks.", func(_, size uint64) uint64 { return size }),
	}
}
