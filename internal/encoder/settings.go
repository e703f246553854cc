package encoder

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// The names of the encoders: library and version whose bytes are made.
const (
	NameZstd = "zstd-1.5.5"
	NameZlib = "zlib"
)

const (
	defaultZstdLevel  = 15 // mksquashfs's defaults, which hold when the image has no options
	defaultGzipLevel  = 9
	defaultWindowBits = 15

	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
)

// strategyNames are mksquashfs's names of the strategies of zlib, in the order in which it tries them. The position is both the bit
// in Settings.Strategy (and in the image's options) and zlib's own number.
var strategyNames = [...]string{"default", "filtered", "huffman_only", "run_length_encoded", "fixed"}

// Settings say how the blocks of an image are compressed. Two equal Settings make equal blocks.
type Settings struct {
	// Compressor is squashfs.Zstd or squashfs.Gzip.
	Compressor squashfs.Compressor
	// Name is NameZstd or NameZlib, and fits Compressor.
	Name string
	// Level is 1 to 22 for zstd, 1 to 9 for zlib.
	Level int
	// WindowBits is zlib's base-two logarithm of the window, 8 to 15; 0 for zstd.
	WindowBits int
	// Strategy is a set of bits as in the options of a gzip image: 1 default, 2 filtered, 4 huffman_only, 8 run_length_encoded, 16
	// fixed. Of several, the one with the shortest result is taken for each data block. 0 means default alone, and is the value for zstd.
	Strategy int
	// BlockSize is the image's block size in bytes: a power of two, 4 KiB to 1 MiB.
	BlockSize int
}

// String gives the text form: name, level and block size ("zstd-1.5.5:15/131072"), for zlib with window and strategies behind the level
// where they are not mksquashfs's defaults ("zlib:9:15:default+filtered/131072"). ParseSettings reads it.
func (s Settings) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d", s.Name, s.Level)
	if s.Compressor == squashfs.Gzip && (s.WindowBits != defaultWindowBits || s.Strategy != 0) {
		fmt.Fprintf(&b, ":%d", s.WindowBits)
		sep := ":"
		for i, name := range strategyNames {
			if s.Strategy>>i&1 != 0 {
				b.WriteString(sep + name)
				sep = "+"
			}
		}
	}
	fmt.Fprintf(&b, "/%d", s.BlockSize)
	return b.String()
}

// ParseSettings reads the text form that String gives. The block size may be left out and is then 128 KiB, mksquashfs's default. The
// settings are valid for New. An unknown name matches ErrNoEncoder.
func ParseSettings(text string) (Settings, error) {
	s, err := parseSettings(text)
	if err != nil {
		return Settings{}, fmt.Errorf("encoder settings %q: %w", text, err)
	}
	return s, nil
}

func parseSettings(text string) (Settings, error) {
	s := Settings{BlockSize: 128 << 10}
	head, size, sized := strings.Cut(text, "/")
	if sized {
		n, err := number(size)
		if err != nil {
			return s, fmt.Errorf("block size: %w", err)
		}
		s.BlockSize = n
	}
	parts := strings.Split(head, ":")
	switch s.Name = parts[0]; {
	case s.Name == NameZstd && len(parts) == 2:
		s.Compressor = squashfs.Zstd
	case s.Name == NameZlib && len(parts) >= 2 && len(parts) <= 4:
		s.Compressor, s.WindowBits = squashfs.Gzip, defaultWindowBits
	case s.Name == NameZstd || s.Name == NameZlib:
		return s, fmt.Errorf("%d fields", len(parts))
	default:
		return s, ErrNoEncoder
	}
	var err error
	if s.Level, err = number(parts[1]); err != nil {
		return s, fmt.Errorf("level: %w", err)
	}
	if len(parts) > 2 {
		if s.WindowBits, err = number(parts[2]); err != nil {
			return s, fmt.Errorf("window: %w", err)
		}
	}
	if len(parts) > 3 {
		if s.Strategy, err = parseStrategies(parts[3]); err != nil {
			return s, err
		}
	}
	return s, s.check()
}

// number reads a decimal number of up to seven digits, without sign and leading zero.
func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 24)
	if err != nil {
		return 0, err
	}
	if strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("%q is not in its shortest form", text)
	}
	return int(n), nil
}

func parseStrategies(text string) (int, error) {
	set := 0
next:
	for name := range strings.SplitSeq(text, "+") {
		for i, known := range strategyNames {
			if name == known {
				if set>>i != 0 {
					return 0, fmt.Errorf("strategy %s is repeated or out of order", name)
				}
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("unknown strategy %q", name)
	}
	return set, nil
}

// check tells what New cannot do.
func (s Settings) check() error {
	if s.BlockSize < minBlockSize || s.BlockSize > maxBlockSize || s.BlockSize&(s.BlockSize-1) != 0 {
		return fmt.Errorf("block size %d is no power of two from %d to %d", s.BlockSize, minBlockSize, maxBlockSize)
	}
	switch {
	case s.Compressor == squashfs.Zstd && s.Name == NameZstd:
		return s.checkZstd()
	case s.Compressor == squashfs.Gzip && s.Name == NameZlib:
		return s.checkZlib()
	default:
		return fmt.Errorf("encoder %q for %s: %w", s.Name, s.Compressor, ErrNoEncoder)
	}
}

func (s Settings) checkZstd() error {
	if s.Level < 1 || s.Level > 22 {
		return fmt.Errorf("zstd level %d is not from 1 to 22", s.Level)
	}
	if s.WindowBits != 0 || s.Strategy != 0 {
		return fmt.Errorf("zstd with window %d and strategies %#x, both must be 0", s.WindowBits, s.Strategy)
	}
	return nil
}

func (s Settings) checkZlib() error {
	if s.Level < 1 || s.Level > 9 {
		return fmt.Errorf("zlib level %d is not from 1 to 9", s.Level)
	}
	if s.WindowBits < 8 || s.WindowBits > 15 {
		return fmt.Errorf("zlib window %d is not from 8 to 15", s.WindowBits)
	}
	if s.Strategy < 0 || s.Strategy >= 1<<len(strategyNames) {
		return fmt.Errorf("zlib strategies %#x are not known", s.Strategy)
	}
	return nil
}

// FromImage gives the settings that mksquashfs worked with, from the superblock and from the content of the compressor options
// (squashfs.KindOptions; empty when the image has none, which means defaults). Whether the encoder really makes the same
// bytes is for Probe to find out. A compressor without an encoder gives an error that matches ErrNoEncoder.
func FromImage(sb squashfs.Superblock, options []byte) (Settings, error) {
	s := Settings{Compressor: sb.Compressor, BlockSize: int(sb.BlockSize)}
	le := binary.LittleEndian
	switch sb.Compressor {
	case squashfs.Zstd:
		s.Name, s.Level = NameZstd, defaultZstdLevel
		if len(options) != 0 && len(options) != 4 {
			return s, fmt.Errorf("zstd options of %d bytes", len(options))
		}
		if len(options) == 4 {
			s.Level = int(int32(le.Uint32(options)))
		}
	case squashfs.Gzip:
		s.Name, s.Level, s.WindowBits = NameZlib, defaultGzipLevel, defaultWindowBits
		if len(options) != 0 && len(options) != 8 {
			return s, fmt.Errorf("gzip options of %d bytes", len(options))
		}
		if len(options) == 8 {
			s.Level = int(int32(le.Uint32(options)))
			s.WindowBits = int(int16(le.Uint16(options[4:])))
			s.Strategy = int(int16(le.Uint16(options[6:])))
		}
	default:
		return s, fmt.Errorf("squashfs compressed with %s: %w", sb.Compressor, ErrNoEncoder)
	}
	if err := s.check(); err != nil {
		return s, fmt.Errorf("compressor options: %w", err)
	}
	return s, nil
}
