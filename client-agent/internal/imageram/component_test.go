//go:build component

package imageram

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestAttach(t *testing.T) {
	want := image(3*chunkBytes + 4096)
	file := filepath.Join(t.TempDir(), "image")
	if err := Copy(t.Context(), bytes.NewReader(want), int64(len(want)), file, nil); err != nil {
		t.Fatal(err)
	}
	device, err := Attach(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Detach(device); err != nil {
			t.Error(err)
		}
	}()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, equal %v, %v", len(got), bytes.Equal(got, want), err)
	}
	if w, err := os.OpenFile(device, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write(want[:4096]); err == nil {
			t.Error("the device can be written")
		}
		w.Close()
	}
}
