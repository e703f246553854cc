// Package transfer answers satellites' question how a version should come to them: it gathers what the decision of syncplan depends on, has the
// deltas made that it wants, and holds each site to its bandwidth cap.
//
// Metrics: ltsp_controller_sync_plans_total{method}.
package transfer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/syncplan"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Config holds what a Planner works with. Store, Catalog and Deltas must be set.
type Config struct {
	Store   *store.Store
	Catalog *catalog.Catalog
	Deltas  *deltas.Maker
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Planner is safe for concurrent use.
type Planner struct {
	cfg   Config
	plans *prometheus.CounterVec
	caps  caps
}

// New checks the configuration.
func New(cfg Config) (*Planner, error) {
	if cfg.Store == nil || cfg.Catalog == nil || cfg.Deltas == nil {
		return nil, errors.New("transfer: a collaborator is missing")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Planner{cfg: cfg, plans: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_controller_sync_plans_total", Help: "Plans made for satellites, by method: delta, chunks, whole or wait.",
	}, []string{"method"})}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(p.plans)
	}
	return p, nil
}

// Request is a satellite's question. Rates are in bytes a second, 0 if not known.
type Request struct {
	Site             string
	Version          manifest.ID
	Have             []manifest.ID // proven on the satellite
	Link, Recompress uint64
	Begun            chunk.ID // SHA-256 of a delta that was begun, or zero
	Failure          string   // why the last attempt ended
}

// Answer is a plan and, if it is a delta, which one.
type Answer struct {
	Plan  fleet.SyncPlan
	Delta deltas.Info
	First []uint32 // groups that booting clients want first
}

// view is what the database says about a request.
type view struct {
	transfer fleet.Transfer
	version  fleet.Version
	bases    []fleet.Version
	traces   map[manifest.ID]fleet.Trace
}

// Plan decides. A delta that is worth its making is requested.
func (p *Planner) Plan(ctx context.Context, r Request) (Answer, error) {
	v, err := p.look(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	in := syncplan.Input{Policy: v.transfer.Method, Link: r.Link, Cap: v.transfer.BytesPerSecond, Recompress: r.Recompress, Now: p.cfg.Now().UTC()}
	if in.Chunks, in.Whole, err = p.cfg.Catalog.MissingBytes(ctx, r.Version, r.Have); err != nil {
		return Answer{}, err
	}
	for _, base := range v.bases {
		in.Deltas = append(in.Deltas, p.candidate(r, v, base, in))
	}
	d := syncplan.Decide(in)
	if d.Make != (manifest.ID{}) {
		p.cfg.Deltas.Request(deltas.Pair{From: d.Make, To: r.Version}, false)
	}
	p.plans.WithLabelValues(string(d.Plan.Method)).Inc()
	a := Answer{Plan: d.Plan}
	if d.Plan.Method != fleet.SyncDelta {
		return a, nil
	}
	pair := deltas.Pair{From: d.Plan.Base, To: r.Version}
	a.Delta = p.cfg.Deltas.Find(pair)
	if a.First, err = p.cfg.Deltas.First(ctx, pair, v.traces[r.Version], v.traces[d.Plan.Base]); err != nil {
		// Any order will do; the best one is lost.
		p.cfg.Log.Warn("the boot trace could not be applied to a delta", "delta", pair, "err", err)
	}
	return a, nil
}

// maxBases is how many versions at hand are considered: the newest of the same image, and others of the same architecture behind.
const maxBases = 3

func (p *Planner) look(ctx context.Context, r Request) (view, error) {
	v := view{traces: map[manifest.ID]fleet.Trace{}}
	err := p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		site, err := tx.Sites().Get(r.Site)
		if err != nil {
			return err
		}
		v.transfer = site.Transfer
		var ok bool
		if v.version, ok, err = tx.VersionByID(r.Version); err != nil {
			return err
		}
		if !ok {
			return fleet.Errorf(fleet.ErrNotFound, "there is no version with the ID %s", r.Version)
		}
		var all []fleet.Version
		for _, id := range r.Have {
			base, ok, err := tx.VersionByID(id)
			if err != nil {
				return err
			}
			if ok {
				all = append(all, base)
			}
		}
		if v.version.Kind == manifest.Image {
			v.bases = bases(v.version, all)
		}
		for _, id := range append([]manifest.ID{r.Version}, ids(v.bases)...) {
			trace, ok, err := tx.Traces().Find(id.String())
			if err != nil {
				return err
			}
			if ok {
				v.traces[id] = trace
			}
		}
		return nil
	})
	return v, err
}

func ids(versions []fleet.Version) []manifest.ID {
	out := make([]manifest.ID, len(versions))
	for i := range versions {
		out[i] = versions[i].ID
	}
	return out
}

// Guesses for a delta that nobody has made yet, from measured updates of desktop images: a delta costs about a third of the chunks where much is new,
// less than a tenth where little is; the careful guess counts. What must be recompressed is about three times the chunks.
const (
	guessBytes = 3 // chunks' bytes divided by this
	guessRaw   = 3 // chunks' bytes times this
)

func (p *Planner) candidate(r Request, v view, base fleet.Version, in syncplan.Input) syncplan.Delta {
	d := syncplan.Delta{Base: base.ID, BaseName: base.Name(), Bytes: in.Chunks / guessBytes, Raw: in.Chunks * guessRaw}
	info := p.cfg.Deltas.Find(deltas.Pair{From: base.ID, To: r.Version})
	switch info.State {
	case deltas.Ready:
		d.Readiness, d.Bytes, d.Raw = syncplan.Ready, info.Size, info.RawBytes
		d.Begun = !r.Begun.IsZero() && info.SHA256 == r.Begun
		if r.Failure != "" && d.Begun {
			d.Readiness, d.Why = syncplan.Impossible, "the satellite could not apply it: "+r.Failure
		}
	case deltas.Queued:
		d.Readiness = syncplan.Queued
	case deltas.Making:
		d.Readiness = syncplan.Making
	case deltas.Failed:
		if p.cfg.Deltas.Retry(deltas.Pair{From: base.ID, To: r.Version}) {
			d.Readiness = syncplan.Possible
			break
		}
		d.Readiness, d.Why = syncplan.Impossible, "it could not be made: "+info.Error
	case deltas.None:
		d.Readiness = syncplan.Possible
	}
	return d
}
