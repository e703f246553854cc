package transfer

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// burst is how much a site may take at once.
const burst = 512 << 10

// caps holds one limiter per site that has a cap.
type caps struct {
	mu    sync.Mutex
	sites map[string]*rate.Limiter
}

// Pace waits until a site may take n more bytes; all transfers of a site share its cap. n must be at most 512 KiB. It follows changes of the cap.
type Pace func(ctx context.Context, n int) error

// Pace returns the brake of a site's transfers. It reads the cap once; a transfer is short.
func (p *Planner) Pace(ctx context.Context, site string) (Pace, error) {
	var limit uint64
	err := p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		s, err := tx.Sites().Get(site)
		limit = s.Transfer.BytesPerSecond
		return err
	})
	if err != nil {
		return nil, err
	}
	l := p.caps.limiter(site, limit)
	if l == nil {
		return func(context.Context, int) error { return nil }, nil
	}
	return func(ctx context.Context, n int) error {
		if err := l.WaitN(ctx, n); err != nil {
			return fleet.Errorf(fleet.ErrState, "bandwidth cap of site %s: %v", site, err)
		}
		return nil
	}, nil
}

func (c *caps) limiter(site string, bytesPerSecond uint64) *rate.Limiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytesPerSecond == 0 {
		delete(c.sites, site)
		return nil
	}
	l := c.sites[site]
	if l == nil {
		if c.sites == nil {
			c.sites = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
		c.sites[site] = l
	}
	if l.Limit() != rate.Limit(bytesPerSecond) {
		l.SetLimit(rate.Limit(bytesPerSecond))
	}
	return l
}
