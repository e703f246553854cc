package policies

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// inForceName is the file that says which set is in force.
const inForceName = "in-force.json"

// maxInForce bounds that file: a set with some 100,000 clients.
const maxInForce = 32 << 20

// Errors that can be tested for.
var (
	// ErrUnknown tells that no policy is in force yet.
	ErrUnknown = errors.New("no policy is in force at this satellite yet")
	// ErrGone tells that a state does not name what was asked for, or that it has been replaced meanwhile.
	ErrGone = errors.New("nothing of that name belongs to this client")
)

// Source brings archives; upstream.Client is one.
type Source interface {
	// FetchPolicy writes the archive of l to w. It need not prove it.
	FetchPolicy(ctx context.Context, l config.PolicyLayer, w io.Writer) error
}

// Config configures a Keeper. Dir and Source are required.
type Config struct {
	Dir    string
	Source Source
	// Changed, if not nil, is called after what State returns has changed. It must not block, nor call the Keeper.
	Changed func()
	// Problem, if not nil, is told what a person should look at, by key; an empty text says that it is over.
	Problem func(key, text string)
	Logger  *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Keeper is the store of policies. Its methods are safe for concurrent use.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{} // there is something to fetch
	kick    chan struct{} // now

	disk sync.Mutex // held while files are written and removed; taken before mu

	mu      sync.Mutex
	have    map[policy.Digest]map[string][]byte // archives on the disk, with the configurations in them by path
	inForce *set                                // nil before the first
	wanted  *set                                // the newest; nil before the first Want
	login   login
	states  map[variant]*State
	changes uint64 // of what is in force
}

// variant is what makes one client's state differ from another's.
type variant struct {
	room  string
	local netip.Addr // only if the login host is this machine
}

// Open proves what lies in the directory, which it makes if it is missing.
func Open(cfg Config) (*Keeper, error) {
	if cfg.Dir == "" || cfg.Source == nil {
		return nil, errors.New("policies need a directory and a source")
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Problem == nil {
		cfg.Problem = func(string, string) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), have: make(map[policy.Digest]map[string][]byte)}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of policies: %w", err)
	}
	if err := k.load(); err != nil {
		return nil, err
	}
	var err error
	k.metrics, err = newMetrics(cfg.Metrics, k)
	return k, err
}

// load reads the directory. What is damaged is removed: it can be fetched again.
func (k *Keeper) load() error {
	entries, err := os.ReadDir(k.cfg.Dir)
	if err != nil {
		return fmt.Errorf("directory of policies: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(k.cfg.Dir, e.Name())
		digest, ok := parseDigest(e.Name())
		switch {
		case e.Name() == inForceName:
		case !ok:
			k.remove(path) // what an interrupted write left behind
		default:
			confs, err := readArchive(path, digest)
			if err != nil {
				k.log.Warn("policy archive is damaged, it is fetched again", "err", err)
				k.remove(path)
				continue
			}
			k.have[digest] = confs
		}
	}
	k.inForce = k.loadInForce()
	return nil
}

func (k *Keeper) loadInForce() *set {
	path := filepath.Join(k.cfg.Dir, inForceName)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxInForce))
		err = errors.Join(err, f.Close())
	}
	var s *set
	if err == nil {
		s, err = parseSet(text)
	}
	if err != nil {
		k.log.Warn("which policy was in force can't be read", "err", err)
		return nil
	}
	return s
}

func (k *Keeper) remove(path string) {
	if err := os.Remove(path); err != nil {
		k.log.Warn("file of policies not removed", "err", err)
	}
}

func parseDigest(name string) (policy.Digest, bool) {
	var d policy.Digest
	if len(name) != 2*len(d) || strings.ToLower(name) != name {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(name))
	return d, err == nil
}

// readArchive proves a file and returns the configurations in it.
func readArchive(path string, want policy.Digest) (map[string][]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > agentproto.MaxBlob {
		return nil, fmt.Errorf("%s is no archive", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if policy.Sum(data) != want {
		return nil, fmt.Errorf("%s does not have the digest in its name", path)
	}
	return configurations(data)
}

// configurations takes the texts that are evaluated out of an archive, as copies: the archive itself is not kept in memory.
func configurations(archive []byte) (map[string][]byte, error) {
	tree, err := policy.Decode(archive)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	for _, f := range tree {
		if policy.IsConf(f.Path) && f.Kind == policy.Regular {
			out[f.Path] = bytes.Clone(f.Content)
		}
	}
	return out, nil
}

// Want takes a desired state. If all of its archives are here it is in force when Want returns, else Run fetches them.
func (k *Keeper) Want(d *config.Desired) {
	k.mu.Lock()
	changed := k.setLoginLocked(d)
	if k.inForce != nil && k.inForce.Site != d.Site {
		k.inForce, changed = nil, true
		k.changes++
	}
	if d.PoliciesUnusable == "" {
		k.wanted = newSet(d)
	}
	settled := k.settleLocked()
	changed = changed || settled
	if changed {
		k.states = nil
	}
	missing := len(k.missingLocked()) > 0
	k.mu.Unlock()
	if settled {
		k.flush()
	}
	if missing {
		poke(k.wake)
	}
	if changed {
		k.cfg.Changed()
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (k *Keeper) setLoginLocked(d *config.Desired) (changed bool) {
	commands := slices.Compact(slices.Sorted(slices.Values(d.Commands)))
	if reflect.DeepEqual(k.login.host, d.Login) && slices.Equal(k.login.commands, commands) {
		return false
	}
	if k.login.host.Address != d.Login.Address {
		k.login.accounts, k.login.users = Accounts{}, nil // another host's
	}
	k.login.host, k.login.commands = d.Login, commands
	return true
}

// SetAccounts takes what is known of the users of the login host at address. It is ignored if that is not the login host any more.
func (k *Keeper) SetAccounts(address string, a Accounts) {
	k.mu.Lock()
	changed := address == k.login.host.Address && !reflect.DeepEqual(a, k.login.accounts)
	if changed {
		k.login.accounts, k.login.users = a, nil
		if a.Users != nil {
			k.login.users = &agentproto.Blob{Size: uint64(len(a.Users)), SHA256: agentproto.Digest(a.Users)}
		}
		k.states = nil
	}
	k.mu.Unlock()
	if changed {
		k.cfg.Changed()
	}
}

// settleLocked puts the wanted set in force if it is whole, and tells whether that changed anything for clients. If so, flush must follow.
func (k *Keeper) settleLocked() bool {
	if k.wanted == nil || len(k.missingLocked()) > 0 {
		return false
	}
	k.cfg.Problem("policy", "")
	before := k.inForce
	k.inForce = k.wanted
	if before.same(k.wanted) {
		return false
	}
	k.changes++
	k.log.Info("policy is in force", "revision", k.wanted.Revision, "levels", len(k.wanted.Layers))
	return true
}

// flush notes on the disk what is in force, then removes archives that nothing names any more. A disk that can't take it costs the memory of it over a
// restart, no more.
func (k *Keeper) flush() {
	k.disk.Lock()
	defer k.disk.Unlock()
	k.mu.Lock()
	inForce := k.inForce
	var unnamed []policy.Digest
	named := k.inForce.digests()
	maps.Copy(named, k.wanted.digests())
	for d := range k.have {
		if _, ok := named[d]; !ok {
			delete(k.have, d)
			unnamed = append(unnamed, d)
		}
	}
	k.mu.Unlock()
	text, err := json.Marshal(inForce)
	if err == nil {
		err = atomicfile.Write(filepath.Join(k.cfg.Dir, inForceName), text, 0o600)
	}
	problem := ""
	if err != nil {
		k.log.Error("the policy in force is not stored", "err", err)
		problem = fmt.Sprintf("the policy is in force but can't be stored: %v", err)
	}
	k.cfg.Problem("policy-store", problem)
	for _, d := range unnamed {
		k.remove(k.path(d))
	}
}

func (k *Keeper) path(d policy.Digest) string { return filepath.Join(k.cfg.Dir, fmt.Sprintf("%x", d)) }

// missingLocked returns the archives of the wanted set that are not here, in the set's order.
func (k *Keeper) missingLocked() []config.PolicyLayer {
	var out []config.PolicyLayer
	if k.wanted == nil {
		return nil
	}
	for _, l := range k.wanted.Layers {
		if _, ok := k.have[l.SHA256]; !ok {
			out = append(out, l)
		}
	}
	return out
}

// State returns the state that a client should have. client is its address, local this satellite's address as the client reaches it; either may be the zero Addr.
// ErrUnknown if none is in force.
func (k *Keeper) State(mac string, client, local netip.Addr) (*State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inForce == nil {
		return nil, ErrUnknown
	}
	v := variant{room: k.inForce.room(mac, client)}
	if k.login.host.Address == config.LocalLogin {
		v.local = local.Unmap()
	}
	if s := k.states[v]; s != nil {
		return s, nil
	}
	layers := k.inForce.layers(v.room)
	for _, l := range layers {
		if _, ok := k.have[l.SHA256]; !ok {
			return nil, fmt.Errorf("%w: the archive of %s is damaged", ErrUnknown, l.Scope)
		}
	}
	p, err := k.login.state(layers, v.local)
	if err != nil {
		return nil, err
	}
	s := &State{keeper: k, layers: layers}
	if s.Text, s.SHA256, err = p.Encode(); err != nil {
		return nil, err
	}
	if p.Users != nil {
		s.users, s.usersSHA256 = k.login.accounts.Users, p.Users.SHA256
	}
	if len(k.states) >= maxStates {
		k.states = nil // satellites have a few addresses and sites a few dozen rooms
	}
	if k.states == nil {
		k.states = make(map[variant]*State)
	}
	k.states[v] = s
	return s, nil
}

// maxStates bounds the states that are kept ready.
const maxStates = 8192

// State is a client's PolicyState. It never changes.
type State struct {
	// Text is the JSON text, SHA256 its digest in hex.
	Text   []byte
	SHA256 string

	keeper      *Keeper
	layers      []config.PolicyLayer
	users       []byte
	usersSHA256 string
}

// Open returns the bytes that the state names by their SHA-256 in hex, and how many there are. The caller closes them. ErrGone if it names none such, or
// if the policy has been replaced meanwhile.
func (s *State) Open(name string) (io.ReadCloser, int64, error) {
	if s.users != nil && name == s.usersSHA256 {
		return io.NopCloser(bytes.NewReader(s.users)), int64(len(s.users)), nil
	}
	for _, l := range s.layers {
		if fmt.Sprintf("%x", l.SHA256) != name {
			continue
		}
		f, err := os.Open(s.keeper.path(l.SHA256))
		if errors.Is(err, os.ErrNotExist) {
			return nil, 0, ErrGone
		}
		if err != nil {
			return nil, 0, fmt.Errorf("open policy of %s: %w", l.Scope, err)
		}
		return f, l.Size, nil
	}
	return nil, 0, ErrGone
}

// Conf is one text that is evaluated.
type Conf struct {
	Scope, File string
	Text        []byte // must not be changed
}

// Confs returns the configurations that apply to clients in a room in the order of their evaluation: ltsp.conf of each level, and behind each of them the level's
// ltsp-APPLET.conf of that applet. It is nil if no policy is in force.
func (k *Keeper) Confs(room, applet string) []Conf {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inForce == nil {
		return nil
	}
	var out []Conf
	for _, l := range k.inForce.layers(room) {
		for _, file := range []string{policy.ConfName, "ltsp-" + applet + ".conf"} {
			if text, ok := k.have[l.SHA256][file]; ok {
				out = append(out, Conf{l.Scope, file, text})
			}
		}
	}
	return out
}

// Generation changes whenever what Room and Confs return may have changed.
func (k *Keeper) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changes
}

// Room returns the room of a client by the set in force, or an empty string.
func (k *Keeper) Room(mac string, client netip.Addr) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inForce == nil {
		return ""
	}
	return k.inForce.room(mac, client)
}

// Status is how far the newest policy is.
type Status struct {
	Revision uint64 // of the desired state whose policy is in force; 0 if none is
	Levels   int    // in force
	Missing  int    // archives of the newest policy that are not here
}

// Status tells how far the newest policy is.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Missing: len(k.missingLocked())}
	if k.inForce != nil {
		s.Revision, s.Levels = k.inForce.Revision, len(k.inForce.Layers)
	}
	return s
}
