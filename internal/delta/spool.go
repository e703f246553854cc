package delta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// spool keeps the groups until the index, which comes before them, is known. Safe for concurrent use.
type spool struct {
	dir   string
	limit int64 // of the bytes in memory
	mu    sync.Mutex
	used  int64
	mem   [][]byte // of each group; nil: in the file
	pos   []int64
	n     []int64
	file  *os.File
	end   int64
}

func newSpool(dir string, groups int, limit int64) *spool {
	return &spool{dir: dir, limit: limit, mem: make([][]byte, groups), pos: make([]int64, groups), n: make([]int64, groups)}
}

// put keeps group g.
func (s *spool) put(g int, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n[g] = int64(len(b))
	if s.used+int64(len(b)) <= s.limit {
		s.used += int64(len(b))
		s.mem[g] = b
		return nil
	}
	if s.file == nil {
		f, err := unnamed(s.dir, "delta-groups-")
		if err != nil {
			return fmt.Errorf("keep groups: %w", err)
		}
		s.file = f
	}
	s.pos[g] = s.end
	s.end += int64(len(b))
	if _, err := s.file.WriteAt(b, s.pos[g]); err != nil {
		return fmt.Errorf("keep groups: %w", err)
	}
	return nil
}

// writeTo writes all groups in order.
func (s *spool) writeTo(w io.Writer) error {
	for g := range s.n {
		var err error
		if s.mem[g] != nil || s.n[g] == 0 {
			_, err = w.Write(s.mem[g])
		} else {
			_, err = io.Copy(w, io.NewSectionReader(s.file, s.pos[g], s.n[g]))
		}
		if err != nil {
			return fmt.Errorf("write group %d: %w", g, err)
		}
	}
	return nil
}

// close gives up what is kept.
func (s *spool) close(err *error) {
	if s.file != nil {
		*err = errors.Join(*err, s.file.Close())
	}
}
