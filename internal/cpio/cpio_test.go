package cpio_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/cpio"
)

// sample writes one entry of each kind.
func sample(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for _, err := range []error{
		w.Dir("dev", 0o755),
		w.CharDevice("dev/console", 0o600, 5, 1),
		w.File("init", 0o755, []byte("#!/bin/sh\n")),
		w.File("empty", 0o644, nil),
		w.Symlink("sh", "bin/busybox"),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestBytes(t *testing.T) {
	t.Parallel()
	want := "" +
		"070701" + "00000001" + "000041ed" + "0000000000000000" + "00000002" + "00000000" + "00000000" + "0000000000000000" + "0000000000000000" + "00000004" + "00000000" + "dev\x00" + "\x00\x00" +
		"070701" + "00000002" + "00002180" + "0000000000000000" + "00000001" + "00000000" + "00000000" + "0000000000000000" + "0000000500000001" + "0000000c" + "00000000" + "dev/console\x00" + "\x00\x00" +
		"070701" + "00000003" + "000081ed" + "0000000000000000" + "00000001" + "00000000" + "0000000a" + "0000000000000000" + "0000000000000000" + "00000005" + "00000000" + "init\x00" + "\x00" + "#!/bin/sh\n\x00\x00" +
		"070701" + "00000004" + "000081a4" + "0000000000000000" + "00000001" + "00000000" + "00000000" + "0000000000000000" + "0000000000000000" + "00000006" + "00000000" + "empty\x00" +
		"070701" + "00000005" + "0000a1ff" + "0000000000000000" + "00000001" + "00000000" + "0000000b" + "0000000000000000" + "0000000000000000" + "00000003" + "00000000" + "sh\x00" + "\x00\x00\x00" + "bin/busybox\x00" +
		"070701" + "00000000" + "00000000" + "0000000000000000" + "00000001" + "00000000" + "00000000" + "0000000000000000" + "0000000000000000" + "0000000b" + "00000000" + "TRAILER!!!\x00" + "\x00\x00\x00"
	got := sample(t)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
	if len(got)%4 != 0 {
		t.Errorf("length %d is no multiple of four", len(got))
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "/init", "a//b", "../x", "a/./b", "a/", "a\x00b", strings.Repeat("n", 5000), "TRAILER!!!"} {
		if err := cpio.NewWriter(new(bytes.Buffer)).File(name, 0o644, nil); !errors.Is(err, cpio.ErrName) {
			t.Errorf("name %.20q: %v", name, err)
		}
	}
	w := cpio.NewWriter(new(bytes.Buffer))
	if err := w.WriteHeader(cpio.Header{Name: "big", Mode: cpio.TypeFile, Size: 1 << 32}); !errors.Is(err, cpio.ErrSize) {
		t.Errorf("too large: %v", err)
	}
	if err := w.WriteHeader(cpio.Header{Name: "file", Mode: cpio.TypeFile, Size: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("four")); !errors.Is(err, cpio.ErrSize) {
		t.Errorf("too much content: %v", err)
	}
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, cpio.ErrSize) {
		t.Errorf("too little content: %v", err)
	}
}

func TestWriteErrorStays(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk full")
	w := cpio.NewWriter(&failing{after: 200, err: cause})
	if err := w.File("a", 0o644, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.File("b", 0o644, nil); !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
	}
	if err := w.Close(); !errors.Is(err, cause) {
		t.Errorf("close: %v", err)
	}
}

type failing struct {
	after int
	err   error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.after -= len(b); f.after < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func FuzzNames(f *testing.F) {
	f.Add("init", []byte("x"))
	f.Add("../x", []byte{})
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		var b bytes.Buffer
		w := cpio.NewWriter(&b)
		if err := w.File(name, 0o644, data); err != nil {
			return
		}
		if err := w.Close(); err != nil || b.Len()%4 != 0 {
			t.Errorf("%v, %d bytes", err, b.Len())
		}
	})
}
