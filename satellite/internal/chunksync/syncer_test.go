package chunksync

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
)

// source is a controller in memory that can be told to fail.
type source struct {
	mu        sync.Mutex
	versions  map[manifest.ID]*versiontest.Version
	away      bool // every call fails
	failAfter int  // the next Fetch fails after so many chunks; 0: never
	corrupt   int  // so many chunks have a flipped bit
	withhold  int  // so many chunks are skipped
	signed    map[manifest.ID][]byte
	hold      chan struct{} // if not nil, each chunk waits for its close
	fetched   map[chunk.ID]int
	order     []manifest.ID // versions of Fetch calls, without repetition
	running   int
	most      int // Fetch calls at once

	deltas    map[[32]byte]*versiontest.Delta
	plan      func(config.PlanQuestion) (config.Plan, error) // nil: chunks
	questions []config.PlanQuestion
	sent      int64         // bytes of deltas
	cut       int64         // deltas are cut after so many bytes; 0: never
	dark      bool          // no delta is delivered
	gate      chan struct{} // if not nil, each 16 KiB of a delta that nobody waits for take a value first
	lists     [][]string    // asked for
}

func (s *source) PlanSync(_ context.Context, q config.PlanQuestion) (config.Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.questions = append(s.questions, q)
	if s.away {
		return config.Plan{}, errAway
	}
	if s.plan == nil {
		return config.Plan{Method: config.ByChunks, Reason: "for a test"}, nil
	}
	return s.plan(q)
}

func (s *source) FetchDelta(ctx context.Context, _ manifest.ID, d *config.Delta, off, length int64, urgent bool, sink func([]byte) error) error {
	for end := off + length; off < end; {
		n := min(16<<10, end-off)
		p, err := s.deltaBytes(ctx, d, off, n, urgent)
		if err != nil {
			return err
		}
		if err := sink(p); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (s *source) deltaBytes(ctx context.Context, d *config.Delta, off, n int64, urgent bool) ([]byte, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil && !urgent && off > 0 {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.deltas[d.SHA256]
	switch {
	case s.away || s.dark:
		return nil, errAway
	case file == nil:
		return nil, ErrGone
	case s.cut > 0 && s.sent+n > s.cut:
		return nil, errAway
	}
	s.sent += n
	return file.File[off : off+n], nil
}

var errAway = errors.New("away")

func (s *source) Manifest(_ context.Context, id manifest.ID, lists ...string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists = append(s.lists, lists)
	if s.away || s.versions[id] == nil {
		return nil, errAway
	}
	if other := s.signed[id]; other != nil {
		return other, nil
	}
	v := s.versions[id]
	return manifest.WithLists(v.Signed, v.Manifest, func(name string) bool { return slices.Contains(lists, "*") || slices.Contains(lists, name) })
}

func (s *source) Fetch(ctx context.Context, v manifest.ID, refs []chunk.Ref, deliver func(chunk.ID, []byte) error) error {
	s.mu.Lock()
	if n := len(s.order); n == 0 || s.order[n-1] != v {
		s.order = append(s.order, v)
	}
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	for _, ref := range refs {
		id := ref.ID
		data, err := s.chunk(ctx, v, id)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if err := deliver(id, data); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) chunk(ctx context.Context, v manifest.ID, id chunk.ID) ([]byte, error) {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, errAway
	}
	if s.failAfter > 0 {
		if s.failAfter--; s.failAfter == 0 {
			return nil, errAway
		}
	}
	if s.withhold > 0 {
		s.withhold--
		return nil, nil
	}
	s.fetched[id]++
	data := s.versions[v].Chunks[id]
	if s.corrupt > 0 {
		s.corrupt--
		data = bytes.Clone(data)
		data[0] ^= 1
	}
	return data, nil
}

// lab is a Syncer between a source and a store.
type lab struct {
	t        *testing.T
	src      *source
	store    *imagestore.Store
	sync     *Syncer
	dir      string
	key      ed25519.PrivateKey
	problems map[string]string
	mu       sync.Mutex
	cancel   context.CancelFunc
	done     chan struct{}
	cfg      func(*Config)
}

func newLab(t *testing.T) *lab {
	return &lab{t: t, dir: t.TempDir(), key: versiontest.Key(1), problems: make(map[string]string),
		src: &source{versions: make(map[manifest.ID]*versiontest.Version), fetched: make(map[chunk.ID]int), signed: make(map[manifest.ID][]byte),
			deltas: make(map[[32]byte]*versiontest.Delta)}}
}

// start starts the program; stop ends it.
func (l *lab) start(versions ...*versiontest.Version) {
	l.t.Helper()
	store, err := imagestore.Open(imagestore.Config{Dir: l.dir, Retain: 1, Parallel: 1,
		Keys: func() []ed25519.PublicKey { return []ed25519.PublicKey{l.key.Public().(ed25519.PublicKey)} }})
	if err != nil {
		l.t.Fatal(err)
	}
	l.store = store
	cfg := Config{Store: store, Source: l.src, Manifests: l.src, Streams: 3, BatchBytes: 150_000, BatchChunks: 4,
		Problem: func(key, text string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.problems, key)
			if text != "" {
				l.problems[key] = text
			}
		}}
	if l.cfg != nil {
		l.cfg(&cfg)
	}
	l.sync, err = New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.want(versions...)
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.done = cancel, make(chan struct{})
	go func() { defer close(l.done); _ = l.sync.Run(ctx) }()
}

func (l *lab) stop() {
	l.cancel()
	<-l.done
	_ = l.store.Close()
}

// want adds versions to the source and wants exactly them.
func (l *lab) want(versions ...*versiontest.Version) {
	var list []config.Version
	l.src.mu.Lock()
	for _, v := range versions {
		l.src.versions[v.ID] = v
		list = append(list, config.Version{Image: v.Manifest.Name, Number: v.Manifest.Number, ID: v.ID, Kind: v.Manifest.Kind})
	}
	l.src.mu.Unlock()
	l.sync.Want(list, nil)
}

func (l *lab) image(name string, number, seed uint64, data []byte) *versiontest.Version {
	return versiontest.Image(l.t, l.key, name, number, seed, data, 40_000)
}

func (l *lab) states() []State {
	var out []State
	for _, st := range l.sync.Status() {
		out = append(out, st.State)
	}
	return out
}

// verified fails unless exactly the given versions are wanted, verified and byte for byte on the disk.
func (l *lab) verified(versions ...*versiontest.Version) {
	l.t.Helper()
	status := l.sync.Status()
	if len(status) != len(versions) {
		l.t.Fatalf("%d versions wanted, want %d", len(status), len(versions))
	}
	for i, v := range versions {
		if st := status[i]; st.Version.ID != v.ID || st.State != Verified || st.Done != st.Total || st.Total != v.Manifest.TotalBytes() || st.Err != nil {
			l.t.Fatalf("status of version %d is %+v", v.Manifest.Number, st)
		}
		h, err := l.store.OpenExport(v.Manifest.ExportName())
		if err != nil {
			l.t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(h, 0, h.Size()))
		_ = h.Close()
		if err != nil || !bytes.Equal(got, v.Disk) {
			l.t.Fatalf("export of version %d differs (%v)", v.Manifest.Number, err)
		}
	}
}

// fetches counts the deliveries, and the chunks that came twice.
func (l *lab) fetches() (total, twice int) {
	for _, n := range l.src.fetched {
		total += n
		if n > 1 {
			twice++
		}
	}
	return total, twice
}

func TestSyncFetchesEachChunkOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 1_000_000))
		l.start(v)
		defer l.stop()
		synctest.Wait()
		l.verified(v)
		total, twice := l.fetches()
		if total != len(v.Chunks) || twice != 0 {
			t.Errorf("%d chunks fetched, %d of them twice, want %d", total, twice, len(v.Chunks))
		}
		if l.src.most > 3 {
			t.Errorf("%d streams at once, want at most 3", l.src.most)
		}
		if got := l.sync.Status()[0].Fetched; got != v.Manifest.TotalBytes() {
			t.Errorf("%d bytes fetched, want %d", got, v.Manifest.TotalBytes())
		}
	})
}

func TestFaultsOfTheSourceAreSurvived(t *testing.T) {
	tests := map[string]func(*source){
		"cut in the middle":   func(s *source) { s.failAfter = 9 },
		"wrong bytes":         func(s *source) { s.corrupt = 3 },
		"withheld chunks":     func(s *source) { s.withhold = 2 },
		"cut and wrong":       func(s *source) { s.failAfter, s.corrupt = 5, 1 },
		"first chunk refused": func(s *source) { s.failAfter = 1 },
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				v := l.image("lab", 1, 1, versiontest.Data(1, 1_000_000))
				fault(l.src)
				l.start(v)
				defer l.stop()
				l.untilVerified(1)
				l.verified(v)
				if len(l.problems) != 0 {
					t.Errorf("problems are left: %v", l.problems)
				}
			})
		})
	}
}

// untilVerified lets time pass until n versions are verified.
func (l *lab) untilVerified(n int) {
	l.t.Helper()
	for range 600 {
		synctest.Wait()
		got := 0
		for _, s := range l.states() {
			if s == Verified {
				got++
			}
		}
		if got == n {
			return
		}
		pause()
	}
	l.t.Fatalf("states are %v, problems %v", l.states(), l.problems)
}

func TestSyncWaitsForTheController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 500_000))
		l.src.away = true
		l.start(v)
		defer l.stop()
		for range 300 {
			pause()
		}
		synctest.Wait()
		if st := l.sync.Status()[0]; st.State != Waiting || !errors.Is(st.Err, errAway) {
			t.Fatalf("status %+v", st)
		}
		l.src.mu.Lock()
		l.src.away = false
		l.src.mu.Unlock()
		l.sync.Kick()
		synctest.Wait() // no time passes
		l.verified(v)
	})
}

func TestChunksOfOtherVersionsAreNotFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		data := versiontest.Data(1, 1_000_000)
		v1 := l.image("lab", 1, 1, data)
		changed := bytes.Clone(data)
		changed[500_000] ^= 1
		v2 := l.image("lab", 2, 1, changed)
		l.start(v1)
		defer l.stop()
		synctest.Wait()
		clear(l.src.fetched)
		l.want(v2)
		synctest.Wait()
		l.verified(v2)
		if total, _ := l.fetches(); total != 1 {
			t.Errorf("%d chunks fetched, want 1", total)
		}
		if info, ok := l.store.Find(v1.ID); !ok || !info.Verified {
			t.Error("the former version was not retained")
		}
	})
}

func TestRestartResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 1_000_000))
		l.src.failAfter = 12
		l.start(v)
		synctest.Wait()
		l.stop()
		before, _ := l.fetches()
		if before == 0 || before >= len(v.Chunks) {
			t.Fatalf("%d chunks were fetched before the stop", before)
		}
		l.start(v)
		defer l.stop()
		synctest.Wait()
		l.verified(v)
		total, _ := l.fetches()
		// Streams that were cut may have received one chunk each that was not written.
		if total > len(v.Chunks)+3 {
			t.Errorf("%d chunks fetched, want about %d", total, len(v.Chunks))
		}
	})
}

func TestStartWithoutControllerServesWhatIsProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 500_000))
		l.start(v)
		synctest.Wait()
		l.stop()
		l.src.away = true
		l.start(v)
		defer l.stop()
		synctest.Wait()
		l.verified(v)
	})
}

func TestBitFlipIsFoundAtStartAndRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 1_000_000))
		l.start(v)
		synctest.Wait()
		l.stop()
		path := filepath.Join(l.dir, "images", v.ID.String(), "disk")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[777_777] ^= 8
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		clear(l.src.fetched)
		l.start(v)
		defer l.stop()
		synctest.Wait()
		l.verified(v)
		if total, _ := l.fetches(); total != 1 {
			t.Errorf("%d chunks fetched again, want 1", total)
		}
	})
}

func TestNewWishInterruptsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v1 := l.image("lab", 1, 1, versiontest.Data(1, 1_000_000))
		v2 := l.image("lab", 2, 2, versiontest.Data(2, 400_000))
		l.src.hold = make(chan struct{})
		l.start(v1)
		defer l.stop()
		synctest.Wait()
		if diff := cmp.Diff([]State{Fetching}, l.states()); diff != "" {
			t.Fatalf("states (-want +got):\n%s", diff)
		}
		l.want(v2)
		synctest.Wait()
		if _, err := os.Stat(filepath.Join(l.dir, "incoming", v1.ID.String())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the unwanted version still lies in incoming: %v", err)
		}
		close(l.src.hold)
		synctest.Wait()
		l.verified(v2)
		if diff := cmp.Diff([]manifest.ID{v1.ID, v2.ID}, l.src.order); diff != "" {
			t.Errorf("order of fetches (-want +got):\n%s", diff)
		}
	})
}

func TestBadVersionDoesNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		good := l.image("good", 1, 1, versiontest.Data(1, 300_000))
		forged := l.image("forged", 1, 2, versiontest.Data(2, 300_000))
		l.src.signed[forged.ID] = bytes.Clone(forged.Signed)
		l.src.signed[forged.ID][20] ^= 1 // of the signature
		truncated := l.image("truncated", 1, 3, versiontest.Data(3, 300_000))
		l.src.signed[truncated.ID] = truncated.Signed[:200]
		liar := l.image("liar", 1, 4, versiontest.Data(4, 300_000)).Resign(t, l.key, func(m *manifest.Manifest) { m.Digest[3] ^= 1 })
		l.start(forged, truncated, liar, good)
		defer l.stop()
		synctest.Wait()
		if diff := cmp.Diff([]State{Failed, Failed, Failed, Verified}, l.states()); diff != "" {
			t.Fatalf("states (-want +got):\n%s", diff)
		}
		st := l.sync.Status()
		if !errors.Is(st[0].Err, manifest.ErrSignature) || !errors.Is(st[1].Err, manifest.ErrFormat) || !errors.Is(st[2].Err, imagestore.ErrInconsistent) {
			t.Errorf("errors: %v; %v; %v", st[0].Err, st[1].Err, st[2].Err)
		}
		if len(l.problems) != 3 {
			t.Errorf("problems: %v", l.problems)
		}
		l.want(good)
		synctest.Wait()
		if len(l.problems) != 0 {
			t.Errorf("problems of unwanted versions: %v", l.problems)
		}
	})
}

func TestWithdrawnVersionIsProvenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		v := l.image("lab", 1, 1, versiontest.Data(1, 300_000))
		l.start(v)
		defer l.stop()
		synctest.Wait()
		l.store.Withdraw(v.ID)
		l.sync.Kick()
		synctest.Wait()
		l.verified(v)
	})
}
