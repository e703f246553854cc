package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// probeSamples is how many blocks of NEW are compressed to find out with which settings it was made.
const probeSamples = 48

// Make writes the delta from OLD to NEW to w, and returns what it consists of. The result depends on the images and opt.MemoryBytes alone. Each
// group has been decoded with the receiver's own code and compared before anything is written. It blocks until all is done or
// ctx ends; after an error w may hold a part of a delta.
func Make(ctx context.Context, old, new Source, w io.Writer, opt Options) (*Stats, error) {
	m := &maker{opt: opt, progress: &sync.Mutex{}, stats: &Stats{}, searching: newBudget(groupMemory(opt))}
	if err := m.open(ctx, old, new); err != nil {
		return nil, err
	}
	if err := m.identify(ctx); err != nil {
		return nil, err
	}
	err := m.make(ctx, w)
	if m.rec != nil {
		err = errors.Join(err, m.rec.Close())
	}
	if err != nil {
		return nil, err
	}
	return m.stats, nil
}

// maker is one call of Make.
type maker struct {
	opt       Options
	progress  *sync.Mutex
	old, neu  *image
	index     Index
	pieces    [][32]byte // hashes of all pieces of NEW
	layout    *layout
	plan      *plan
	rec       *Receiver // without groups: it decodes what is made here
	differ    *differ
	spool     *spool
	searching *budget // for files that are searched for nested streams

	mu    sync.Mutex // guards stats
	stats *Stats
}

// open parses both images. If one of them cannot be read, both are treated as bytes.
func (m *maker) open(ctx context.Context, old, new Source) (err error) {
	m.old, err = openImage(old, oldBlockMemory(m.opt))
	if err == nil {
		m.neu, err = openImage(new, newBlockMemory(m.opt))
	}
	if !unreadable(err) {
		return err
	}
	m.index.mode = modeOpaque
	if m.old, err = openOpaque(ctx, old); err != nil {
		return fmt.Errorf("old image: %w", err)
	}
	if m.neu, err = openOpaque(ctx, new); err != nil {
		return fmt.Errorf("new image: %w", err)
	}
	return nil
}

func (m *maker) stage(name string, total int64) *counter {
	return &counter{mu: m.progress, f: m.opt.Progress, stage: name, total: total}
}

// identify hashes both images and finds what can be copied.
func (m *maker) identify(ctx context.Context) (err error) {
	x, par := &m.index, m.opt.parallel()
	progress := m.stage("hash", m.old.src.Size()+m.neu.src.Size())
	if x.Old, _, err = identify(ctx, m.old.src, par); err != nil {
		return fmt.Errorf("old image: %w", err)
	}
	progress.add(x.Old.Size)
	if x.New, m.pieces, err = identify(ctx, m.neu.src, par); err != nil {
		return fmt.Errorf("new image: %w", err)
	}
	progress.add(x.New.Size)
	if err := checkIdentity(x, x.Old.Size, m.opt); err != nil {
		return err
	}
	oldHashes, err := hashUnits(ctx, m.old.src, m.old.model.units, par)
	if err != nil {
		return fmt.Errorf("old image: %w", err)
	}
	newHashes, err := hashUnits(ctx, m.neu.src, m.neu.model.units, par)
	if err != nil {
		return fmt.Errorf("new image: %w", err)
	}
	x.runs = findRuns(oldHashes, newHashes)
	return m.lay()
}

// lay places NEW's units by the runs.
func (m *maker) lay() (err error) {
	x := &m.index
	if x.mode == modeOpaque {
		x.runs = byteRuns(x.runs, m.old.model.units, m.neu.model.units)
		m.layout, err = opaqueLayout(x)
		m.neu.model = &model{units: m.layout.units}
	} else {
		x.oldMeta = m.old.metaCheck()
		m.layout, err = newLayout(x, m.neu.model.units, m.old.model.units)
	}
	if errors.Is(err, errUnassigned) {
		return nil
	}
	return err
}

// make does the work after the images are known.
func (m *maker) make(ctx context.Context, w io.Writer) (err error) {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	if err := m.planGroups(ctx); err != nil {
		return err
	}
	m.spool = newSpool(m.opt.TempDir, len(m.plan.groups), spoolMemory(m.opt))
	defer m.spool.close(&err)
	if err := m.encodeGroups(ctx); err != nil {
		return err
	}
	m.index.proof = newProof(m.pieces, dirtyPieces(m.neu.model, m.layout.changed))
	head := m.index.encode(m.stats)
	if err := m.prove(ctx, head); err != nil {
		return err
	}
	m.count(head)
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return m.spool.writeTo(w)
}

// prepare finds the encoder, codes the metadata, and sets up the receiver that proves the groups.
func (m *maker) prepare(ctx context.Context) error {
	if m.index.mode == modeOpaque {
		return m.prepareOpaque()
	}
	settings, _, _, err := encoder.Probe(ctx, m.neu.content.fs, probeSamples)
	switch {
	case err == nil:
		m.index.encoder = settings.String()
	case !errors.Is(err, encoder.ErrNoEncoder):
		return fmt.Errorf("probe the new image: %w", err)
	}
	pool, err := newEncoderPool(m.index.encoder, m.opt.parallel())
	if err != nil {
		return err
	}
	m.rec = &Receiver{idx: &m.index, old: m.old.src, opt: m.opt, encoders: pool, memory: newPool(groupMemory(m.opt))}
	if m.index.columns, err = m.packMetadata(ctx); err != nil {
		return err
	}
	if err := m.rec.rebuild(m.old); err != nil {
		return fmt.Errorf("prove metadata: %w", err)
	}
	im := m.neu.meta.Image()
	if !bytes.Equal(m.rec.head, im.Head) || !bytes.Equal(m.rec.tail, im.Tail) || m.rec.tailOff != im.TailOffset {
		return fmt.Errorf("prove metadata: %w", ErrMismatch)
	}
	m.rec.neu, m.rec.head, m.rec.tail = m.neu.model, im.Head, im.Tail // what was rebuilt is the same; keep one
	sp := &space{old: m.old.content, plains: newPlains(m.opt.TempDir, plainsMemory(m.opt)), neu: m.neu.content}
	m.rec.groups = groupDecoder{neu: m.rec.neu, space: sp, pred: &basePredictor{m.old.model, m.rec.neu, sp}, memory: m.rec.memory, coders: &coders{}}
	m.rec.space = sp
	m.differ = newDiffer(m.old, m.neu, sp, m.opt.memory(), m.rec.memory)
	return nil
}

// prepareOpaque sets up the receiver for images that are treated as bytes.
func (m *maker) prepareOpaque() error {
	pool, err := newEncoderPool("", m.opt.parallel())
	if err != nil {
		return err
	}
	m.rec = &Receiver{idx: &m.index, old: m.old.src, opt: m.opt, encoders: pool, memory: newPool(groupMemory(m.opt)), neu: m.neu.model}
	m.rec.groups = groupDecoder{neu: m.neu.model, memory: m.rec.memory, coders: &coders{}}
	return nil
}

// packMetadata codes NEW's metadata against OLD's.
func (m *maker) packMetadata(ctx context.Context) ([]byte, error) {
	enc, err := m.rec.encoders.get(ctx)
	if err != nil {
		return nil, err
	}
	defer m.rec.encoders.put(enc)
	cols := m.neu.meta.Verbatim()
	if enc.enc != nil {
		if cols, err = sqmeta.Best(m.neu.meta, enc.Metadata); err != nil {
			return nil, fmt.Errorf("metadata of the new image: %w", err)
		}
	}
	return packColumns(ctx, cols, newOldColumns(m.old.meta))
}

// encodeGroups makes, proves and keeps all groups.
func (m *maker) encodeGroups(ctx context.Context) error {
	m.index.Groups = make([]Group, len(m.plan.groups))
	var total int64
	for _, u := range m.layout.changed {
		total += m.neu.model.units[u].raw
	}
	progress := m.stage("diff", total)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(m.opt.parallel())
	for i := range m.plan.groups {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := m.encodeGroup(ctx, i); err != nil {
				return fmt.Errorf("group %d: %w", i, err)
			}
			progress.add(m.index.Groups[i].RawBytes)
			return nil
		})
	}
	return g.Wait()
}

func (m *maker) encodeGroup(ctx context.Context, g int) error {
	gp := &m.plan.groups[g]
	verbatim := make([]bool, len(gp.units))
	for i, u := range gp.units {
		un := &m.neu.model.units[u]
		verbatim[i] = un.gap || un.packed && m.index.encoder == ""
	}
	for attempt := 0; ; attempt++ {
		wire, st, bad, err := m.tryGroup(ctx, gp, verbatim)
		if errors.Is(err, ErrLimit) && attempt < 3 {
			gp = simpler(gp, verbatim)
			continue
		}
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			m.accept(g, wire, st, verbatim)
			return m.spool.put(g, wire)
		}
		for _, i := range bad {
			verbatim[i] = true
		}
		if attempt == 3 {
			return fmt.Errorf("blocks are not reproduced: %w", ErrMismatch)
		}
	}
}

// tryGroup makes the bytes of a group and lists the units that a receiver does not make right.
func (m *maker) tryGroup(ctx context.Context, gp *groupPlan, verbatim []bool) (wire []byte, st groupStats, bad []int, err error) {
	sh := newShape(m.rec.neu, gp.units, verbatim)
	if err := sh.setStreams(streamsWithin(sh, gp.streams)); err != nil {
		return nil, st, nil, err
	}
	if wire, st, err = m.draftGroup(ctx, gp, sh); err != nil {
		return nil, st, nil, err
	}
	bad, err = m.replay(ctx, gp.units, wire)
	return wire, st, bad, err
}

// simpler gives a plan for the same units that takes less memory: without nested streams or, if there are none, with stored bytes.
func simpler(gp *groupPlan, verbatim []bool) *groupPlan {
	if len(gp.streams) > 0 {
		return &groupPlan{units: gp.units}
	}
	for i := range verbatim {
		verbatim[i] = true
	}
	return gp
}

// accept notes a proved group.
func (m *maker) accept(g int, wire []byte, st groupStats, verbatim []bool) {
	d := &m.index.Groups[g]
	d.Length, d.SHA256, d.Blocks = int64(len(wire)), sha256.Sum256(wire), len(verbatim)
	for _, u := range m.plan.groups[g].units {
		d.RawBytes += m.neu.model.units[u].raw
		d.StoredBytes += m.neu.model.units[u].stored
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.OpBytes += st.ops
	s.PatchBytes += st.patch
	s.LiteralStoredBytes += st.literal[codecStored]
	s.LiteralLZMABytes += st.literal[codecLZMA] + st.literal[codecLZMACalls]
	s.LiteralMixBytes += st.literal[codecMix]
	s.VerbatimBytes += st.verbatim
	s.PatchedRawBytes += st.patchedRaw
	s.LiteralRawBytes += st.literalRaw
	s.NestedStreams += st.streams
	s.ChangedRawBytes += d.RawBytes
	for _, v := range verbatim {
		if v {
			s.VerbatimBlocks++
		}
	}
}

// takeDraft takes the memory for making a group's bytes: for the content of its units and of its pieces, for what is coded of it (which comes twice),
// and for a reference. Not all of that is needed at the same time; a group for which it is too much has to be alone.
func (m *maker) takeDraft(ctx context.Context, sh *shape) (release func(), err error) {
	var verbatim int64
	for i, u := range sh.units {
		if sh.verbatim[i] {
			verbatim += m.rec.neu.units[u].stored
		}
	}
	n, ref := sh.contentLen(), m.differ.referenceMemory(sh)
	least := sh.rawLen + n + verbatim
	most := least + 2*n + literalMemory(n)
	return m.rec.memory.take(ctx, max(least, min(most, m.rec.memory.usual-ref)), ref)
}

// draftGroup makes the bytes of a group.
func (m *maker) draftGroup(ctx context.Context, gp *groupPlan, sh *shape) ([]byte, groupStats, error) {
	neu := m.rec.neu
	release, err := m.takeDraft(ctx, sh)
	defer release()
	if err != nil {
		return nil, groupStats{}, err
	}
	d := groupDraft{shape: sh, coders: m.rec.groups.coders}
	if err := m.readGroup(&d); err != nil {
		return nil, groupStats{}, err
	}
	d.ops = make([][]op, len(sh.pieces))
	content := d.content
	for i := range sh.pieces {
		p := &sh.pieces[i]
		ops, err := m.differ.diff(ctx, sh, p, content[:p.n:p.n])
		content = content[p.n:]
		if err != nil {
			return nil, groupStats{}, err
		}
		d.ops[i] = ops
	}
	limit := min(m.rec.memory.limit, groupMemory(Options{})) // receivers have the default if not more
	if n := sh.memory(slices.Concat(d.ops...)) + int64(len(d.verbatim)) + m.rec.excess(gp.units, d.verbatim); n > limit {
		return nil, groupStats{}, memoryError(n, limit)
	}
	return d.encode(m.rec.groups.space, m.rec.groups.pred, neu)
}

// readGroup reads what a group consists of: the content of its pieces, and the stored bytes of the verbatim units.
func (m *maker) readGroup(d *groupDraft) error {
	neu := m.rec.neu
	raw := make([]byte, 0, d.shape.rawLen)
	for i, u := range d.shape.units {
		if d.shape.verbatim[i] {
			b := make([]byte, neu.units[u].stored)
			if err := readAt(m.neu.src, b, neu.units[u].off); err != nil {
				return err
			}
			d.verbatim = append(d.verbatim, b...)
			continue
		}
		b, err := m.neu.content.unit(u)
		if err != nil {
			return err
		}
		raw = append(raw, b[:neu.units[u].raw]...)
	}
	return m.pieceContents(d, raw)
}

// pieceContents makes the content of a group's pieces from the raw content of its units.
func (m *maker) pieceContents(d *groupDraft, raw []byte) error {
	d.content = make([]byte, 0, d.shape.contentLen())
	made := 0
	for _, f := range d.shape.fills {
		p := &d.shape.pieces[f.piece]
		if f.piece == made {
			made++
			if p.stream < 0 {
				d.content = append(d.content, raw[:f.n]...)
			} else if err := m.plaintext(d, &d.shape.streams[p.stream]); err != nil {
				return err
			}
		}
		raw = raw[f.n:]
	}
	return nil
}

// plaintext appends the plaintext of a stream of NEW to the content.
func (m *maker) plaintext(d *groupDraft, st *stream) error {
	stored := io.NewSectionReader(fileReader{m.neu.content, st.file}, st.off, st.n)
	return nested.Unpack((*appender)(&d.content), st.described(), stored, maxNestedPlain)
}

// appender is a slice that is written to.
type appender []byte

// Write implements io.Writer.
func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}
