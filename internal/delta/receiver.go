package delta

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// RegionKind says where the bytes of a region come from.
type RegionKind uint8

const (
	// RegionBytes are bytes that the receiver holds (superblock, metadata, padding); Receiver.Bytes gives them.
	RegionBytes RegionKind = iota
	// RegionCopy lie in OLD at Region.OldOff.
	RegionCopy
	// RegionGroup are what group Region.Group yields.
	RegionGroup
)

// Region is a part of NEW.
type Region struct {
	// Off and Len are in bytes of NEW; Len is never zero.
	Off, Len int64
	Kind     RegionKind
	// OldOff is the position in OLD of a RegionCopy, Group the group of a RegionGroup.
	OldOff int64
	Group  int
}

// Receiver makes NEW from OLD and the groups of one delta. It is safe for concurrent use.
type Receiver struct {
	idx      *Index
	old      Source
	opt      Options
	head     []byte
	tail     []byte
	tailOff  int64
	layout   *layout
	neu      *model
	groups   groupDecoder
	space    *space
	encoders *encoderPool
	memory   *pool
}

// NewReceiver rebuilds NEW's metadata and block map from the index and OLD, which must stay readable as long as the receiver is
// used. It reads OLD's metadata only. ErrWrongOld tells that OLD is not the base of the delta, as far as that can be seen from its
// size, its metadata and opt.OldDigest; ErrMismatch that opt.NewDigest is not what the delta leads to. The caller closes the
// receiver.
func NewReceiver(ctx context.Context, idx *Index, old Source, opt Options) (*Receiver, error) {
	if err := checkIdentity(idx, old.Size(), opt); err != nil {
		return nil, err
	}
	r := &Receiver{idx: idx, old: old, opt: opt, memory: newPool(groupMemory(opt))}
	pool, err := newEncoderPool(idx.encoder, opt.parallel())
	if err != nil {
		return nil, err
	}
	r.encoders = pool
	if err := r.open(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// checkIdentity compares what is known of the images with what the index says.
func checkIdentity(idx *Index, oldSize int64, opt Options) error {
	var zero verity.Digest
	switch {
	case oldSize != idx.Old.Size:
		return fmt.Errorf("old image has %d bytes, the delta is for one of %d: %w", oldSize, idx.Old.Size, ErrWrongOld)
	case opt.OldDigest != zero && opt.OldDigest != idx.Old.Digest:
		return fmt.Errorf("old image has digest %v, the delta is for %v: %w", opt.OldDigest, idx.Old.Digest, ErrWrongOld)
	case opt.NewDigest != zero && opt.NewDigest != idx.New.Digest:
		return fmt.Errorf("delta makes digest %v, wanted %v: %w", idx.New.Digest, opt.NewDigest, ErrMismatch)
	}
	return nil
}

// open lays out NEW.
func (r *Receiver) open(ctx context.Context) error {
	if r.idx.mode == modeOpaque {
		return r.openOpaque()
	}
	return r.openImages(ctx)
}

// openOpaque takes the layout from the index alone.
func (r *Receiver) openOpaque() (err error) {
	if r.layout, err = opaqueLayout(r.idx); err != nil {
		return err
	}
	r.neu = &model{units: r.layout.units}
	r.groups = groupDecoder{neu: r.neu, memory: r.memory, coders: &coders{}}
	return r.layout.cut(0, r.idx.New.Size, r.idx.New.Size)
}

// openImages rebuilds the metadata and lays out NEW by its block map.
func (r *Receiver) openImages(ctx context.Context) error {
	old, err := openImage(r.old, oldBlockMemory(r.opt))
	if err != nil {
		return fmt.Errorf("old image: %w", err)
	}
	if old.metaCheck() != r.idx.oldMeta {
		return fmt.Errorf("old image has other metadata: %w", ErrWrongOld)
	}
	if err := r.rebuild(old); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.layout, err = newLayout(r.idx, r.neu.units, old.model.units); err != nil {
		return err
	}
	if err := r.layout.cut(int64(len(r.head)), r.tailOff, r.idx.New.Size); err != nil {
		return err
	}
	exps, err := parseExpansions(r.idx.expansions, old.model)
	if err != nil {
		return err
	}
	sp := &space{old: old.content, exps: exps, plains: newPlains(r.opt.TempDir, plainsMemory(r.opt))}
	if sp.neu, err = newContent(r.neu, &assembled{r, r.opt.Incoming}, newBlockMemory(r.opt)); err != nil {
		return fmt.Errorf("rebuilt metadata: %w", err)
	}
	r.space = sp
	r.groups = groupDecoder{neu: r.neu, space: sp, pred: &basePredictor{old.model, r.neu, sp}, memory: r.memory, coders: &coders{}}
	return nil
}

// rebuild makes NEW's metadata.
func (r *Receiver) rebuild(old *image) error {
	cols, err := unpackColumns(r.idx.columns, newOldColumns(old.meta), min(maxColumnBytes, r.opt.memory()/4))
	if err != nil {
		return err
	}
	enc, err := r.encoders.get(context.Background())
	if err != nil {
		return err
	}
	defer r.encoders.put(enc)
	im, err := sqmeta.Rebuild(cols, enc.Metadata)
	if err != nil {
		return fmt.Errorf("rebuild metadata: %w: %w", err, ErrFormat)
	}
	if im.Size != r.idx.New.Size {
		return fmt.Errorf("metadata is for an image of %d bytes, not %d: %w", im.Size, r.idx.New.Size, ErrFormat)
	}
	meta, err := im.Meta(sqmeta.Limits{})
	if err != nil {
		return fmt.Errorf("rebuilt metadata: %w: %w", err, ErrFormat)
	}
	r.head, r.tail, r.tailOff = im.Head, im.Tail, im.TailOffset
	r.neu, err = newModel(meta)
	return err
}

// Layout gives the regions of NEW in order, without gap or overlap, from 0 to New.Size. Neighbours of the same origin are one
// region. The slice is the receiver's; do not change it.
func (r *Receiver) Layout() []Region { return r.layout.regions }

// Bytes gives the bytes of a RegionBytes region of Layout. The slice is the receiver's; do not change it.
func (r *Receiver) Bytes(reg Region) []byte {
	if reg.Off < int64(len(r.head)) {
		return r.head[reg.Off : reg.Off+reg.Len]
	}
	return r.tail[reg.Off-r.tailOff:][:reg.Len]
}

func (r *Receiver) regionAt(off int64) Region { return r.layout.regions[r.layout.regionIndex(off)] }

// GroupsAt lists the groups that must be decoded before the length bytes of NEW at off are complete, in ascending order.
// Groups that those need are listed as well.
func (r *Receiver) GroupsAt(off, length int64) []int { return r.layout.groupsAt(r.idx, off, length) }

// DecodeGroup makes the stored blocks of group g from its bytes on the wire and calls emit for each of them, in ascending order
// of off. stored is valid during the call only. It blocks while other calls use up the memory that Options allow. An error of
// emit ends it and is returned as it is; other errors match ErrFormat, ErrMismatch (the wire bytes are not those of the index, or
// make blocks of another length), ErrLimit, or come from OLD. What was emitted before an error must not be trusted; in any case
// only the tree proves it.
func (r *Receiver) DecodeGroup(ctx context.Context, g int, wire []byte, emit func(off int64, stored []byte) error) error {
	if g < 0 || g >= len(r.idx.Groups) {
		return fmt.Errorf("no group %d: %w", g, ErrFormat)
	}
	if sha256.Sum256(wire) != r.idx.Groups[g].SHA256 {
		return fmt.Errorf("checksum of group %d: %w", g, ErrMismatch)
	}
	if err := r.decodeGroup(ctx, g, wire, emit); err != nil {
		return fmt.Errorf("group %d: %w", g, err)
	}
	return nil
}

// Heavy tells whether decoding group g takes more than half of the memory that there is for all groups, so that others would wait for it: a kernel's takes
// half a minute. Bytes that are no group are not; DecodeGroup tells what is wrong with them.
func (r *Receiver) Heavy(g int, wire []byte) bool {
	if g < 0 || g >= len(r.idx.Groups) {
		return false
	}
	mc := r.groups.coders.get()
	defer r.groups.coders.put(mc)
	units := r.layout.unitsOf(g)
	f := newFields(wire, mc)
	sh, err := r.groups.readHead(f, units)
	if err != nil || len(sh.streams) == 0 {
		return false // without streams a group is not long enough
	}
	ops, err := r.groups.readOps(f, sh)
	return err == nil && sh.memory(ops)+r.excess(units, wire) > r.memory.limit/2
}

// decodeGroup decodes the units of one group and emits their stored bytes.
func (r *Receiver) decodeGroup(ctx context.Context, g int, wire []byte, emit func(off int64, stored []byte) error) error {
	units := r.layout.unitsOf(g)
	dec := r.groups
	if r.space != nil {
		dec.space = &neededSpace{r.space, r.layout, r.idx.Groups[g].Needs}
	}
	d, release, err := dec.decode(ctx, units, wire, r.excess(units, wire))
	defer release()
	if err != nil {
		return err
	}
	enc, err := r.encoders.get(ctx)
	if err != nil {
		return err
	}
	defer r.encoders.put(enc)
	var buf []byte
	for i, u := range units {
		if err := ctx.Err(); err != nil {
			return err
		}
		un := &r.neu.units[u]
		stored, err := d.next(i, un, enc, buf[:0])
		if err != nil {
			return err
		}
		buf = stored
		if err := emit(un.off, stored); err != nil {
			return err
		}
	}
	return nil
}

// excess is by how much a group's bytes, as they come and as they are stored, exceed what is set aside for them.
func (r *Receiver) excess(units []int32, wire []byte) int64 {
	n := int64(len(wire))
	for _, u := range units {
		n += r.neu.units[u].stored
	}
	return max(0, n-outputMemory(r.opt))
}

// next gives the stored bytes of the group's unit i, which follow those of the one before; dst is memory for them.
func (d *decoded) next(i int, un *unit, enc *pinned, dst []byte) ([]byte, error) {
	if d.shape.verbatim[i] {
		b := d.verbatim[:un.stored]
		d.verbatim = d.verbatim[un.stored:]
		return append(dst, b...), nil
	}
	raw := d.raw[:un.raw]
	d.raw = d.raw[un.raw:]
	return enc.store(dst, raw, un)
}

// Close releases the encoders and files. No method may be running or be called later.
func (r *Receiver) Close() error {
	if r.space != nil {
		r.space.plains.close()
	}
	return r.encoders.close()
}

// encoderPool lends encoders with the same settings, at most as many as goroutines work.
type encoderPool struct {
	settings encoder.Settings
	none     bool
	free     chan *pinned
}

// pinned is an encoder, or the place of one for images that have none.
type pinned struct {
	enc *encoder.Encoder
}

func newEncoderPool(settings string, n int) (*encoderPool, error) {
	p := &encoderPool{none: settings == "", free: make(chan *pinned, n)}
	if !p.none {
		s, err := encoder.ParseSettings(settings)
		if err != nil {
			return nil, fmt.Errorf("encoder %q: %w", settings, err)
		}
		p.settings = s
	}
	for range n {
		p.free <- &pinned{}
	}
	return p, nil
}

// get waits for an encoder.
func (p *encoderPool) get(ctx context.Context) (*pinned, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case e := <-p.free:
		if e.enc == nil && !p.none {
			enc, err := encoder.New(p.settings)
			if err != nil {
				p.free <- e
				return nil, err
			}
			e.enc = enc
		}
		return e, nil
	}
}

func (p *encoderPool) put(e *pinned) { p.free <- e }

// close closes the encoders, all of which must have been put back.
func (p *encoderPool) close() error {
	var err error
	for range cap(p.free) {
		if e := <-p.free; e.enc != nil {
			err = errors.Join(err, e.enc.Close())
		}
	}
	return err
}

// errNoEncoder is for content that would have to be compressed in an image without a pinned encoder.
var errNoEncoder = fmt.Errorf("compressed block in an image without encoder: %w", ErrFormat)

// Metadata is the sqmeta.Compress of the image.
func (e *pinned) Metadata(dst, src []byte) ([]byte, bool, error) {
	if e.enc == nil {
		return nil, false, errNoEncoder
	}
	return e.enc.Metadata(dst, src)
}

// store appends the stored bytes of a unit with the given content to dst.
func (e *pinned) store(dst, raw []byte, un *unit) ([]byte, error) {
	if !un.packed {
		return append(dst, raw...), nil
	}
	if e.enc == nil {
		return nil, errNoEncoder
	}
	out, packed, err := e.enc.Block(dst, raw)
	if err != nil {
		return nil, err
	}
	if !packed || int64(len(out)) != un.stored {
		return nil, fmt.Errorf("block at %d is stored in %d bytes, not %d: %w", un.off, len(out), un.stored, ErrMismatch)
	}
	return out, nil
}
