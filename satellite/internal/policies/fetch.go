package policies

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Back-off after a failed fetch: a random part of a bound that doubles.
const (
	backoffBase = time.Second
	backoffMax  = time.Minute
)

// Kick has what failed tried again now: the controller is back.
func (k *Keeper) Kick() { poke(k.kick) }

// Run fetches what is missing until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	failures := 0
	for {
		var again <-chan time.Time
		if err := k.fetchMissing(ctx); err != nil && ctx.Err() == nil {
			failures++
			again = time.After(backoff(failures))
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.wake: // by a new desired state: what failed before may not be wanted any more
		case <-k.kick:
			failures = 0
		case <-again:
		}
	}
}

func backoff(failures int) time.Duration {
	bound := min(backoffBase<<min(failures-1, 10), backoffMax)
	return bound/2 + rand.N(bound/2+1)
}

// fetchMissing fetches one archive after the other; each time it looks anew at what is wanted. The first error ends it.
func (k *Keeper) fetchMissing(ctx context.Context) error {
	for ctx.Err() == nil {
		k.mu.Lock()
		missing := k.missingLocked()
		k.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		l := missing[0]
		err := k.fetch(ctx, l)
		if ctx.Err() != nil {
			break
		}
		k.metrics.fetched(err)
		if err != nil {
			k.log.Warn("policy not fetched", "scope", l.Scope, "version", l.Number, "err", err)
			k.cfg.Problem("policy", fmt.Sprintf("the new policy is not complete, clients keep the one before: %v", err))
			return err
		}
	}
	return ctx.Err()
}

// fetch brings an archive to the disk, proven, and puts the wanted policy in force if it was the last.
func (k *Keeper) fetch(ctx context.Context, l config.PolicyLayer) error {
	var archive bytes.Buffer
	if err := k.cfg.Source.FetchPolicy(ctx, l, &archive); err != nil {
		return err
	}
	if policy.Sum(archive.Bytes()) != l.SHA256 {
		return fmt.Errorf("the archive of %s, version %d, arrived with another digest", l.Scope, l.Number)
	}
	confs, err := configurations(archive.Bytes())
	if err != nil {
		return fmt.Errorf("the archive of %s, version %d, is unusable: %w", l.Scope, l.Number, err)
	}
	if err := k.store(l, archive.Bytes(), confs); err != nil {
		return err
	}
	k.mu.Lock()
	settled := k.settleLocked()
	if settled {
		k.states = nil
	}
	k.mu.Unlock()
	if settled {
		k.flush()
		k.cfg.Changed()
	}
	return nil
}

func (k *Keeper) store(l config.PolicyLayer, archive []byte, confs map[string][]byte) error {
	k.disk.Lock()
	defer k.disk.Unlock()
	if err := atomicfile.Write(k.path(l.SHA256), archive, 0o600); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have[l.SHA256] = confs
	return nil
}
