package publish

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Store is the controller's side of an upload.
type Store interface {
	// FindMissing returns those of ids (at most FindBatch) that the controller lacks.
	FindMissing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
	// Put sends chunks until next returns io.EOF. data is valid until the following call of next.
	Put(ctx context.Context, next func() (id chunk.ID, data []byte, err error)) error
}

// FindBatch is how many IDs one FindMissing may carry.
const FindBatch = 8192

// Meter is told how far an upload is; *progress.Bar is one.
type Meter interface {
	Total(bytes uint64)
	Add(bytes uint64)
}

// UploadStats tells what an upload did.
type UploadStats struct {
	Chunks, Bytes         uint64 // of the version, each distinct chunk once
	SentChunks, SentBytes uint64
}

// place is where the bytes of a chunk are.
type place struct {
	file   io.ReaderAt
	offset int64
	size   uint32
}

// Upload sends the chunks of a prepared version that the controller lacks. It may be interrupted anywhere and run again: what
// arrived is not sent twice. meter may be nil.
func Upload(ctx context.Context, p *Prepared, store Store, meter Meter) (UploadStats, error) {
	places, order := p.places()
	stats := UploadStats{Chunks: uint64(len(order))}
	for _, id := range order {
		stats.Bytes += uint64(places[id].size)
	}
	missing, err := findMissing(ctx, order, store)
	if err != nil {
		return stats, fmt.Errorf("ask which chunks are missing: %w", err)
	}
	for _, id := range missing {
		stats.SentBytes += uint64(places[id].size)
	}
	if meter != nil {
		meter.Total(stats.SentBytes)
	}
	if len(missing) == 0 {
		return stats, nil
	}
	err = store.Put(ctx, sender(missing, places, func(n int) {
		stats.SentChunks++
		if meter != nil {
			meter.Add(uint64(n))
		}
	}))
	if err != nil {
		return stats, fmt.Errorf("upload chunks: %w", err)
	}
	return stats, nil
}

// sender returns the source of Put: it reads and checks the chunks one after the other.
func sender(ids []chunk.ID, places map[chunk.ID]place, sent func(bytes int)) func() (chunk.ID, []byte, error) {
	buffer := make([]byte, chunk.MaxSize)
	i := 0
	return func() (chunk.ID, []byte, error) {
		if i == len(ids) {
			return chunk.ID{}, nil, io.EOF
		}
		id := ids[i]
		at := places[id]
		data := buffer[:at.size]
		if n, err := at.file.ReadAt(data, at.offset); err != nil && (!errors.Is(err, io.EOF) || n < len(data)) {
			return id, nil, fmt.Errorf("read chunk at offset %d: %w", at.offset, err)
		}
		if err := chunk.Verify(id, data); err != nil {
			return id, nil, fmt.Errorf("the file changed while it was published: %w", err)
		}
		i++
		sent(len(data))
		return id, data, nil
	}
}

func findMissing(ctx context.Context, ids []chunk.ID, store Store) ([]chunk.ID, error) {
	var missing []chunk.ID
	for len(ids) > 0 {
		n := min(len(ids), FindBatch)
		lacks, err := store.FindMissing(ctx, ids[:n])
		if err != nil {
			return nil, err
		}
		missing = append(missing, lacks...)
		ids = ids[n:]
	}
	return missing, nil
}

// Prepared is a version that is ready to be uploaded: its draft manifest and the files behind the artifacts. The caller closes it.
type Prepared struct {
	Draft *manifest.Manifest
	// Delta, if not nil, is what is uploaded instead of the squashfs. Set it to nil to upload the squashfs after all.
	Delta *Delta
	files map[string]io.ReaderAt // by artifact name
	close []func() error
}

// Close releases the files.
func (p *Prepared) Close() error {
	var errs []error
	for _, f := range p.close {
		errs = append(errs, f())
	}
	p.close = nil
	return errors.Join(errs...)
}

// places lists each distinct chunk once, in the order of the artifacts.
func (p *Prepared) places() (map[chunk.ID]place, []chunk.ID) {
	places := map[chunk.ID]place{}
	var order []chunk.ID
	add := func(file io.ReaderAt, chunks []chunk.Ref) {
		var offset int64
		for _, c := range chunks {
			if _, seen := places[c.ID]; !seen {
				places[c.ID] = place{file: file, offset: offset, size: c.Size}
				order = append(order, c.ID)
			}
			offset += int64(c.Size)
		}
	}
	for _, a := range p.Draft.Artifacts {
		if p.Delta != nil && a.Name == manifest.Squashfs {
			add(p.Delta.file, p.Delta.Chunks)
			continue
		}
		add(p.files[a.Name], a.Chunks)
	}
	return places, order
}

// EncodeDraft encodes the draft without the chunk list that the controller makes itself.
func (p *Prepared) EncodeDraft() ([]byte, error) {
	return p.Draft.EncodeListed(func(artifact string) bool { return p.Delta == nil || artifact != manifest.Squashfs })
}
