package squashfs

// Decoder expands stored blocks of one compressor, for callers that read the tables of an image by themselves. It is safe for concurrent use.
type Decoder struct {
	dec decoder
}

// NewDecoder gives the decoder for c; a CompressorError if there is none.
func NewDecoder(c Compressor) (*Decoder, error) {
	dec, err := newDecoder(c)
	if err != nil {
		return nil, err
	}
	return &Decoder{dec: dec}, nil
}

// Decode expands one stored block into dst and says how many bytes it gave. A block that would give more than len(dst) is an error.
func (d *Decoder) Decode(dst, src []byte) (int, error) { return d.dec.decode(dst, src) }
