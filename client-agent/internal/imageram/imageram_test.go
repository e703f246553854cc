package imageram

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// image is bytes without a pattern.
func image(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // it never fails
	return b
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 4096, chunkBytes, 3*chunkBytes + 4096, 40 * chunkBytes} {
		want := image(size)
		file := filepath.Join(t.TempDir(), "image")
		var last int64
		if err := Copy(t.Context(), bytes.NewReader(want), int64(size), file, func(done int64) { last = max(last, done) }); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, want) || last != int64(size) {
			t.Errorf("%d bytes: equal %v, progress up to %d, %v", size, bytes.Equal(got, want), last, err)
		}
	}
}

// failing cannot read behind its end.
type failing struct{ end int64 }

var errRead = errors.New("the server is gone")

func (f failing) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > f.end {
		return 0, errRead
	}
	return len(p), nil
}

func TestCopyFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx    context.Context
		source io.ReaderAt
		size   int64
		want   error
	}{
		"read":    {t.Context(), failing{5 * chunkBytes}, 9 * chunkBytes, errRead},
		"short":   {t.Context(), bytes.NewReader(image(100)), 200, io.EOF},
		"context": {ctx, bytes.NewReader(image(100)), 100, context.Canceled},
	} {
		file := filepath.Join(t.TempDir(), "image")
		if err := Copy(tt.ctx, tt.source, tt.size, file, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a part is left: %v", name, err)
		}
	}
	if err := Copy(t.Context(), bytes.NewReader(nil), 0, filepath.Join(t.TempDir(), "x"), nil); err == nil {
		t.Error("nothing was copied without an error")
	}
	there := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(there, []byte("of somebody"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), bytes.NewReader(image(1)), 1, there, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "of somebody" {
		t.Errorf("it was touched: %q, %v", b, err)
	}
}

func TestFits(t *testing.T) {
	t.Parallel()
	if err := Fits(1<<30, 1<<30+reserveBytes); err != nil {
		t.Error(err)
	}
	if err := Fits(1<<30, 1<<30+reserveBytes-1); !errors.Is(err, ErrMemory) {
		t.Error(err)
	}
}
