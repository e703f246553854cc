package lzma

import (
	"errors"
	"fmt"
	"math/bits"
)

// Mode is the way in which an encoder chooses among the matches that it finds.
type Mode uint8

// The modes, with liblzma's numbers.
const (
	Fast   Mode = 1 // takes what looks good at a glance
	Normal Mode = 2 // weighs sequences of matches by their price in bits
)

// Finder is the kind of index that an encoder finds matches with. The low four bits are the least length of the matches that lead
// through the main index.
type Finder uint8

// The finders, with liblzma's numbers: hash chains and binary trees.
const (
	HC3 Finder = 0x03
	HC4 Finder = 0x04
	BT2 Finder = 0x12
	BT3 Finder = 0x13
	BT4 Finder = 0x14
)

// Limits of the parameters.
const (
	MinDict = 1 << 12
	MaxDict = 1 << 30

	// MaxInput is the greatest length of an input in bytes.
	MaxInput = 1 << 30
)

// ErrParams tells that the parameters describe no encoder of this package.
var ErrParams = errors.New("no such lzma encoder")

// Params are the parameters of an encoder. The zero value is none; see Preset.
type Params struct {
	Dict   uint32 // greatest distance of a match in bytes, MinDict to MaxDict
	LC     int    // literal context bits, 0 to 4; LC+LP is at most 4
	LP     int    // literal position bits, 0 to 4
	PB     int    // position bits, 0 to 4
	Nice   int    // a match this long is taken at once; 2 to 273
	Depth  int    // candidates looked at for each position; 0 lets Nice and Finder decide
	Mode   Mode
	Finder Finder
}

// Preset returns the parameters of xz's preset: level 0 to 9, with "e" (extreme) or without.
func Preset(level int, extreme bool) (Params, error) {
	if level < 0 || level > 9 {
		return Params{}, fmt.Errorf("%w: preset %d", ErrParams, level)
	}
	p := Params{LC: 3, PB: 2, Mode: Normal, Finder: BT4}
	p.Dict = 1 << [...]int{18, 20, 21, 22, 22, 23, 23, 24, 25, 26}[level]
	switch {
	case extreme && (level == 3 || level == 5):
		p.Nice = 192
	case extreme:
		p.Nice, p.Depth = 273, 512
	case level >= 4:
		p.Nice = [...]int{4: 16, 5: 32, 6: 64, 7: 64, 8: 64, 9: 64}[level]
	default:
		p.Mode, p.Finder, p.Nice = Fast, HC4, 273
		p.Depth = [...]int{4, 8, 24, 48}[level]
		if level <= 1 {
			p.Nice = 128
		}
		if level == 0 {
			p.Finder = HC3
		}
	}
	return p, nil
}

// Check returns nil or ErrParams.
func (p Params) Check() error {
	known := p.Finder == HC3 || p.Finder == HC4 || p.Finder == BT2 || p.Finder == BT3 || p.Finder == BT4
	ok := known && (p.Mode == Fast || p.Mode == Normal) &&
		p.Dict >= MinDict && p.Dict <= MaxDict &&
		p.LC >= 0 && p.LP >= 0 && p.LC+p.LP <= maxLiteralBits &&
		p.PB >= 0 && p.PB <= maxPosBits &&
		p.Nice >= minMatch && p.Nice <= maxMatch &&
		p.Depth >= 0 && p.Depth <= 1<<30
	if !ok {
		return fmt.Errorf("%w: %+v", ErrParams, p)
	}
	return nil
}

// complete fills in what Nice and Depth leave to the finder.
func (p Params) complete() Params {
	p.Nice = max(p.Nice, p.Finder.bytes())
	if p.Depth == 0 {
		if p.Finder.tree() {
			p.Depth = 16 + p.Nice/2
		} else {
			p.Depth = 4 + p.Nice/4
		}
	}
	return p
}

// properties returns the byte for LC, LP and PB in the stream.
func (p Params) properties() byte { return byte((p.PB*5+p.LP)*9 + p.LC) }

// dictBits is the logarithm of Dict, rounded up.
func (p Params) dictBits() int { return bits.Len32(p.Dict - 1) }

// hashSize returns the number of entries of the main hash table.
func (p Params) hashSize() int {
	n := p.Finder.bytes()
	if n == 2 {
		return 1 << 16
	}
	return 1 << min(max(p.dictBits()-1, 16), 24)
}

func (f Finder) bytes() int { return int(f & 15) }

func (f Finder) tree() bool { return f&0x10 != 0 }
