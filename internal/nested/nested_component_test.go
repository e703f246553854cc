//go:build component

package nested_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// TestInstalledFiles opens every twentieth compressed file of this machine's packages and packs it again.
func TestInstalledFiles(t *testing.T) {
	var seen, files, bytesIn, exact, bytesExact int64
	var enc nested.Encoder
	err := filepath.WalkDir("/usr/share", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, ".gz") {
			return err
		}
		if seen++; seen%20 != 1 {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		bytesIn += int64(len(data))
		streams := nested.Find(path, data, nested.Limits{})
		if len(streams) == 0 {
			t.Logf("not reproduced: %s (%d bytes, header % x)", path, len(data), data[:10])
			return nil
		}
		exact++
		bytesExact += int64(len(data))
		for _, s := range streams {
			roundTrip(t, &enc, path, data, s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d files, %d of %d bytes", exact, files, bytesExact, bytesIn)
	if files == 0 || float64(exact) < 0.99*float64(files) {
		t.Error("too few")
	}
}

func roundTrip(t *testing.T, enc *nested.Encoder, name string, data []byte, s nested.Stream) {
	t.Helper()
	stored := data[s.Offset : s.Offset+s.Length]
	plain, err := nested.Plain(s, stored, s.PlainLength)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	again, err := enc.Encode(nil, s, plain)
	if err != nil || !bytes.Equal(again, stored) {
		t.Fatalf("%s: packed to %d bytes, not the %d that it was (%v)", name, len(again), len(stored), err)
	}
}
