package versiontest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Delta is a delta between two versions, made by hand: what is new lies in it, scrambled. It is its own decoder and proof.
type Delta struct {
	// File is the whole file, Plan what a controller says of it.
	File []byte
	Plan config.Delta
	New  delta.Identity
	// Groups, and for each the regions of the new squashfs that it brings.
	Groups []delta.Group

	layout []delta.Region
	new    []byte
	hashes map[int64][32]byte
	level1 [][32]byte
	old    [32]byte // digest

	mu      sync.Mutex
	decoded map[int]int
	// Wrong makes groups decode to something else.
	Wrong bool
}

const (
	deltaBlock  = 4096
	groupBlocks = 16
	deltaIndex  = 1500
)

// NewDelta makes a delta from old to new: blocks of 4096 bytes that differ are new, 16 of them make a group.
func NewDelta(tb testing.TB, old, new *Version) *Delta {
	tb.Helper()
	from, to := old.Files[0].Data, new.Files[0].Data
	d := &Delta{new: to, old: old.Manifest.Digest, hashes: make(map[int64][32]byte), decoded: make(map[int]int), File: Data(uint64(len(to)), deltaIndex)}
	d.New = delta.Identity{Size: int64(len(to)), SHA256: sha256.Sum256(to), Digest: verity.Digest(new.Manifest.Digest)}
	blocks := 0
	for off := 0; off < len(to); off += deltaBlock {
		end := min(off+deltaBlock, len(to))
		r := delta.Region{Off: int64(off), Len: int64(end - off), Kind: delta.RegionCopy, OldOff: int64(off)}
		switch {
		case off == 0:
			r.Kind, r.OldOff = delta.RegionBytes, 0
		case end > len(from) || !bytes.Equal(to[off:end], from[off:end]):
			if blocks%groupBlocks == 0 {
				d.Groups = append(d.Groups, delta.Group{})
			}
			blocks++
			r.Kind, r.OldOff, r.Group = delta.RegionGroup, 0, len(d.Groups)-1
		}
		d.layout = append(d.layout, r)
	}
	d.seal(new.Disk)
	d.Plan = config.Delta{Base: old.ID, SHA256: sha256.Sum256(d.File), Size: int64(len(d.File)), IndexBytes: deltaIndex}
	return d
}

// seal makes the groups' bytes and the hashes.
func (d *Delta) seal(disk []byte) {
	for g := range d.Groups {
		at := len(d.File)
		for _, r := range d.regions(g) {
			d.File = append(d.File, scramble(d.new[r.Off:r.Off+r.Len])...)
			d.Groups[g].StoredBytes += r.Len
		}
		d.Groups[g].Offset, d.Groups[g].Length, d.Groups[g].SHA256 = int64(at), int64(len(d.File)-at), sha256.Sum256(d.File[at:])
		d.Groups[g].RawBytes = d.Groups[g].StoredBytes
	}
	data := int(verity.PaddedSize(uint64(len(d.new))))
	pieces := (data + delta.PieceBytes - 1) / delta.PieceBytes
	leaves := len(disk) - pieces*verity.BlockSize
	for p := range pieces {
		d.hashes[int64(p)] = sha256.Sum256(disk[leaves+p*verity.BlockSize:][:verity.BlockSize])
	}
	for s := 0; pieces > 1 && s < (pieces+127)/128; s++ {
		spans := (pieces + 127) / 128
		d.level1 = append(d.level1, sha256.Sum256(disk[leaves-(spans-s)*verity.BlockSize:][:verity.BlockSize]))
	}
}

func (d *Delta) regions(g int) []delta.Region {
	return slices.DeleteFunc(slices.Clone(d.layout), func(r delta.Region) bool { return r.Kind != delta.RegionGroup || r.Group != g })
}

func scramble(p []byte) []byte {
	out := make([]byte, len(p))
	for i := range p {
		out[i] = p[i] ^ 0x77
	}
	return out
}

// Check tells whether index and base are this delta's.
func (d *Delta) Check(index []byte, opt delta.Options) error {
	if !bytes.Equal(index, d.File[:deltaIndex]) {
		return fmt.Errorf("index: %w", delta.ErrFormat)
	}
	if opt.OldDigest != verity.Digest(d.old) || opt.NewDigest != d.New.Digest || opt.Incoming == nil {
		return delta.ErrWrongOld
	}
	return nil
}

// Decoded tells how often each group was decoded.
func (d *Delta) Decoded() map[int]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.decoded)
}

// Layout is as delta.Receiver's.
func (d *Delta) Layout() []delta.Region { return d.layout }

// Bytes is as delta.Receiver's.
func (d *Delta) Bytes(r delta.Region) []byte { return d.new[r.Off : r.Off+r.Len] }

// Piece is as delta.Index's.
func (d *Delta) Piece(p int64) ([32]byte, bool) { h, ok := d.hashes[p]; return h, ok }

// Level1 is as delta.Index's.
func (d *Delta) Level1() [][32]byte { return d.level1 }

// Heavy is as delta.Receiver's: no group is.
func (d *Delta) Heavy(int, []byte) bool { return false }

// DecodeGroup is as delta.Receiver's.
func (d *Delta) DecodeGroup(_ context.Context, g int, wire []byte, emit func(off int64, stored []byte) error) error {
	d.mu.Lock()
	d.decoded[g]++
	wrong := d.Wrong
	d.mu.Unlock()
	if sha256.Sum256(wire) != d.Groups[g].SHA256 {
		return delta.ErrMismatch
	}
	plain := scramble(wire)
	if wrong {
		plain[0] ^= 1
	}
	for _, r := range d.regions(g) {
		if err := emit(r.Off, plain[:r.Len]); err != nil {
			return err
		}
		plain = plain[r.Len:]
	}
	return nil
}
