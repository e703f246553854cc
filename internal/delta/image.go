package delta

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// image is a parsed image that is read from.
type image struct {
	src     Source
	meta    *sqmeta.Meta
	model   *model
	content *content
}

// openImage parses the metadata; cacheBytes is for expanded blocks.
func openImage(src Source, cacheBytes int64) (*image, error) {
	meta, err := sqmeta.Parse(src, src.Size())
	if err != nil {
		return nil, fmt.Errorf("image metadata: %w", err)
	}
	m, err := newModel(meta)
	if err != nil {
		return nil, err
	}
	c, err := newContent(m, src, cacheBytes)
	if err != nil {
		return nil, err
	}
	return &image{src, meta, m, c}, nil
}

// openOpaque treats an image as bytes.
func openOpaque(ctx context.Context, src Source) (*image, error) {
	units, err := cutOpaque(ctx, src)
	if err != nil {
		return nil, err
	}
	return &image{src: src, model: &model{units: units}}, nil
}

// metaCheck is a hash of the metadata as it is stored.
func (im *image) metaCheck() [oldMetaLen]byte {
	h := sha256.New()
	h.Write(im.meta.Image().Head)
	h.Write(im.meta.Image().Tail)
	return [oldMetaLen]byte(h.Sum(nil))
}

// assembled reads NEW as far as it is there: metadata from memory, copied units from OLD, the others from what has been emitted.
type assembled struct {
	r        *Receiver
	incoming io.ReaderAt
}

// Size implements Source.
func (a *assembled) Size() int64 { return a.r.idx.New.Size }

// ReadAt implements io.ReaderAt.
func (a *assembled) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		if off >= a.Size() {
			return done, io.EOF
		}
		reg := a.r.regionAt(off)
		in := off - reg.Off
		n := int(min(int64(len(p)-done), reg.Len-in))
		dst := p[done : done+n]
		var err error
		switch {
		case reg.Kind == RegionBytes:
			copy(dst, a.r.Bytes(reg)[in:])
		case reg.Kind == RegionCopy:
			err = readAt(a.r.old, dst, reg.OldOff+in)
		case a.incoming == nil:
			err = fmt.Errorf("bytes of group %d are not at hand: %w", reg.Group, ErrFormat)
		default:
			err = readAt(a.incoming, dst, off)
		}
		if err != nil {
			return done, err
		}
		done, off = done+n, off+int64(n)
	}
	return done, nil
}
