package squashfs_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/klauspost/compress/zlib"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

func TestDecoder(t *testing.T) {
	want := bytes.Repeat([]byte("content"), 100)
	var stored bytes.Buffer
	w := zlib.NewWriter(&stored)
	w.Write(want)
	w.Close()
	d, err := squashfs.NewDecoder(squashfs.Gzip)
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, len(want))
	if n, err := d.Decode(dst, stored.Bytes()); err != nil || !bytes.Equal(dst[:n], want) {
		t.Errorf("%q, %v", dst[:n], err)
	}
	if _, err := d.Decode(dst[:len(want)-1], stored.Bytes()); err == nil {
		t.Error("a block that is too long was accepted")
	}
	if _, err := squashfs.NewDecoder(squashfs.LZO); !errors.Is(err, squashfs.ErrCompressor) {
		t.Errorf("lzo: %v", err)
	}
}
