package school

import (
	"debug/elf"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// update changes a root as an update of its packages would, without making it unable to run.
func update(root string, application int64) error {
	err := filepath.WalkDir(filepath.Join(root, "usr"), func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		switch {
		case err != nil:
			return err
		case d.IsDir() && name == "/usr/lib/modules":
			return fs.SkipDir // the kernel stays, and with it the initrds
		case !d.Type().IsRegular() || !strings.Contains(name, "systemd") && crc32.ChecksumIEEE([]byte(name))%3 != 0:
			return nil
		}
		return rebuilt(path)
	})
	if err != nil {
		return err
	}
	return writeNoiseFiles(root, "opt/application/part", "application", application)
}

// rebuilt makes a program look as if it came from another build: the build ID differs, which is in its first block, and it has grown by a
// sixteenth, by bytes like its own, which no loader looks at. What is no program stays as it is.
func rebuilt(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	program, err := elf.NewFile(file)
	if err != nil {
		return nil //nolint:nilerr // no program
	}
	const head = 16 // of the note: lengths, type, "GNU"
	note := program.Section(".note.gnu.build-id")
	if note == nil || note.Size < head+8 {
		return nil
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE([]byte(filepath.Base(path)))), 2))
	id := make([]byte, note.Size-head)
	for i := range id {
		id[i] = byte(random.Uint32())
	}
	if _, err := file.WriteAt(id, int64(note.Offset)+head); err != nil {
		return err
	}
	grown := make([]byte, min(info.Size()/16, 64<<10))
	if _, err := file.ReadAt(grown, info.Size()/2); err != nil {
		return err
	}
	for i := 0; i < len(grown); i += 1 + random.IntN(64) {
		grown[i] = byte(random.Uint32())
	}
	_, err = file.WriteAt(grown, info.Size())
	return err
}
