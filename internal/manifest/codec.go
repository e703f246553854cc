package manifest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// The format version that Encode writes and Decode reads.
const formatVersion = 2

var (
	magic     = []byte("LTSPMANI")
	signMagic = []byte("LTSPSIGN")
)

// signDomain keeps a manifest signature from being taken for a signature over anything else.
const signDomain = "ltsp-fleet manifest signature v2\x00"

// Encode returns the manifest's bytes: the head, and the lists of all artifacts that have theirs. It validates first.
func (m *Manifest) Encode() ([]byte, error) { return m.EncodeListed(nil) }

// EncodeListed is Encode with the lists of the artifacts that pick names; nil means all that there are.
func (m *Manifest) EncodeListed(pick func(artifact string) bool) ([]byte, error) {
	b, err := m.encodeHead()
	if err != nil {
		return nil, err
	}
	return m.picked(pick).appendLists(b), nil
}

// picked returns a manifest with the lists of some artifacts, good for appendLists only.
func (m *Manifest) picked(pick func(artifact string) bool) *Manifest {
	out := &Manifest{Artifacts: append([]Artifact(nil), m.Artifacts...)}
	for i := range out.Artifacts {
		if a := &out.Artifacts[i]; pick != nil && !pick(a.Name) {
			a.Chunks = nil
		}
	}
	return out
}

// encodeHead returns what a signature covers.
func (m *Manifest) encodeHead() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	var b []byte
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	for _, s := range []string{string(m.Kind), m.Name, m.Arch, m.Release, m.OS, m.Note, m.Source, m.Publisher} {
		b = appendText(b, s)
	}
	b = binary.BigEndian.AppendUint64(b, m.Number)
	var created int64
	if !m.Created.IsZero() {
		created = m.Created.Unix()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(created))
	b = append(b, m.Digest[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Artifacts)))
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		list := a.List()
		b = appendText(b, a.Name)
		b = appendText(b, a.Path)
		b = binary.BigEndian.AppendUint64(b, a.Size)
		b = append(b, a.SHA256[:]...)
		b = binary.BigEndian.AppendUint32(b, list.Count)
		b = append(b, list.SHA256[:]...)
	}
	return b, nil
}

// appendLists appends the lists that are there.
func (m *Manifest) appendLists(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0)
	var n uint16
	for i := range m.Artifacts {
		if a := &m.Artifacts[i]; len(a.Chunks) > 0 {
			n++
			b = binary.BigEndian.AppendUint16(b, uint16(i))
			b = appendRefs(b, a.Chunks)
		}
	}
	binary.BigEndian.PutUint16(b[at:], n)
	return b
}

func appendRefs(b []byte, refs []chunk.Ref) []byte {
	for i := range refs {
		b = append(b, refs[i].ID[:]...)
		b = binary.BigEndian.AppendUint32(b, refs[i].Size)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// Decode reads an unsigned manifest. Errors are ErrFormat or ErrVersion.
func Decode(data []byte) (*Manifest, error) {
	m, head, err := decodeHead(data)
	if err != nil {
		return nil, err
	}
	if err := m.readLists(data[head:]); err != nil {
		return nil, err
	}
	return m, m.Validate()
}

// decodeHead reads the part that a signature covers and tells how long it is.
func decodeHead(data []byte) (*Manifest, int, error) {
	if len(data) > MaxEncodedBytes {
		return nil, 0, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrFormat, len(data), MaxEncodedBytes)
	}
	r := reader{data: data}
	if !bytes.Equal(r.take(len(magic)), magic) {
		return nil, 0, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if v := r.u16(); v != formatVersion && r.err == nil {
		return nil, 0, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, formatVersion)
	}
	m := &Manifest{Kind: Kind(r.text()), Name: r.text(), Arch: r.text(), Release: r.text(), OS: r.text(), Note: r.text(), Source: r.text(), Publisher: r.text()}
	m.Number = r.u64()
	if created := int64(r.u64()); created != 0 {
		m.Created = time.Unix(created, 0).UTC()
	}
	copy(m.Digest[:], r.take(32))
	budget := uint32(MaxChunks)
	for range int(r.u16()) {
		if r.err != nil {
			break
		}
		m.Artifacts = append(m.Artifacts, r.artifact(&budget))
	}
	return m, len(data) - len(r.data), r.err
}

// readLists reads the lists behind the head. A list that is not what the head says is an ErrFormat.
func (m *Manifest) readLists(data []byte) error {
	r := reader{data: data}
	next := 0
	for range int(r.u16()) {
		i := int(r.u16())
		if r.err != nil {
			return r.err
		}
		if i < next || i >= len(m.Artifacts) {
			r.fail("list of artifact %d out of order", i)
			return r.err
		}
		next = i + 1
		a := &m.Artifacts[i]
		if uint64(a.listed.Count) > uint64(len(r.data)/chunkRefBytes) || a.listed.Count == 0 {
			r.fail("list of artifact %q: %d chunks, %d bytes are left", a.Name, a.listed.Count, len(r.data))
			return r.err
		}
		if err := a.SetList(r.refs(int(a.listed.Count))); err != nil {
			return err
		}
	}
	if r.err == nil && len(r.data) != 0 {
		r.fail("%d bytes behind the end", len(r.data))
	}
	return r.err
}

// reader takes fields off the front of data; after the first error it returns zeros.
type reader struct {
	data []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.data) {
		r.fail("it ends %d bytes early", n-len(r.data))
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text() string {
	n := int(r.u16())
	if n > MaxText {
		r.fail("text of %d bytes, at most %d allowed", n, MaxText)
		return ""
	}
	return string(r.take(n))
}

const chunkRefBytes = 36 // ID and size

func (r *reader) artifact(budget *uint32) Artifact {
	a := Artifact{Name: r.text(), Path: r.text(), Size: r.u64()}
	copy(a.SHA256[:], r.take(32))
	a.listed.Count = r.u32()
	copy(a.listed.SHA256[:], r.take(32))
	if a.listed.Count > *budget {
		r.fail("artifact %q claims %d chunks, a manifest has at most %d", a.Name, a.listed.Count, MaxChunks)
		return a
	}
	*budget -= a.listed.Count
	return a
}

func (r *reader) refs(n int) []chunk.Ref {
	refs := make([]chunk.Ref, n)
	for i := range refs {
		copy(refs[i].ID[:], r.take(32))
		refs[i].Size = r.u32()
	}
	return refs
}

const signedHead = 8 + ed25519.SignatureSize // bytes before the manifest in a signed one

// Sign encodes the manifest and puts a signature over its head in front. The result is what travels and lies on disks.
func Sign(m *Manifest, key ed25519.PrivateKey) ([]byte, error) {
	head, err := m.encodeHead()
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), signMagic...)
	out = append(out, ed25519.Sign(key, append([]byte(signDomain), head...))...)
	return m.appendLists(append(out, head...)), nil
}

// Open checks the signature of a signed manifest against one of the keys and decodes it, with the lists that are there.
// Errors are ErrSignature, ErrFormat or ErrVersion.
func Open(signed []byte, keys ...ed25519.PublicKey) (*Manifest, error) {
	if len(signed) < signedHead || !bytes.HasPrefix(signed, signMagic) {
		return nil, fmt.Errorf("%w: it is not a signed manifest", ErrFormat)
	}
	sig, body := signed[len(signMagic):signedHead], signed[signedHead:]
	_, head, err := decodeHead(body)
	if err != nil {
		return nil, err
	}
	message := append([]byte(signDomain), body[:head]...)
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, sig) {
			return Decode(body)
		}
	}
	return nil, ErrSignature
}

// WithLists returns a signed manifest, which may have lists or not, with the chunk lists of m, which must be the same manifest; pick says which
// artifacts' lists, nil means all that m has. The signature is not checked. Errors are ErrFormat or ErrVersion.
func WithLists(signed []byte, m *Manifest, pick func(artifact string) bool) ([]byte, error) {
	if len(signed) < signedHead || !bytes.HasPrefix(signed, signMagic) {
		return nil, fmt.Errorf("%w: it is not a signed manifest", ErrFormat)
	}
	_, head, err := decodeHead(signed[signedHead:])
	if err != nil {
		return nil, err
	}
	return m.picked(pick).appendLists(bytes.Clone(signed[:signedHead+head])), nil
}
