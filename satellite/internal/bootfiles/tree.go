package bootfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
)

// ErrNotReady tells that there is no configuration yet, or nothing that the client could boot.
var ErrNotReady = errors.New("not ready")

// Store opens files of versions on disk. It must be safe for concurrent use.
type Store interface {
	// OpenBootFile opens an artifact of a verified version; its file holds the artifact's bytes and nothing else. The error wraps
	// fs.ErrNotExist if there is none. The caller closes the file.
	OpenBootFile(id manifest.ID, artifact string) (*os.File, error)
}

// Registry is what the tree needs of clients.Registry.
type Registry interface {
	Saw(clients.Sighting)
	IssueToken(mac string) (string, error)
}

// TreeConfig configures a Tree.
type TreeConfig struct {
	Store    Store
	Registry Registry
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil discards
}

// Tree is the name space of boot files. It is safe for concurrent use.
type Tree struct {
	cfg  TreeConfig
	menu atomic.Pointer[bootmenu.Menu]
}

// NewTree returns a tree that answers ErrNotReady until SetMenu has been called.
func NewTree(cfg TreeConfig) (*Tree, error) {
	if cfg.Store == nil || cfg.Registry == nil {
		return nil, errors.New("boot files need a store and a registry of clients")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Tree{cfg: cfg}, nil
}

// SetMenu replaces the menu for all requests from now on. Transfers under way go on.
func (t *Tree) SetMenu(m *bootmenu.Menu) { t.menu.Store(m) }

// Menu returns the present menu, or nil.
func (t *Tree) Menu() *bootmenu.Menu { return t.menu.Load() }

// Request is what a client asks for.
type Request struct {
	Name   string     // path, with or without a leading slash, undecoded octets already decoded
	Query  string     // of the URL, still encoded; empty for TFTP
	TFTP   bool       // the request came by TFTP
	Peek   bool       // only the size matters (HEAD): no token is issued and nothing is recorded
	Client netip.Addr // zero if unknown
	Local  netip.Addr // this satellite's end; zero if unknown
}

// File is an open boot file. It is read by one goroutine and closed by who opened it.
type File struct {
	io.ReadSeeker
	Size    int64
	Tag     string    // what changes with the content; empty if the file is made for one client and moment
	Created time.Time // zero if unknown

	kind      kind
	close     func() error
	delivered func()
}

// Close closes the file.
func (f *File) Close() error { return f.close() }

// Delivered is to be called once when the client has received the whole file: it becomes a step of the client's boot timeline.
func (f *File) Delivered() {
	if f.delivered != nil {
		f.delivered()
	}
}

// Open finds a file. The error wraps fs.ErrNotExist if there is none of that name, bootmenu.ErrRequest if the query is unusable, ErrNotReady if
// it may be there later.
func (t *Tree) Open(r Request) (*File, error) {
	tg, err := parseName(r.Name)
	if err != nil {
		return nil, err
	}
	m := t.menu.Load()
	if m == nil {
		return nil, fmt.Errorf("%w: no configuration yet", ErrNotReady)
	}
	switch tg.kind {
	case kindScript, kindConfig:
		return t.openRendered(m, tg, r)
	case kindLoader:
		v, ok := m.Loader(tg.artifact)
		if !ok {
			return nil, notThere("boot loader " + tg.artifact)
		}
		return t.openArtifact(v, tg, r)
	}
	v, ok := m.Ready(tg.id)
	if tg.image != "" {
		v, ok = m.Current(tg.image)
	}
	if !ok {
		return nil, notThere("version")
	}
	return t.openArtifact(v, tg, r)
}

func (t *Tree) openArtifact(v bootmenu.Version, tg target, r Request) (*File, error) {
	f, err := t.cfg.Store.OpenBootFile(v.ID, tg.artifact)
	if err != nil {
		return nil, fmt.Errorf("open %s of %s: %w", tg.artifact, v.String(), err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s of %s: %w", tg.artifact, v.String(), err), f.Close())
	}
	step := map[kind]string{kindKernel: clients.StepKernel, kindInitrd: clients.StepInitrd, kindLoader: clients.StepLoader}[tg.kind]
	return &File{
		ReadSeeker: f, Size: info.Size(), Tag: v.ID.String() + "-" + tg.artifact, kind: tg.kind, close: f.Close,
		delivered: func() { t.cfg.Registry.Saw(clients.Sighting{Addr: r.Client, Step: step}) },
	}, nil
}

// openRendered makes a script or a boot configuration.
func (t *Tree) openRendered(m *bootmenu.Menu, tg target, r Request) (*File, error) {
	q, err := bootmenu.ParseQuery(r.Query)
	if err != nil {
		return nil, err
	}
	if tg.mac != "" {
		q.MAC, q.Again = tg.mac, tg.again
	}
	q.TFTP, q.Client, q.Local = r.TFTP, r.Client.Unmap(), r.Local.Unmap()
	if tg.kind == kindConfig {
		return t.openConfig(m, q, r.Peek)
	}
	if q.MAC == "" {
		return rendered(kindScript, m.Hello(q.Local), nil), nil
	}
	script, choice := m.Script(q)
	if !r.Peek {
		t.sawScript(q, choice)
	}
	return rendered(kindScript, script, nil), nil
}

func (t *Tree) sawScript(q bootmenu.Request, c bootmenu.Choice) {
	t.cfg.Registry.Saw(clients.Sighting{
		MAC: q.MAC, Addr: q.Client, Step: clients.StepScript, UUID: q.UUID, Again: q.Again,
		Firmware: firmware(q),
	})
	version := "none"
	if c.Version != nil {
		version = c.Version.String()
	}
	t.cfg.Logger.Debug("boot script", "client", q.MAC, "addr", q.Client, "version", version, "source", c.Source, "note", c.Note, "err", c.Problem)
}

// firmware says for people what iPXE told of the PC.
func firmware(q bootmenu.Request) string {
	switch q.Platform {
	case "pcbios":
		return "BIOS"
	case "efi":
		return "UEFI"
	}
	return strings.Trim(q.Platform+" "+q.Arch, " ")
}

// peekToken stands where a client only asks how long its boot configuration is.
const peekToken = "00000000000000000000000000000000"

func (t *Tree) openConfig(m *bootmenu.Menu, q bootmenu.Request, peek bool) (*File, error) {
	if q.MAC == "" {
		return nil, fmt.Errorf("%w: the MAC address is missing", bootmenu.ErrRequest)
	}
	// The choice comes first: who cannot boot gets no token.
	if c := m.Choose(q); c.Version == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotReady, c.Problem)
	}
	token := peekToken
	if !peek {
		var err error
		if token, err = t.cfg.Registry.IssueToken(q.MAC); err != nil {
			return nil, fmt.Errorf("boot configuration of %s: %w", q.MAC, err)
		}
	}
	b, _, err := m.BootConfig(q, token, t.cfg.Now())
	if err != nil {
		return nil, err
	}
	archive, err := bootmenu.ClientCPIO(b)
	if err != nil {
		return nil, err
	}
	return rendered(kindConfig, archive, func() {
		t.cfg.Registry.Saw(clients.Sighting{MAC: q.MAC, Addr: q.Client, Step: clients.StepConfig})
	}), nil
}

func rendered(k kind, data []byte, delivered func()) *File {
	return &File{
		ReadSeeker: bytes.NewReader(data), Size: int64(len(data)), kind: k, delivered: delivered,
		close: func() error { return nil },
	}
}

// IsExpected tells whether an error of Open is a client's or a matter of time, not a fault of this satellite.
func IsExpected(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, bootmenu.ErrRequest) || errors.Is(err, ErrNotReady)
}
