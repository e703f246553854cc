package link

import (
	"context"
	"fmt"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// planner makes desired states and numbers them. It keeps those that are up to date.
type planner struct {
	store *store.Store

	make sync.Mutex // held while states are made, so that a revision is given once

	mu         sync.Mutex
	generation uint64 // grows with each invalidation
	plans      map[string]fleet.DesiredState
}

func (p *planner) invalidate(everywhere bool, sites []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	if everywhere {
		clear(p.plans)
	}
	for _, site := range sites {
		delete(p.plans, site)
	}
}

func (p *planner) kept(site string) (d fleet.DesiredState, ok bool, generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, ok = p.plans[site]
	return d, ok, p.generation
}

func (p *planner) keep(d fleet.DesiredState, generation uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generation == generation { // else something has changed since it was made
		p.plans[d.Site] = d
	}
}

// desired returns what a site needs, with the revision that it has: a state like the last one keeps its revision, a new one gets the next.
func (p *planner) desired(ctx context.Context, site string) (fleet.DesiredState, error) {
	if d, ok, _ := p.kept(site); ok {
		return d, nil
	}
	p.make.Lock()
	defer p.make.Unlock()
	d, ok, generation := p.kept(site)
	if ok {
		return d, nil
	}
	var plan store.Plan
	err := p.store.View(ctx, func(tx *store.Tx) error {
		view, err := tx.SiteView(site)
		if err != nil {
			return err
		}
		d = fleet.Compose(view)
		plan, _, err = tx.Plans().Find(site)
		return err
	})
	if err != nil {
		return d, err
	}
	sum, err := d.Sum()
	if err != nil {
		return d, err
	}
	d.Revision = plan.Revision
	if plan.Sum != sum {
		d.Revision++
		err := p.store.Record(ctx, func(tx *store.Tx) error {
			return tx.Plans().Put(site, store.Plan{Revision: d.Revision, Sum: sum})
		})
		if err != nil {
			return d, fmt.Errorf("number the desired state of site %s: %w", site, err)
		}
	}
	p.keep(d, generation)
	return d, nil
}
