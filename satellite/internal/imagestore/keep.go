package imagestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// NoSpaceError says how much room a version lacks. It is an ErrNoSpace.
type NoSpaceError struct {
	Dir                 string
	Need, Free, Reserve uint64 // bytes
}

func (e *NoSpaceError) Error() string {
	missing := e.Need + e.Reserve - min(e.Free, e.Need+e.Reserve)
	return fmt.Sprintf("%s: the file system of %s lacks %d MB: needed %d MB, free %d MB, of which %d MB stay reserved",
		ErrNoSpace, e.Dir, mega(missing), mega(e.Need), mega(e.Free), mega(e.Reserve))
}

// Unwrap makes it an ErrNoSpace.
func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

func mega(n uint64) uint64 { return (n + 999_999) / 1_000_000 }

func statfs(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// A Wish is a wanted version and the image that it belongs to.
type Wish struct {
	ID    manifest.ID
	Image string
}

// Keep tells which versions are wanted. All others are removed but the Config.Retain most recently wanted of each image of which
// some version is wanted. A version that is in use, or was within Config.Linger, stays until Sweep finds it idle. What else lies in
// incoming goes at once.
func (s *Store) Keep(wishes []Wish) error {
	now := s.cfg.Now()
	wanted := make([]manifest.ID, 0, len(wishes))
	retain := make(map[string]int)
	for _, w := range wishes {
		wanted = append(wanted, w.ID)
		retain[w.Image] = s.cfg.Retain
	}
	s.mu.Lock()
	for id, v := range s.versions {
		v.wanted = slices.Contains(wanted, id)
		if v.wanted {
			v.since, v.doomed = now, false
		}
	}
	losers := s.losersLocked(retain)
	s.mu.Unlock()
	var errs []error
	for _, id := range wanted {
		// The stamp survives a restart, so that "the previous version" does.
		if err := os.Chtimes(s.dir(id), now, now); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("stamp version %s: %w", id, err))
		}
	}
	for _, id := range losers {
		errs = append(errs, s.discard(id))
	}
	errs = append(errs, s.dropIncoming(wanted))
	return errors.Join(errs...)
}

// losersLocked returns the versions that neither wish nor retention keeps. left says how many spare versions of each image may stay.
func (s *Store) losersLocked(left map[string]int) []manifest.ID {
	var losers []manifest.ID
	for _, v := range s.sparesLocked() {
		name := v.info.Manifest.Name
		if v.place == imagesName && left[name] > 0 {
			left[name]--
			v.doomed = false
			continue
		}
		losers = append(losers, v.info.ID)
	}
	return losers
}

// sparesLocked returns the versions that are not wanted, the most recently wanted first.
func (s *Store) sparesLocked() []*version {
	var spare []*version
	for _, v := range s.versions {
		if !v.wanted {
			spare = append(spare, v)
		}
	}
	slices.SortFunc(spare, func(a, b *version) int {
		if c := b.since.Compare(a.since); c != 0 {
			return c
		}
		return slices.Compare(b.info.ID[:], a.info.ID[:])
	})
	return spare
}

// Sweep removes versions that Keep had to leave because they were in use. Call it every minute or so.
func (s *Store) Sweep() error {
	s.mu.Lock()
	var idle []manifest.ID
	for id, v := range s.versions {
		if v.doomed && !s.busyLocked(v) {
			idle = append(idle, id)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, id := range idle {
		errs = append(errs, s.remove(id))
	}
	return errors.Join(errs...)
}

// discard removes a version, now or in a later Sweep.
func (s *Store) discard(id manifest.ID) error {
	s.mu.Lock()
	v, ok := s.versions[id]
	if !ok {
		s.mu.Unlock()
		return nil
	}
	v.doomed = true
	busy := s.busyLocked(v)
	s.mu.Unlock()
	if busy {
		return nil
	}
	return s.remove(id)
}

// remove deletes a version that is not in use. The rename comes first: no crash leaves a half version in images.
func (s *Store) remove(id manifest.ID) error {
	trash := filepath.Join(s.incomingDir(), "removed-"+id.String())
	s.mu.Lock()
	v, ok := s.versions[id]
	if !ok || s.busyLocked(v) || v.wanted {
		s.mu.Unlock()
		return nil
	}
	err := os.Rename(filepath.Join(s.cfg.Dir, v.place, id.String()), trash)
	if err == nil {
		delete(s.versions, id)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove version %s: %w", id, err)
	}
	s.log.Info("version removed", "image", v.info.Manifest.Name, "number", v.info.Manifest.Number, "version", id)
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove version %s: %w", id, err)
	}
	return atomicfile.SyncDir(s.imagesDir())
}

// known tells whether clients read, or read a moment ago, a version that lies in incoming: then Sweep removes it.
func (s *Store) known(id manifest.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.versions[id]
	return ok
}

// dropIncoming removes what has begun to arrive but is not wanted any more.
func (s *Store) dropIncoming(wanted []manifest.ID) error {
	entries, err := os.ReadDir(s.incomingDir())
	if err != nil {
		return fmt.Errorf("look through incoming: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, err := manifest.ParseID(e.Name())
		if err != nil || slices.Contains(wanted, id) || s.known(id) {
			continue
		}
		errs = append(errs, os.RemoveAll(s.incomingPath(id)))
	}
	return errors.Join(errs...)
}

// makeRoom sees to it that need bytes fit beside the reserve, removing spare versions, the longest unwanted first, if it must. If
// removing all of them would not be enough, none is removed.
func (s *Store) makeRoom(need uint64) error {
	for {
		free, _, err := s.Space()
		if err != nil {
			return err
		}
		if free >= need+s.cfg.ReserveBytes {
			return nil
		}
		id, spare, ok := s.victim()
		if !ok || free+spare < need+s.cfg.ReserveBytes {
			return &NoSpaceError{Dir: s.cfg.Dir, Need: need, Free: free, Reserve: s.cfg.ReserveBytes}
		}
		s.log.Info("removing a former version to make room", "version", id)
		if err := s.discard(id); err != nil {
			return err
		}
	}
}

// victim returns the longest unwanted version that nobody uses, and how many bytes all such versions hold.
func (s *Store) victim() (id manifest.ID, spareBytes uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.sparesLocked() {
		if !s.busyLocked(v) && v.place == imagesName {
			id, ok = v.info.ID, true
			spareBytes += diskBytes(v.info.Manifest)
		}
	}
	return id, spareBytes, ok
}
