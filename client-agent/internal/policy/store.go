package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

const (
	currentLink = "current"    // to the directory of the state in force
	stateFile   = "state.json" // in each state's directory, beside one file per digest
	tempSuffix  = ".tmp"       // of a directory that is being filled, or of a link that is being made
	dirMode     = 0o700
	fileMode    = 0o600
)

// ErrNone tells that there is no state in force yet.
var ErrNone = errors.New("no policy is in force")

// Source gives bytes by name; uplink.Fetcher is one.
type Source interface {
	Fetch(ctx context.Context, name string, limit uint64, w io.Writer) (agentproto.Blob, error)
}

// Store is the directory of policy states. It is for one process and one goroutine at a time; Current may be called at any time.
type Store struct {
	dir *os.Root
}

// Open opens the store in a directory, which it makes if it is missing, and removes what an interrupted fetch has left.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("open policy store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open policy store: %w", err)
	}
	s := &Store{dir: root}
	if err := s.remove(func(name string) bool { return strings.HasSuffix(name, tempSuffix) }); err != nil {
		root.Close()
		return nil, fmt.Errorf("open policy store: %w", err)
	}
	return s, nil
}

// Close ends the use of the store.
func (s *Store) Close() error { return s.dir.Close() }

// Current returns the digest of the state in force. The error is ErrNone if there is none.
func (s *Store) Current() (string, error) {
	sum, err := s.dir.Readlink(currentLink)
	if errors.Is(err, os.ErrNotExist) {
		return "", ErrNone
	}
	return sum, err
}

// Fetch brings the client's state from src and unpacks it. What the store has already is not fetched again. It returns the state's digest; Activate
// makes it the one in force.
func (s *Store) Fetch(ctx context.Context, src Source) (string, error) {
	var text bytes.Buffer
	blob, err := src.Fetch(ctx, agentproto.PolicyName, agentproto.MaxPolicyState, &text)
	if err != nil {
		return "", fmt.Errorf("fetch policy: %w", err)
	}
	if s.has(blob.SHA256) {
		return blob.SHA256, nil
	}
	state, err := agentproto.ParsePolicyState(text.Bytes())
	if err != nil {
		return "", fmt.Errorf("fetch policy: %w", err)
	}
	temp := blob.SHA256 + tempSuffix
	if err := s.fill(ctx, src, temp, state, text.Bytes()); err != nil {
		return "", errors.Join(fmt.Errorf("fetch policy %.8s: %w", blob.SHA256, err), s.dir.RemoveAll(temp))
	}
	if err := s.dir.Rename(temp, blob.SHA256); err != nil {
		return "", fmt.Errorf("fetch policy %.8s: %w", blob.SHA256, err)
	}
	return blob.SHA256, nil
}

// has tells whether a state is there. Its directory got its name when it was whole.
func (s *Store) has(sum string) bool {
	_, err := s.dir.Lstat(filepath.Join(sum, stateFile))
	return err == nil
}

// fill makes the directory of a state and proves all that is in it.
func (s *Store) fill(ctx context.Context, src Source, dir string, state *agentproto.PolicyState, text []byte) error {
	if err := s.dir.RemoveAll(dir); err != nil {
		return err
	}
	if err := s.dir.Mkdir(dir, dirMode); err != nil {
		return err
	}
	for _, l := range state.Layers {
		if err := s.bring(ctx, src, dir, l.Blob); err != nil {
			return fmt.Errorf("layer %s: %w", l.Scope, err)
		}
	}
	if state.Users != nil {
		if err := s.bring(ctx, src, dir, *state.Users); err != nil {
			return fmt.Errorf("users: %w", err)
		}
	}
	if _, err := s.read(dir, "", state); err != nil {
		return err
	}
	return s.dir.WriteFile(filepath.Join(dir, stateFile), text, fileMode)
}

// bring puts a blob into a state's directory: from another state's if one has it, else from src.
func (s *Store) bring(ctx context.Context, src Source, dir string, blob agentproto.Blob) error {
	path := filepath.Join(dir, blob.SHA256)
	if s.share(blob, path) {
		return nil
	}
	f, err := s.dir.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	got, err := src.Fetch(ctx, blob.SHA256, blob.Size, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got.Size != blob.Size {
		return fmt.Errorf("%w: %d bytes where the state says %d", agentproto.ErrBadPolicy, got.Size, blob.Size)
	}
	return nil
}

// share links a blob that a state already has to path. It is read again: memory that has lost a bit must not spread.
func (s *Store) share(blob agentproto.Blob, path string) bool {
	if _, err := s.dir.Lstat(path); err == nil {
		return true // two layers with the same tree
	}
	names, err := s.names()
	if err != nil {
		return false
	}
	for _, name := range names {
		from := filepath.Join(name, blob.SHA256)
		data, err := s.dir.ReadFile(from)
		if err == nil && agentproto.Digest(data) == blob.SHA256 && s.dir.Link(from, path) == nil {
			return true
		}
	}
	return false
}

// names are the directories of whole states.
func (s *Store) names() ([]string, error) {
	d, err := s.dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range all {
		if name != currentLink && !strings.HasSuffix(name, tempSuffix) {
			list = append(list, name)
		}
	}
	return list, nil
}

// Load reads a state that Fetch has brought.
func (s *Store) Load(sum string) (*State, error) {
	text, err := s.dir.ReadFile(filepath.Join(sum, stateFile))
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	state, err := agentproto.ParsePolicyState(text)
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	return s.read(sum, sum, state)
}

// read takes the blobs in a directory apart.
func (s *Store) read(dir, sum string, state *agentproto.PolicyState) (*State, error) {
	out := &State{Sum: sum, PolicyState: *state}
	for _, l := range state.Layers {
		data, err := s.dir.ReadFile(filepath.Join(dir, l.SHA256))
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Scope, err)
		}
		t, err := tree.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Scope, err)
		}
		out.Trees = append(out.Trees, t)
	}
	if state.Users == nil {
		return out, nil
	}
	data, err := s.dir.ReadFile(filepath.Join(dir, state.Users.SHA256))
	if err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	if out.Accounts, err = agentproto.ParseUsers(data); err != nil {
		return nil, err
	}
	return out, nil
}

// Activate makes a state the one in force and removes all others.
func (s *Store) Activate(sum string) error {
	if !s.has(sum) {
		return fmt.Errorf("use policy %.8s: %w", sum, os.ErrNotExist)
	}
	temp := currentLink + tempSuffix
	if err := s.dir.RemoveAll(temp); err != nil {
		return fmt.Errorf("use policy %.8s: %w", sum, err)
	}
	if err := s.dir.Symlink(sum, temp); err != nil {
		return fmt.Errorf("use policy %.8s: %w", sum, err)
	}
	if err := s.dir.Rename(temp, currentLink); err != nil {
		return fmt.Errorf("use policy %.8s: %w", sum, err)
	}
	return s.remove(func(name string) bool { return name != sum && name != currentLink })
}

// remove removes what unwanted names.
func (s *Store) remove(unwanted func(name string) bool) error {
	d, err := s.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	var list []error
	for _, name := range names {
		if unwanted(name) {
			list = append(list, s.dir.RemoveAll(name))
		}
	}
	return errors.Join(list...)
}
