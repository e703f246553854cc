package publish

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// fakeStore keeps chunks in memory and can be told to break after some.
type fakeStore struct {
	have    map[chunk.ID]bool
	failAt  int // breaks when it has taken so many more; negative: never
	batches int
}

var errBroken = errors.New("line is cut")

func (s *fakeStore) FindMissing(_ context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	s.batches++
	var missing []chunk.ID
	for _, id := range ids {
		if !s.have[id] {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

func (s *fakeStore) Put(_ context.Context, next func() (chunk.ID, []byte, error)) error {
	for {
		id, data, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.failAt == 0 {
			return errBroken
		}
		s.failAt--
		if chunk.Verify(id, data) != nil {
			return errors.New("wrong bytes")
		}
		s.have[id] = true
	}
}

// prepared makes a version of boot loaders; two of the files share their first chunk.
func prepared(t *testing.T) (*Prepared, string) {
	t.Helper()
	dir := t.TempDir()
	common := strings.Repeat("a", chunk.FixedSize)
	for name, content := range map[string]string{"undionly.kpxe": common + "one", "snponly.efi": common + "two", "ipxe.efi": "three", "notes.txt": "not a loader"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := PrepareBootloaders(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, dir
}

func TestUploadSendsEachChunkOnce(t *testing.T) {
	p, _ := prepared(t)
	store := &fakeStore{have: map[chunk.ID]bool{}, failAt: -1}
	stats, err := Upload(t.Context(), p, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	// one shared chunk, two tails, one small file
	if stats.Chunks != 4 || stats.SentChunks != 4 || len(store.have) != 4 || stats.SentBytes != chunk.FixedSize+3+3+5 {
		t.Errorf("stats %+v, %d chunks stored", stats, len(store.have))
	}
	again, err := Upload(t.Context(), p, store, nil)
	if err != nil || again.SentChunks != 0 || again.SentBytes != 0 {
		t.Errorf("second upload sent %+v, %v", again, err)
	}
}

func TestUploadGoesOnAfterAnInterruption(t *testing.T) {
	p, _ := prepared(t)
	store := &fakeStore{have: map[chunk.ID]bool{}, failAt: 2}
	if _, err := Upload(t.Context(), p, store, nil); !errors.Is(err, errBroken) {
		t.Fatalf("error %v, want the store's", err)
	}
	store.failAt = -1
	stats, err := Upload(t.Context(), p, store, nil)
	if err != nil || stats.SentChunks != 2 || len(store.have) != 4 {
		t.Errorf("stats %+v, %v; %d chunks stored", stats, err, len(store.have))
	}
}

func TestUploadRefusesAFileThatChanged(t *testing.T) {
	p, dir := prepared(t)
	if err := os.WriteFile(filepath.Join(dir, "ipxe.efi"), []byte("THREE"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Upload(t.Context(), p, &fakeStore{have: map[chunk.ID]bool{}, failAt: -1}, nil)
	if err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error %v", err)
	}
}

func TestPrepareBootloaders(t *testing.T) {
	p, _ := prepared(t)
	if err := p.Draft.Validate(); err != nil {
		t.Error(err)
	}
	if _, ok := p.Draft.Artifact("notes.txt"); ok || len(p.Draft.Artifacts) != 3 || p.Draft.Kind != manifest.Bootloaders {
		t.Errorf("draft %+v", p.Draft)
	}
	if _, err := PrepareBootloaders(t.Context(), t.TempDir(), ""); !errors.Is(err, ErrNoBootloaders) {
		t.Errorf("error %v, want ErrNoBootloaders", err)
	}
}
