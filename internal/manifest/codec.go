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
const formatVersion = 1

var (
	magic     = []byte("LTSPMANI")
	signMagic = []byte("LTSPSIGN")
)

// signDomain keeps a manifest signature from being taken for a signature over anything else.
const signDomain = "ltsp-fleet manifest signature v1\x00"

// Encode returns the manifest's bytes. It validates first.
func (m *Manifest) Encode() ([]byte, error) {
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
	for _, a := range m.Artifacts {
		b = appendText(b, a.Name)
		b = binary.BigEndian.AppendUint64(b, a.Size)
		b = append(b, a.SHA256[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(a.Chunks)))
		for _, c := range a.Chunks {
			b = append(b, c.ID[:]...)
			b = binary.BigEndian.AppendUint32(b, c.Size)
		}
	}
	return b, nil
}

func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// Decode reads an unsigned manifest. Errors are ErrFormat or ErrVersion.
func Decode(data []byte) (*Manifest, error) {
	if len(data) > MaxEncodedBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrFormat, len(data), MaxEncodedBytes)
	}
	r := reader{data: data}
	if !bytes.Equal(r.take(len(magic)), magic) {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if v := r.u16(); v != formatVersion && r.err == nil {
		return nil, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, v, formatVersion)
	}
	m := &Manifest{Kind: Kind(r.text()), Name: r.text(), Arch: r.text(), Release: r.text(), OS: r.text(), Note: r.text(), Source: r.text(), Publisher: r.text()}
	m.Number = r.u64()
	if created := int64(r.u64()); created != 0 {
		m.Created = time.Unix(created, 0).UTC()
	}
	copy(m.Digest[:], r.take(32))
	budget := MaxChunks
	for range int(r.u16()) {
		if r.err != nil {
			break
		}
		m.Artifacts = append(m.Artifacts, r.artifact(&budget))
	}
	if r.err == nil && len(r.data) != 0 {
		r.fail("%d bytes behind the end", len(r.data))
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, m.Validate()
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

func (r *reader) artifact(budget *int) Artifact {
	a := Artifact{Name: r.text(), Size: r.u64()}
	copy(a.SHA256[:], r.take(32))
	n := int(r.u32())
	if n > *budget || n > len(r.data)/chunkRefBytes {
		r.fail("artifact %q claims %d chunks, more than there are", a.Name, n)
		return a
	}
	*budget -= n
	a.Chunks = make([]chunk.Ref, 0, n)
	for range n {
		var c chunk.Ref
		copy(c.ID[:], r.take(32))
		c.Size = r.u32()
		a.Chunks = append(a.Chunks, c)
	}
	return a
}

// Sign encodes the manifest and puts a signature in front. The result is what travels and lies on disks.
func Sign(m *Manifest, key ed25519.PrivateKey) ([]byte, error) {
	body, err := m.Encode()
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), signMagic...)
	out = append(out, ed25519.Sign(key, append([]byte(signDomain), body...))...)
	return append(out, body...), nil
}

// Open checks the signature of a signed manifest against one of the keys and decodes it. Errors are ErrSignature, ErrFormat or ErrVersion.
func Open(signed []byte, keys ...ed25519.PublicKey) (*Manifest, error) {
	head := len(signMagic) + ed25519.SignatureSize
	if len(signed) < head || !bytes.HasPrefix(signed, signMagic) {
		return nil, fmt.Errorf("%w: it is not a signed manifest", ErrFormat)
	}
	sig, body := signed[len(signMagic):head], signed[head:]
	message := append([]byte(signDomain), body...)
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, sig) {
			return Decode(body)
		}
	}
	return nil, ErrSignature
}
