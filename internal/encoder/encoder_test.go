package encoder_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

func isNoEncoder(err error) bool { return errors.Is(err, encoder.ErrNoEncoder) }

func zstdSettings(level, blockSize int) encoder.Settings {
	return encoder.Settings{Compressor: squashfs.Zstd, Name: encoder.NameZstd, Level: level, BlockSize: blockSize}
}

func zlibSettings(level, window, strategy int) encoder.Settings {
	return encoder.Settings{Compressor: squashfs.Gzip, Name: encoder.NameZlib, Level: level, WindowBits: window, Strategy: strategy, BlockSize: 128 << 10}
}

func TestSettingsText(t *testing.T) {
	for _, tt := range []struct {
		text string
		want encoder.Settings
	}{
		{"zstd-1.5.5:15/131072", zstdSettings(15, 128<<10)},
		{"zstd-1.5.5:1/1048576", zstdSettings(1, 1<<20)},
		{"zlib:9/131072", zlibSettings(9, 15, 0)},
		{"zlib:1:8/131072", zlibSettings(1, 8, 0)},
		{"zlib:6:15:default/131072", zlibSettings(6, 15, 1)},
		{"zlib:6:9:filtered+fixed/131072", zlibSettings(6, 9, 2|16)},
	} {
		got, err := encoder.ParseSettings(tt.text)
		if err != nil {
			t.Errorf("ParseSettings(%q): %v", tt.text, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("ParseSettings(%q) (-want +got):\n%s", tt.text, diff)
		}
		if got.String() != tt.text {
			t.Errorf("String() = %q, want %q", got, tt.text)
		}
	}
	short, err := encoder.ParseSettings("zstd-1.5.5:15")
	if err != nil || short != zstdSettings(15, 128<<10) {
		t.Errorf("without block size: %+v, %v", short, err)
	}
}

func TestSettingsTextRefused(t *testing.T) {
	for _, tt := range []struct {
		text    string
		unknown bool
	}{
		{"", true},
		{"zstd-1.5.6:15/131072", true},
		{"zstd-1.5.5", false},
		{"zstd-1.5.5:0/131072", false},
		{"zstd-1.5.5:23/131072", false},
		{"zstd-1.5.5:-1/131072", false},
		{"zstd-1.5.5:015/131072", false},
		{"zstd-1.5.5:15:15/131072", false},
		{"zstd-1.5.5:15/", false},
		{"zstd-1.5.5:15/131073", false},
		{"zstd-1.5.5:15/2048", false},
		{"zstd-1.5.5:15/2097152", false},
		{"zlib:10/131072", false},
		{"zlib:9:16/131072", false},
		{"zlib:9:7/131072", false},
		{"zlib:9:15:/131072", false},
		{"zlib:9:15:brotli/131072", false},
		{"zlib:9:15:fixed+filtered/131072", false},
		{"zlib:9:15:fixed+fixed/131072", false},
		{"zlib:9:15:fixed:1/131072", false},
	} {
		s, err := encoder.ParseSettings(tt.text)
		if err == nil || isNoEncoder(err) != tt.unknown {
			t.Errorf("ParseSettings(%q) = %+v, error %v; unknown encoder %t", tt.text, s, err, tt.unknown)
		}
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add("zstd-1.5.5:15/131072")
	f.Add("zlib:6:9:filtered+fixed/4096")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := encoder.ParseSettings(text)
		if err != nil {
			return
		}
		again, err := encoder.ParseSettings(s.String())
		if err != nil || again != s {
			t.Errorf("%q became %+v, and %q became %+v, error %v", text, s, s, again, err)
		}
	})
}

func TestFromImage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		comp    squashfs.Compressor
		options string
		want    string // "" for an error
	}{
		{"zstd defaults", squashfs.Zstd, "", "zstd-1.5.5:15/131072"},
		{"zstd level", squashfs.Zstd, "\x13\x00\x00\x00", "zstd-1.5.5:19/131072"},
		{"zstd impossible level", squashfs.Zstd, "\x17\x00\x00\x00", ""},
		{"zstd negative level", squashfs.Zstd, "\xff\xff\xff\xff", ""},
		{"zstd long options", squashfs.Zstd, "\x13\x00\x00\x00\x00", ""},
		{"gzip defaults", squashfs.Gzip, "", "zlib:9/131072"},
		{"gzip options", squashfs.Gzip, "\x06\x00\x00\x00\x0c\x00\x03\x00", "zlib:6:12:default+filtered/131072"},
		{"gzip unknown strategy", squashfs.Gzip, "\x06\x00\x00\x00\x0c\x00\x20\x00", ""},
		{"gzip negative strategy", squashfs.Gzip, "\x06\x00\x00\x00\x0c\x00\xff\xff", ""},
		{"gzip short options", squashfs.Gzip, "\x06\x00\x00\x00", ""},
		{"xz", squashfs.XZ, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := encoder.FromImage(squashfs.Superblock{Compressor: tt.comp, BlockSize: 128 << 10}, []byte(tt.options))
			if (err != nil) != (tt.want == "") {
				t.Fatalf("FromImage = %s, error %v", s, err)
			}
			if err == nil && s.String() != tt.want {
				t.Errorf("FromImage = %s, want %s", s, tt.want)
			}
			if isNoEncoder(err) != (tt.comp == squashfs.XZ) {
				t.Errorf("error %v matches ErrNoEncoder: %t", err, isNoEncoder(err))
			}
		})
	}
}

func TestProbeOfImages(t *testing.T) {
	for _, tt := range []struct{ image, want string }{
		{"zstd", "zstd-1.5.5:15/4096"},
		{"gzip", "zlib:9/4096"},
		{"xz", ""},
		{"lz4", ""},
		{"plain", ""}, // stored without compression
	} {
		t.Run(tt.image, func(t *testing.T) {
			s, exact, tried, err := encoder.Probe(t.Context(), openImage(t, tt.image), 100)
			if tt.want == "" {
				if !isNoEncoder(err) || exact != 0 {
					t.Fatalf("Probe = %d, %v, want ErrNoEncoder", exact, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.String() != tt.want || exact != tried || tried < 10 {
				t.Errorf("Probe = %s, %d of %d, want %s and all", s, exact, tried, tt.want)
			}
		})
	}
}

func TestProbeSamples(t *testing.T) {
	fs := openImage(t, "zstd")
	_, _, all, err := encoder.Probe(t.Context(), fs, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for samples := 1; samples <= all; samples++ {
		_, exact, tried, err := encoder.Probe(t.Context(), fs, samples)
		if err != nil || exact != tried || tried < samples || tried >= 2*samples && tried != all {
			t.Errorf("Probe with %d samples of %d: %d of %d, %v", samples, all, exact, tried, err)
		}
	}
}

func TestProbeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, tried, err := encoder.Probe(ctx, openImage(t, "zstd"), 8); !errors.Is(err, context.Canceled) || tried != 0 {
		t.Errorf("Probe tried %d, error %v, want context.Canceled", tried, err)
	}
}

func openImage(t *testing.T, name string) *squashfs.FS {
	t.Helper()
	data, err := os.ReadFile("../squashfs/testdata/" + name + ".squashfs")
	if err != nil {
		t.Fatal(err)
	}
	fs, err := squashfs.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestBlockRules(t *testing.T) {
	for _, s := range []encoder.Settings{zstdSettings(3, 8<<10), {Compressor: squashfs.Gzip, Name: encoder.NameZlib, Level: 9, WindowBits: 15, BlockSize: 8 << 10}} {
		t.Run(s.Name, func(t *testing.T) {
			e, err := encoder.New(s)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			random := make([]byte, 8<<10)
			for i, rnd := 0, rand.New(rand.NewPCG(1, 1)); i < len(random); i++ {
				random[i] = byte(rnd.Uint32())
			}
			for _, tt := range []struct {
				name       string
				src        []byte
				compressed bool
			}{
				{"zeros", make([]byte, 8<<10), true},
				{"random", random, false},
				{"one byte", random[:1], false},
				{"short random", random[:100], false},
			} {
				prefix := []byte("before")
				out, compressed, err := e.Block(prefix, tt.src)
				if err != nil || compressed != tt.compressed || !bytes.HasPrefix(out, prefix) {
					t.Errorf("%s: compressed %t, error %v", tt.name, compressed, err)
				}
				if stored := out[len(prefix):]; compressed && len(stored) >= len(tt.src) || !compressed && !bytes.Equal(stored, tt.src) {
					t.Errorf("%s: stored %d bytes for %d", tt.name, len(stored), len(tt.src))
				}
			}
			for _, n := range []int{0, 8<<10 + 1} {
				if out, _, err := e.Block(nil, make([]byte, n)); !errors.Is(err, encoder.ErrLength) || out != nil {
					t.Errorf("Block of %d bytes: %v, want ErrLength", n, err)
				}
				if _, _, err := e.Metadata(nil, make([]byte, n)); !errors.Is(err, encoder.ErrLength) {
					t.Errorf("Metadata of %d bytes: %v, want ErrLength", n, err)
				}
			}
			if err := errors.Join(e.Close(), e.Close()); err != nil {
				t.Error(err)
			}
			if _, _, err := e.Block(nil, random); !errors.Is(err, encoder.ErrClosed) {
				t.Errorf("Block after Close: %v, want ErrClosed", err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, s := range []encoder.Settings{
		{},
		{Compressor: squashfs.Gzip, Name: encoder.NameZstd, Level: 9, BlockSize: 4096},
		{Compressor: squashfs.XZ, Name: "xz", BlockSize: 4096},
		zstdSettings(15, 5000),
		zlibSettings(9, 15, 32),
	} {
		if _, err := encoder.New(s); err == nil {
			t.Errorf("New(%+v) gave an encoder", s)
		}
	}
}

func TestZstdSections(t *testing.T) {
	text := bytes.Repeat([]byte("one two three four "), 20000)
	for _, src := range [][]byte{nil, {7}, text, make([]byte, 3<<20)} {
		for _, level := range []int{1, 3, 19, 22} {
			packed, err := encoder.CompressZstd([]byte("head"), src, level)
			if err != nil {
				t.Fatal(err)
			}
			roomy, err := encoder.CompressZstd(make([]byte, 4, 4<<20), src, level)
			if err != nil || !bytes.Equal(roomy[4:], packed[4:]) {
				t.Errorf("level %d, %d bytes: result depends on the room in dst, error %v", level, len(src), err)
			}
			for _, dst := range [][]byte{[]byte("x"), make([]byte, 1, 4<<20)} {
				dst[0] = 'x'
				got, err := encoder.DecompressZstd(dst, packed[4:], len(src))
				if err != nil || string(got[:1]) != "x" || !bytes.Equal(got[1:], src) {
					t.Errorf("level %d, %d bytes: %d bytes came back, error %v", level, len(src), len(got), err)
				}
			}
			if len(src) > 0 {
				if _, err := encoder.DecompressZstd(nil, packed[4:], len(src)-1); !errors.Is(err, encoder.ErrTooLong) {
					t.Errorf("level %d, %d bytes with a smaller limit: %v, want ErrTooLong", level, len(src), err)
				}
				if _, err := encoder.DecompressZstd(nil, packed[4:len(packed)-1], len(src)); err == nil {
					t.Errorf("level %d, %d bytes: truncated frame was accepted", level, len(src))
				}
			}
		}
	}
	for _, level := range []int{-1, 0, 23} {
		if _, err := encoder.CompressZstd(nil, text, level); err == nil {
			t.Errorf("level %d was accepted", level)
		}
	}
}

// A second frame behind the first must not get around the limit.
func TestZstdLimitHoldsForAllFrames(t *testing.T) {
	one, err := encoder.CompressZstd(nil, make([]byte, 1000), 3)
	if err != nil {
		t.Fatal(err)
	}
	both, err := encoder.CompressZstd(one, make([]byte, 10<<20), 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := encoder.DecompressZstd(make([]byte, 0, 4096), both, 2000); !errors.Is(err, encoder.ErrTooLong) {
		t.Errorf("%d bytes, error %v, want ErrTooLong", len(got), err)
	}
}

func FuzzDecompressZstd(f *testing.F) {
	for _, src := range []string{"", "a", "hello hello hello hello"} {
		packed, err := encoder.CompressZstd(nil, []byte(src), 3)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, uint16(len(src)))
	}
	f.Fuzz(func(t *testing.T, src []byte, limit uint16) {
		out, err := encoder.DecompressZstd(nil, src, int(limit))
		if err == nil && len(out) > int(limit) {
			t.Errorf("%d bytes, limit %d", len(out), limit)
		}
	})
}

// A context that is used again must not show in the result: the maker and the receivers of a delta meet the blocks in different order.
// Levels 5 to 12 use a search whose tables survive from block to block.
func TestBlocksAreIndependent(t *testing.T) {
	code, err := os.ReadFile("../squashfs/testdata/plain.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	code = bytes.Repeat(code, 3)
	for level := 1; level <= 22; level++ {
		s := zstdSettings(level, 64<<10)
		used, err := encoder.New(s)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at+64<<10 <= len(code); at += 50 << 10 {
			fresh, err := encoder.New(s)
			if err != nil {
				t.Fatal(err)
			}
			want, _, err1 := fresh.Block(nil, code[at:at+64<<10])
			got, _, err2 := used.Block(nil, code[at:at+64<<10])
			if err := errors.Join(err1, err2, fresh.Close()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("level %d: block at %d depends on the blocks before it, error %v", level, at, err)
			}
		}
		if err := used.Close(); err != nil {
			t.Error(err)
		}
	}
}
