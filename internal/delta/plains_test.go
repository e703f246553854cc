package delta

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// hostileSpace is OLD of testdata with the declared streams that exps makes of the one that the golden delta declares.
func hostileSpace(t *testing.T, opt Options, exps func(real stream) []stream) *space {
	t.Helper()
	image, err := openImage(source(testdata(t, "old.squashfs")), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ParseIndex(testdata(t, "golden-1.delta"))
	if err != nil {
		t.Fatal(err)
	}
	found, err := parseExpansions(x.expansions, image.model)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d declared streams, error %v", len(found), err)
	}
	declared, err := parseExpansions(packExpansions(exps(found[0]), image.model), image.model)
	if err != nil {
		t.Fatal(err)
	}
	return &space{old: image.content, exps: declared, plains: newPlains(t.TempDir(), plainsMemory(opt))}
}

// TestManyDeclaredStreams: short plaintexts are given up for others, so that all of them together take no more than their share.
func TestManyDeclaredStreams(t *testing.T) {
	const copies = 1000
	opt := Options{MemoryBytes: 3200 << 10}
	sp := hostileSpace(t, opt, func(real stream) []stream {
		var out []stream
		for range copies {
			out = append(out, real)
		}
		return out
	})
	n := sp.exps[0].plain
	kept := 0
	for i := range copies {
		b := make([]byte, n)
		if err := sp.read(b, expansionAddr(i)); err != nil {
			t.Fatal(err)
		}
		if b[0] == 0 {
			t.Fatalf("plaintext %d begins with zero", i)
		}
		if sp.plains.short.used > plainsMemory(opt) {
			t.Fatalf("after %d streams %d bytes are kept, more than %d", i+1, sp.plains.short.used, plainsMemory(opt))
		}
		kept = max(kept, len(sp.plains.short.items))
	}
	if kept < 2 || len(sp.plains.long.items) > 0 {
		t.Errorf("at most %d plaintexts were kept at the same time, want several; %d files", kept, len(sp.plains.long.items))
	}
}

// TestLongPlaintexts: what does not fit into memory is read from files without a name, which are given up for others too.
func TestLongPlaintexts(t *testing.T) {
	sp := hostileSpace(t, Options{MemoryBytes: 64}, func(real stream) []stream { return []stream{real, real, real} })
	inMemory := hostileSpace(t, Options{}, func(real stream) []stream { return []stream{real} })
	n := sp.exps[0].plain
	sp.plains.long.limit = 2 * n
	want, got := make([]byte, n), make([]byte, n)
	if err := inMemory.read(want, expansionAddr(0)); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 2, 0, 2} {
		if err := sp.read(got, expansionAddr(i)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("plaintext %d differs, error %v", i, err)
		}
		if err := sp.read(got[:9], expansionAddr(i)+n-9); err != nil || !bytes.Equal(got[:9], want[n-9:]) {
			t.Fatalf("the end of plaintext %d differs, error %v", i, err)
		}
	}
	if files := len(sp.plains.long.items); files != 2 || len(sp.plains.short.items) != 0 {
		t.Errorf("%d files, %d in memory, want 2 and 0", files, len(sp.plains.short.items))
	}
	if names, err := os.ReadDir(sp.plains.dir); err != nil || len(names) != 0 {
		t.Errorf("files with names: %v, error %v", names, err)
	}
	kept, _ := sp.plains.long.get(2)
	sp.plains.close()
	if _, err := kept.f.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file of closed plaintexts: %v", err)
	}
}

// TestHugeDeclaredStreams: streams that claim to be long take neither memory nor disk before they have shown that they are.
func TestHugeDeclaredStreams(t *testing.T) {
	opt := Options{MemoryBytes: 64 << 20}
	sp := hostileSpace(t, opt, func(real stream) []stream {
		var out []stream
		for i := range 100 {
			huge := real
			huge.plain = maxNestedPlain - int64(i)
			out = append(out, huge)
		}
		return out
	})
	for i := range sp.exps {
		if err := sp.read(make([]byte, 16), expansionAddr(i)); !errors.Is(err, ErrFormat) {
			t.Fatalf("huge stream %d gives %v, want ErrFormat", i, err)
		}
	}
	if kept := len(sp.plains.short.items) + len(sp.plains.long.items); kept > 0 {
		t.Errorf("%d of them are kept", kept)
	}
}

// TestStreamThatLies: a stream whose plaintext is not as long as declared is refused.
func TestStreamThatLies(t *testing.T) {
	for _, d := range []int64{-1, 1, 100_000} {
		sp := hostileSpace(t, Options{}, func(real stream) []stream {
			real.plain += d
			return []stream{real}
		})
		if err := sp.read(make([]byte, 16), expansionAddr(0)); !errors.Is(err, ErrFormat) {
			t.Errorf("%+d bytes give %v, want ErrFormat", d, err)
		}
	}
}

// TestColumnsWithinMemory: metadata that claims to be long is refused before memory is taken for it.
func TestColumnsWithinMemory(t *testing.T) {
	image, err := openImage(source(testdata(t, "old.squashfs")), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ParseIndex(testdata(t, "golden-1.delta"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = unpackColumns(x.columns, newOldColumns(image.meta), 16)
	if !errors.Is(err, ErrLimit) || !strings.Contains(fmt.Sprint(err), "16 bytes") {
		t.Errorf("error %v, want ErrLimit", err)
	}
}
