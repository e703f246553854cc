package school

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Sizes of text files: most are short, as in any system.
const (
	longText  = 1 << 20
	shortText = 24 << 10
)

// writeText writes text in its present edition, long and short files in turn, and what each edition has added.
func (o Synthetic) writeText(tree string) error {
	words := o.words()
	left := o.Bytes
	for i := 0; left > 0; i++ {
		size := min(left, longText)
		if i%2 == 1 {
			size = min(left, shortText)
		}
		text := o.prose(i, size, words)
		for e := 1; e <= o.Edition && left < o.Bytes/2; e++ {
			text = o.edit(text, i, e, words)
		}
		left -= size
		if err := writeFile(tree, fmt.Sprintf("usr/share/text/%04d", i), text); err != nil {
			return err
		}
	}
	return o.writeFresh(tree)
}

// words is the vocabulary of an image.
func (o Synthetic) words() [][]byte {
	r := rand.New(rand.NewPCG(o.Seed, 0))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(9), 12)
		for j := range words[i] {
			words[i][j] = byte('a' + r.IntN(26))
		}
		words[i] = append(words[i], ' ')
	}
	return words
}

// prose writes the first edition of file i. Low words are frequent.
func (o Synthetic) prose(i int, size int64, words [][]byte) []byte {
	r := rand.New(rand.NewPCG(o.Seed, uint64(i)+1))
	text := make([]byte, 0, size+16)
	for int64(len(text)) < size {
		text = append(text, words[r.IntN(1+r.IntN(len(words)))]...)
	}
	return text[:size]
}

// edit makes edition e of file i out of the one before: a word here and there, now in the place of another, now beside it. Every third
// file stays as it is, and so does the first half of the image.
func (o Synthetic) edit(text []byte, i, e int, words [][]byte) []byte {
	if (i/2+e)%3 == 0 {
		return text
	}
	r := rand.New(rand.NewPCG(o.Seed^uint64(e)<<32, uint64(i)))
	for range 1 + len(text)/(96<<10) {
		at, word := r.IntN(len(text)), words[r.IntN(len(words))]
		if r.IntN(2) == 0 {
			text = slices.Insert(text, at, word...)
			continue
		}
		copy(text[at:], word)
	}
	return text
}

// writeFresh writes the noise that no edition changes before the text, and that of the present edition behind it, in files of up to 256 KiB.
func (o Synthetic) writeFresh(tree string) error {
	if err := writeNoiseFiles(tree, "usr/share/ballast/", fmt.Sprintf("%d", o.Seed), o.Ballast); err != nil || o.Edition == 0 {
		return err
	}
	return writeNoiseFiles(tree, fmt.Sprintf("usr/share/text/fresh%d-", o.Edition), fmt.Sprintf("%d/%d", o.Seed, o.Edition), o.Fresh)
}

func writeNoiseFiles(tree, prefix, seed string, left int64) error {
	var key [32]byte
	copy(key[:], seed)
	noise := rand.NewChaCha8(key)
	for i := 0; left > 0; i++ {
		data := make([]byte, min(left, 256<<10))
		left -= int64(len(data))
		_, _ = noise.Read(data) // it never fails
		if err := writeFile(tree, fmt.Sprintf("%s%04d", prefix, i), data); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(tree, name string, data []byte) error {
	path := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
