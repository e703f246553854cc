package sqmeta

import "io"

// Parse reads the whole metadata of the image of size bytes in r with the default limits. See Limits.Parse.
func Parse(r io.ReaderAt, size int64) (*Meta, error) { return Limits{}.Parse(r, size) }

// Rebuild makes an image's metadata from its columns with the default limits. See Limits.Rebuild.
func Rebuild(cols []Column, enc Compress) (*Image, error) { return Limits{}.Rebuild(cols, enc) }
