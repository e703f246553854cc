package imagestore

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// maxPlanBytes bounds what is read of a plan file.
const maxPlanBytes = 4 << 20

// deltaFile is the delta by which a squashfs comes.
type deltaFile struct {
	plan config.Delta
	file *os.File
}

// withoutSquashfs takes the squashfs's chunk list out of a manifest, in both forms.
func withoutSquashfs(signed []byte, m *manifest.Manifest) ([]byte, error) {
	for i := range m.Artifacts {
		if a := &m.Artifacts[i]; a.Name == manifest.Squashfs {
			a.Chunks = nil
		}
	}
	return manifest.WithLists(signed, m, nil)
}

// readPlan reads which delta was begun in dir; nil if there is none that makes sense.
func readPlan(dir string) *config.Delta {
	path := filepath.Join(dir, planName)
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxPlanBytes {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	d := new(config.Delta)
	if json.Unmarshal(text, d) != nil || d.Validate() != nil {
		return nil
	}
	return d
}

// openDelta opens the delta file in dir. What another delta left there is of no use.
func openDelta(dir string, d *config.Delta) (*deltaFile, error) {
	path := filepath.Join(dir, deltaName)
	if old := readPlan(dir); old == nil || old.SHA256 != d.SHA256 || old.Size != d.Size {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(dir, planName), text, 0o644); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(d.Size); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &deltaFile{plan: *d, file: f}, nil
}

// Disk returns the file that becomes the version's disk, of full length; nil without a squashfs. It belongs to the Incoming.
func (in *Incoming) Disk() *os.File {
	for i := range in.m.Artifacts {
		if fileName(&in.m.Artifacts[i]) == diskFile {
			return in.files[i]
		}
	}
	return nil
}

// Delta returns the delta by which the squashfs comes and the file for it, of full length and sparse; nil if it comes as chunks. The file
// belongs to the Incoming.
func (in *Incoming) Delta() (*config.Delta, *os.File) {
	if in.delta == nil {
		return nil, nil
	}
	return &in.delta.plan, in.delta.file
}

// Explain turns the error of a full disk into a *NoSpaceError; other errors come back as they are.
func (in *Incoming) Explain(err error) error {
	if err == nil {
		return nil
	}
	return in.lacks(err)
}

// Lacks returns the artifacts that have no chunk list and are not here, the squashfs of a delta left out: PutFile brings them, or a Begin
// with their lists.
func (in *Incoming) Lacks() []manifest.Artifact {
	in.mu.Lock()
	defer in.mu.Unlock()
	var out []manifest.Artifact
	for i := range in.m.Artifacts {
		if a := &in.m.Artifacts[i]; !a.Listed() && !in.whole[i] && fileName(a) != diskFile {
			out = append(out, *a)
		}
	}
	return out
}

// PutFile writes an artifact that has no chunk list. ErrCorrupt if what r gives is not the artifact, ErrUnknown if there is no such one.
func (in *Incoming) PutFile(ctx context.Context, name string, r io.Reader) error {
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		if a.Name != name || a.Listed() || fileName(a) == diskFile {
			continue
		}
		h := sha256.New()
		w := io.NewOffsetWriter(in.files[i], 0)
		limited := io.LimitReader(&ctxReader{ctx: ctx, r: r}, int64(a.Size)+1)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(h, w)}, limited, make([]byte, 256<<10))
		if err != nil {
			return fmt.Errorf("file %q of version %s: %w", name, in.id, in.lacks(err))
		}
		if n != int64(a.Size) || [32]byte(h.Sum(nil)) != a.SHA256 {
			return fmt.Errorf("file %q of version %s: %w", name, in.id, ErrCorrupt)
		}
		in.markWhole(i)
		return nil
	}
	return fmt.Errorf("file %q of version %s: %w", name, in.id, ErrUnknown)
}

func (in *Incoming) markWhole(i int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.whole[i] {
		in.whole[i] = true
		in.done += in.m.Artifacts[i].Size
	}
}

// scanFiles marks the artifacts without a chunk list that are here.
func (in *Incoming) scanFiles(ctx context.Context) error {
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		if a.Listed() || fileName(a) == diskFile {
			continue
		}
		err := checkSum(ctx, a, in.files[i])
		switch {
		case err == nil:
			in.markWhole(i)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	return nil
}

// Serve lets clients open the version while its squashfs arrives: reads makes them wait for what is lacking. All other artifacts must be here;
// their SHA-256 is checked.
func (in *Incoming) Serve(ctx context.Context, reads Reads) error {
	if in.delta == nil || len(in.Missing()) > 0 || len(in.Lacks()) > 0 {
		return fmt.Errorf("serve version %s: it is not that far", in.id)
	}
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		if fileName(a) == diskFile {
			continue
		}
		if err := checkSum(ctx, a, in.files[i]); err != nil {
			return fmt.Errorf("serve version %s: %w", in.id, err)
		}
	}
	s := in.store
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.versions[in.id]
	if !ok {
		v = &version{info: describe(in.id, in.m), place: incomingName}
		s.versions[in.id] = v
	}
	v.serving, v.wanted, v.doomed, v.since = true, true, false, s.cfg.Now()
	v.reads.Store(&reads)
	return nil
}

// withhold ends the serving of a version that is arriving. It stays known as long as somebody reads it.
func (s *Store) withhold(id manifest.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.versions[id]
	if !ok || v.place != incomingName {
		return
	}
	v.serving = false
	if !s.busyLocked(v) {
		delete(s.versions, id)
	}
}

// forgetDelta removes what only the transfer needed, and completes the manifest: chunk lists that it lacks are computed, and put in if they are
// the ones that were signed. So a version is the same on the disk whichever way it came.
func (in *Incoming) forgetDelta(ctx context.Context) error {
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		if a.Listed() {
			continue
		}
		cut := chunk.CutFixed
		if a.Name == manifest.Squashfs {
			cut = chunk.CutSquashfs
		}
		refs, err := cut(ctx, in.files[i], int64(a.Size), nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			err = a.SetList(refs)
		}
		if err != nil {
			// Cut by other rules than ours: other versions can't take chunks from it, and that is all.
			in.store.log.Warn("chunk list can't be computed", "version", in.id, "err", err)
		}
	}
	path := filepath.Join(in.dir, manifestFile)
	signed, err := os.ReadFile(path)
	if err == nil {
		signed, err = manifest.WithLists(signed, in.m, nil)
	}
	if err == nil {
		err = atomicfile.Write(path, signed, 0o644)
	}
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(in.dir, deltaName)), os.Remove(filepath.Join(in.dir, planName)))
}
