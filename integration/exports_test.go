//go:build component

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// export is one entry of `nbdinfo --list --json`.
type export struct {
	Name     string `json:"export-name"`
	Size     int64  `json:"export-size"`
	ReadOnly bool   `json:"is_read_only"`
	Multi    bool   `json:"can_multi_conn"`
}

// exports lists what an NBD server offers to a host.
func (f *fleet) exports(from *testnet.Host, server string) ([]export, error) {
	out, err := f.Run(f.ctx(), from, "nbdinfo", "--list", "--json", "nbd://"+server)
	if err != nil {
		return nil, err
	}
	var list struct {
		Exports []export `json:"exports"`
	}
	return list.Exports, json.Unmarshal([]byte(out), &list)
}

// offered tells whether an NBD server offers an export at the moment.
func (f *fleet) offered(from *testnet.Host, server, name string) bool {
	list, err := f.exports(from, server)
	return err == nil && slices.ContainsFunc(list, func(e export) bool { return e.Name == name })
}

// disk returns the SHA-256 and the size of the disk that a version of the squashfs must be: file, padding, hash tree. It fails
// unless the digest that the controller gave is that of the file.
func (f *fleet) disk(file string, published *school.Published) (sum string, size int64) {
	f.t.Helper()
	in, err := os.Open(file)
	f.must(err)
	defer in.Close()
	info, err := in.Stat()
	f.must(err)
	tree, err := os.CreateTemp(f.Dir, "tree-*")
	f.must(err)
	defer os.Remove(tree.Name())
	defer tree.Close()
	data := int64(verity.PaddedSize(uint64(info.Size())))
	padded := verity.Padded(in, info.Size())
	root, err := verity.Compute(f.ctx(), padded, uint64(data), tree, 0)
	f.must(err)
	if root.String() != published.Version.Digest {
		f.t.Fatalf("the controller says digest %s, the file's is %s", published.Version.Digest, root)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(padded, 0, data))
	f.must(err)
	m, err := io.Copy(h, tree)
	f.must(err)
	return hex.EncodeToString(h.Sum(nil)), n + m
}

// copyExport copies a whole export with nbdcopy.
func (f *fleet) copyExport(from *testnet.Host, server, name string) (copied string, err error) {
	f.t.Helper()
	copied = filepath.Join(f.Dir, "copied")
	if err := os.Remove(copied); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.t.Fatal(err)
	}
	_, err = f.Run(f.ctx(), from, "nbdcopy", "nbd://"+server+"/"+name, copied)
	return copied, err
}

// checkExport copies the export of a version and compares every byte with what was published.
func (f *fleet) checkExport(from *testnet.Host, server, file string, published *school.Published) {
	f.t.Helper()
	copied, err := f.copyExport(from, server, published.ExportName())
	if err != nil {
		f.t.Error(err)
		return
	}
	want, size := f.disk(file, published)
	if got, n := f.sum(copied); got != want || n != size {
		f.t.Errorf("export %s has SHA-256 %s in %d bytes, want %s in %d", published.ExportName(), got, n, want, size)
	}
}
