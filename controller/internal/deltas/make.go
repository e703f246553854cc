package deltas

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// tempPrefix begins the names of files that are not complete.
const tempPrefix = "making-"

// load reads what is kept and removes what an interrupted run left.
func (m *Maker) load() error {
	files, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		name := f.Name()
		base, isDelta := strings.CutSuffix(name, ".delta")
		if isDelta && m.loadOne(base) == nil {
			continue
		}
		if base, ok := strings.CutSuffix(name, ".json"); ok {
			if _, err := os.Stat(filepath.Join(m.cfg.Dir, base+".delta")); err == nil {
				continue
			}
		}
		if strings.HasPrefix(name, tempPrefix) || isDelta || strings.HasSuffix(name, ".json") {
			if err := os.Remove(filepath.Join(m.cfg.Dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Maker) loadOne(name string) error {
	from, to, _ := strings.Cut(name, "-")
	var p Pair
	var err error
	if p.From, err = manifest.ParseID(from); err != nil {
		return err
	}
	if p.To, err = manifest.ParseID(to); err != nil {
		return err
	}
	raw, err := os.ReadFile(m.path(p, ".json"))
	if err != nil {
		return err
	}
	e := &entry{info: Info{Pair: p, State: Ready}}
	if err := json.Unmarshal(raw, &e.info); err != nil {
		return err
	}
	stat, err := os.Stat(m.path(p, ".delta"))
	if err != nil {
		return err
	}
	if uint64(stat.Size()) != e.info.Size {
		return errors.New("its size is not what its description says")
	}
	e.used = stat.ModTime()
	m.entries[p] = e
	return nil
}

// Run makes the deltas that were asked for until ctx ends.
func (m *Maker) Run(ctx context.Context) error {
	for {
		p, ok := m.next()
		if !ok {
			select {
			case <-ctx.Done():
				return nil
			case <-m.wake:
			}
			continue
		}
		m.run(ctx, p)
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (m *Maker) next() (Pair, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return Pair{}, false
	}
	p := m.queue[0]
	m.queue = m.queue[1:]
	m.entries[p].info.State = Making
	m.changedLocked()
	return p, true
}

func (m *Maker) run(ctx context.Context, p Pair) {
	start, cpu := m.cfg.Now(), processCPU()
	info, err := m.make(ctx, p)
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[p]
	switch {
	case ctx.Err() != nil:
		delete(m.entries, p) // it is asked for again after a restart
	case err != nil:
		m.metrics.made.WithLabelValues("failed").Inc()
		m.cfg.Log.Error("delta could not be made; satellites take chunks instead", "from", p.From, "to", p.To, "err", err)
		e.info = Info{Pair: p, State: Failed, Error: err.Error()}
		e.used = m.cfg.Now()
	default:
		m.metrics.made.WithLabelValues("ok").Inc()
		m.metrics.seconds.Observe(m.cfg.Now().Sub(start).Seconds())
		info.CPU = fleet.Duration(processCPU() - cpu)
		e.info, e.used = info, m.cfg.Now()
		m.cfg.Log.Info("delta made", "from", p.From, "to", p.To, "bytes", info.Size, "dur", m.cfg.Now().Sub(start))
	}
	m.changedLocked()
}

// make makes one delta and puts it in place.
func (m *Maker) make(ctx context.Context, p Pair) (Info, error) {
	from, fromDigest, err := m.cfg.Library.Open(ctx, p.From)
	if err != nil {
		return Info{}, err
	}
	to, toDigest, err := m.cfg.Library.Open(ctx, p.To)
	if err != nil {
		return Info{}, err
	}
	return m.place(p, func(w io.Writer) (*delta.Stats, error) {
		return delta.Make(ctx, from, to, w, delta.Options{
			MemoryBytes: m.cfg.MemoryBytes, Parallel: m.cfg.Parallel, Progress: m.progress(p), OldDigest: fromDigest, NewDigest: toDigest, TempDir: m.cfg.Dir,
		})
	})
}

func (m *Maker) progress(p Pair) func(string, int64, int64) {
	var last time.Time
	var stage string
	return func(s string, done, total int64) {
		now := m.cfg.Now()
		if s == stage && now.Sub(last) < 200*time.Millisecond {
			return
		}
		last, stage = now, s
		m.mu.Lock()
		defer m.mu.Unlock()
		if e := m.entries[p]; e != nil && e.info.State == Making {
			e.info.Stage, e.info.Done, e.info.Total = s, done, total
			m.changedLocked()
		}
	}
}

// Adopt takes in a delta that an admin's machine made and that has been applied successfully.
func (m *Maker) Adopt(p Pair, r io.Reader) error {
	info, err := m.place(p, func(w io.Writer) (*delta.Stats, error) {
		_, err := io.Copy(w, r)
		return nil, err
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[p]; e != nil && e.info.State == Making {
		return nil // it is being replaced by an equal one right now
	}
	m.entries[p] = &entry{info: info, used: m.cfg.Now()}
	m.changedLocked()
	return nil
}

// place writes a delta to a temporary file and moves it to its name, behind its description.
func (m *Maker) place(p Pair, write func(io.Writer) (*delta.Stats, error)) (Info, error) {
	f, err := os.CreateTemp(m.cfg.Dir, tempPrefix)
	if err != nil {
		return Info{}, err
	}
	defer func() {
		_ = f.Close()           // it was synced, or is of no use
		_ = os.Remove(f.Name()) // gone already if it was moved
	}()
	h := sha256.New()
	stats, err := write(io.MultiWriter(f, h))
	if err != nil {
		return Info{}, err
	}
	if err := f.Sync(); err != nil {
		return Info{}, err
	}
	info, err := describe(f, p)
	if err != nil {
		return Info{}, err
	}
	info.SHA256, info.Made, info.Stats = chunk.ID(h.Sum(nil)), m.cfg.Now().UTC(), stats
	raw, err := json.Marshal(info)
	if err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.makeRoomLocked(int64(info.Size)); err != nil {
		return Info{}, err
	}
	if err := atomicfile.Write(m.path(p, ".json"), raw, 0o600); err != nil {
		return Info{}, err
	}
	if err := os.Rename(f.Name(), m.path(p, ".delta")); err != nil {
		return Info{}, err
	}
	return info, atomicfile.SyncDir(m.cfg.Dir)
}

func describe(f *os.File, p Pair) (Info, error) {
	stat, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	index, err := delta.ReadIndex(io.NewSectionReader(f, 0, stat.Size()))
	if err != nil {
		return Info{}, err
	}
	info := Info{Pair: p, State: Ready, Size: uint64(stat.Size()), IndexBytes: uint64(index.IndexBytes)}
	if index.DeltaBytes != stat.Size() {
		return Info{}, fmt.Errorf("the file has %d bytes, its index says %d", stat.Size(), index.DeltaBytes)
	}
	for i := range index.Groups {
		info.RawBytes += uint64(index.Groups[i].RawBytes)
	}
	return info, nil
}

// processCPU is the CPU time that this process has used.
func processCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
