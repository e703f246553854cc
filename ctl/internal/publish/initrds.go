package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/initrd"
	"github.com/ltsp-fleet/ltsp-fleet/internal/inspect"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// ErrAgent says that the agent's binary cannot be used.
var ErrAgent = errors.New("the agent binary cannot be used")

// initrdRules is part of the cache's key; raise it when package initrd makes other bytes of the same input.
const initrdRules = "1"

// cachedInitrds is how many made initrds the cache keeps.
const cachedInitrds = 16

// maxAgentBytes bounds the agent: it is held in memory.
const maxAgentBytes = 64 << 20

// addInitrds makes both initrds of the image, or takes them from the cache.
func (p *Prepared) addInitrds(ctx context.Context, image fs.FS, report *inspect.Report, o Options) error {
	agent, err := readAgent(o.Agent, report.Arch)
	if err != nil {
		return err
	}
	squash, _ := p.Draft.Artifact(manifest.Squashfs)
	for _, which := range []struct {
		artifact string
		set      initrd.Set
	}{{manifest.InitrdFull, initrd.Full}, {manifest.InitrdSchool, initrd.School}} {
		h := sha256.New()
		agentSum := sha256.Sum256(agent)
		h.Write(squash.SHA256[:])
		h.Write(agentSum[:])
		h.Write([]byte(initrdRules + which.set.String()))
		key := hex.EncodeToString(h.Sum(nil))
		build := func(w io.Writer) error {
			told := o.Step("making the " + which.set.String() + " initrd")
			_, err := initrd.Build(ctx, image, initrd.Options{Set: which.set, KernelRelease: report.KernelRelease, Agent: agent, Firmware: true, Progress: told}, w)
			return err
		}
		if err := p.addTemp(ctx, which.artifact, func(w io.Writer) error { return cached(o.CacheDir, key, build, w) }); err != nil {
			return err
		}
	}
	return nil
}

// readAgent reads the agent and checks that it is a program for the architecture that needs no libraries.
func readAgent(path, arch string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAgent, err)
	}
	if info.Size() > maxAgentBytes {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrAgent, path, info.Size(), maxAgentBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAgent, err)
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is no program: %w", ErrAgent, path, err)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if want := machines[arch]; program.Machine != want {
		return nil, fmt.Errorf("%w: %s is for %s, the image for %s; name another by --agent", ErrAgent, path, program.Machine, arch)
	}
	if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, fmt.Errorf("%w: %s needs shared libraries, which an initrd does not have", ErrAgent, path)
	}
	return data, nil
}

// cached writes what build makes to w, from the cache if it is there. Without a cache, or when the cache fails, it builds.
func cached(dir, key string, build func(io.Writer) error, w io.Writer) error {
	if dir == "" || os.MkdirAll(dir, 0o755) != nil {
		return build(w)
	}
	path := filepath.Join(dir, key)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WriteFunc(path, 0o644, build); err != nil {
			return err
		}
		prune(dir)
		f, err = os.Open(path)
	}
	if err != nil {
		return build(w)
	}
	defer f.Close()
	now := time.Now()
	_ = os.Chtimes(path, now, now) // marks it as used; if that fails it is only thrown out earlier
	_, err = io.Copy(w, f)
	return err
}

// prune removes the entries of the cache that were not used for the longest time.
func prune(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	type entry struct {
		path string
		used time.Time
	}
	var all []entry
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && len(e.Name()) == 64 {
			all = append(all, entry{filepath.Join(dir, e.Name()), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return b.used.Compare(a.used) })
	for _, e := range all[min(len(all), cachedInitrds):] {
		_ = os.Remove(e.path)
	}
}
