// Package policies keeps the archives of all levels' policies, each in a file named by its SHA-256, and makes and undoes versions. What is in an archive
// it does not ask. An archive is on the disk before a version names it and goes after the last one that did has gone, so that whatever ends the
// process, each version that is kept has its archive; what is left over is removed at the next start.
package policies

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
)

// Config holds what a keeper works with.
type Config struct {
	Store *store.Store
	// Dir is the keeper's own: what it does not know there is removed. It is made if it is not there.
	Dir string
	// Now nil means time.Now.
	Now func() time.Time
	// Log nil discards.
	Log *slog.Logger
}

// Keeper is safe for concurrent use.
type Keeper struct {
	cfg Config

	// changing is held from before an archive is written until a version names it, and while those that none names are removed.
	changing sync.Mutex
}

// New makes the directory and removes what an interrupted run has left there.
func New(ctx context.Context, cfg Config) (*Keeper, error) {
	if cfg.Store == nil || cfg.Dir == "" {
		return nil, errors.New("policies: want a store and a directory")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of policies: %w", err)
	}
	k := &Keeper{cfg: cfg}
	return k, k.Collect(ctx)
}

// Draft is what shall become a version.
type Draft struct {
	Scope fleet.Scope
	Note  string
	// BasedOn is the version that it was made from; 0 asks for no check.
	BasedOn uint64
	Archive []byte
	Files   uint32
}

// Apply makes a draft the level's new version. created is false if the present version has the same archive; then that one is returned. fleet.ErrStale
// if the present version is another one than the draft was made from, fleet.ErrNotFound if there is no such site.
func (k *Keeper) Apply(ctx context.Context, actor string, d Draft) (v fleet.PolicyVersion, created bool, err error) {
	v = fleet.PolicyVersion{
		Scope: d.Scope.String(), SHA256: sha256.Sum256(d.Archive), SizeBytes: uint64(len(d.Archive)), Files: d.Files,
		Created: k.cfg.Now().UTC(), Author: actor, Note: d.Note,
	}
	if err := v.Check(); err != nil {
		return v, false, err
	}
	k.changing.Lock()
	defer k.changing.Unlock()
	if err := atomicfile.Write(k.path(v.SHA256), d.Archive, 0o600); err != nil {
		return v, false, err
	}
	change := &store.Change{Actor: actor, Action: "policy.apply", Object: v.Scope}
	err = k.cfg.Store.Update(ctx, change, func(tx *store.Tx) error {
		if err := exists(tx, d.Scope); err != nil {
			return err
		}
		present, ok, err := tx.Policies().Find(v.Scope)
		if err != nil {
			return err
		}
		if ok && present.SHA256 == v.SHA256 {
			v, created = present, false
			return nil
		}
		if d.BasedOn != 0 && d.BasedOn != present.Number {
			return fleet.Errorf(fleet.ErrStale, "the policy of %s has version %d by now, not %d; read it again", v.Scope, present.Number, d.BasedOn)
		}
		v, err = tx.PutPolicy(v)
		created = true
		change.Object = v.Name()
		return err
	})
	if err != nil {
		created = false
	}
	return v, created, errors.Join(err, k.collectLocked(context.WithoutCancel(ctx)))
}

// exists tells by fleet.ErrNotFound that there is no such site.
func exists(tx *store.Tx, scope fleet.Scope) error {
	if scope.Site == "" {
		return nil
	}
	_, err := tx.Sites().Get(scope.Site)
	return err
}

// Undo makes an earlier version's archive the level's new version; number 0 means the version before the present one. fleet.ErrNotFound if that
// is not kept, fleet.ErrState if it says what the present one says.
func (k *Keeper) Undo(ctx context.Context, actor string, scope fleet.Scope, number uint64) (fleet.PolicyVersion, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	var v fleet.PolicyVersion
	change := &store.Change{Actor: actor, Action: "policy.undo", Object: scope.String()}
	err := k.cfg.Store.Update(ctx, change, func(tx *store.Tx) error {
		present, err := tx.Policies().Get(scope.String())
		if err != nil {
			return err
		}
		if number == 0 && present.Number == 1 {
			return fleet.Errorf(fleet.ErrNotFound, "policy %s is the first one: there is nothing to go back to", present.Name())
		}
		if number == 0 {
			number = present.Number - 1
		}
		old, err := tx.PolicyVersion(scope.String(), number)
		if err != nil {
			return err
		}
		if old.SHA256 == present.SHA256 {
			return fleet.Errorf(fleet.ErrState, "policy %s is what is in force: %s", old.Name(), present.Name())
		}
		v = old
		v.Created, v.Author, v.UndoOf = k.cfg.Now().UTC(), actor, number
		v, err = tx.PutPolicy(v)
		change.Object = v.Name()
		return err
	})
	return v, err
}

// Open opens an archive for reading. fleet.ErrNotFound if no version names it any more.
func (k *Keeper) Open(sum fleet.Hash) (*os.File, error) {
	f, err := os.Open(k.path(sum))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fleet.Errorf(fleet.ErrNotFound, "there is no policy archive %s", sum)
	}
	return f, err
}

// Read returns a whole archive; its bytes are checked.
func (k *Keeper) Read(sum fleet.Hash) ([]byte, error) {
	archive, err := os.ReadFile(k.path(sum))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fleet.Errorf(fleet.ErrNotFound, "there is no policy archive %s", sum)
	}
	if err != nil {
		return nil, fmt.Errorf("read policy archive: %w", err)
	}
	if fleet.Hash(sha256.Sum256(archive)) != sum {
		return nil, fmt.Errorf("policy archive %s is damaged on the disk", k.path(sum))
	}
	return archive, nil
}

// Collect removes the archives that no version names.
func (k *Keeper) Collect(ctx context.Context) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	return k.collectLocked(ctx)
}

func (k *Keeper) collectLocked(ctx context.Context) error {
	var named map[fleet.Hash]bool
	err := k.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		named, err = tx.PolicyArchives()
		return err
	})
	if err != nil {
		return fmt.Errorf("list policy archives in use: %w", err)
	}
	entries, err := os.ReadDir(k.cfg.Dir)
	if err != nil {
		return fmt.Errorf("list policy archives: %w", err)
	}
	for _, e := range entries {
		var sum fleet.Hash
		if sum.UnmarshalText([]byte(e.Name())) == nil && named[sum] {
			continue
		}
		// What cannot be removed takes space and does no harm; the next time comes soon.
		if err := os.Remove(filepath.Join(k.cfg.Dir, e.Name())); err != nil {
			k.cfg.Log.Warn("a policy archive could not be removed", "err", err)
		}
	}
	return nil
}

func (k *Keeper) path(sum fleet.Hash) string { return filepath.Join(k.cfg.Dir, sum.String()) }
