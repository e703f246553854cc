package gossip

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Times.
const (
	// KeyDelay is how long after its arrival a new key is used for sending.
	KeyDelay     = 30 * time.Second
	rejoinPeriod = 15 * time.Second
	leaveTimeout = time.Second
)

// inboxSize bounds the messages that wait to be read; each has at most maxMessageBytes.
const inboxSize = 16

// Settings is what the cluster is made of. The zero Settings is no cluster.
type Settings struct {
	Site, Name string
	// Key is 16, 24 or 32 bytes; empty: no cluster.
	Key []byte
	// Advertise is the address that others use. Not valid: no cluster.
	Advertise netip.Addr
	// Bind is the address to listen on; not valid: all.
	Bind netip.Addr
	Port uint16
	// Peers are addresses to try, those of this satellite excluded.
	Peers []netip.AddrPort
}

// Member is a satellite of the cluster, this one included. State is "alive", "dead" or "left"; memberlist does not tell whom it suspects.
type Member struct {
	Name, State string
	Address     netip.AddrPort
	Versions    []string // IMAGE@DIGEST
}

// Config configures a Cluster.
type Config struct {
	// Changed, if not nil, is called when members or their versions have changed; it must not block.
	Changed func()
	// Problem, if not nil, is told what a person should look at, by key; an empty text says that it is over.
	Problem func(key, text string)
	// KeyDelay replaces the package's constant; for tests.
	KeyDelay time.Duration
	// Local uses times for a loopback network; for tests.
	Local bool
	// Logger receives the log; nil discards it. Metrics receives the metrics of the package comment; nil means none.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Cluster is the satellite's membership. All methods are safe for concurrent use.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	dropped prometheus.Counter
	changed chan struct{} // settings
	outward chan struct{} // something to send, or somebody to join
	inbox   chan []byte

	mu       sync.Mutex
	settings Settings
	list     *memberlist.Memberlist // nil: no cluster
	active   Settings               // of list
	ring     *memberlist.Keyring
	nodes    map[string]node
	members  map[string]Member // as the events told; without versions
	versions []string
	sequence uint64
	dirty    bool // versions were not sent yet
}

// New returns a Cluster without settings.
func New(cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg, log: cfg.Logger, changed: make(chan struct{}, 1), outward: make(chan struct{}, 1), inbox: make(chan []byte, inboxSize),
		nodes: make(map[string]node), members: make(map[string]Member)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.cfg.KeyDelay = cmp.Or(cfg.KeyDelay, KeyDelay)
	if c.cfg.Changed == nil {
		c.cfg.Changed = func() {}
	}
	if c.cfg.Problem == nil {
		c.cfg.Problem = func(string, string) {}
	}
	return c, c.register(cfg.Metrics)
}

// SetSettings replaces the settings; it returns at once.
func (c *Cluster) SetSettings(s Settings) {
	s.Key, s.Peers = bytes.Clone(s.Key), slices.Clone(s.Peers)
	c.mu.Lock()
	c.settings = s
	c.mu.Unlock()
	poke(c.changed)
}

// SetVersions tells which versions this satellite has verified, as IMAGE@DIGEST; those beyond 256 are not told. It returns at once.
func (c *Cluster) SetVersions(versions []string) {
	versions = slices.Clone(versions[:min(len(versions), maxVersions)])
	slices.Sort(versions)
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(versions, c.versions) && c.sequence != 0 {
		return
	}
	c.versions = versions
	c.sequence = max(c.sequence+1, uint64(time.Now().UnixNano()))
	c.dirty = true
	poke(c.outward)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Members returns the members by name. It is empty without a cluster.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		return nil
	}
	out := make([]Member, 0, len(c.members))
	for _, m := range c.members {
		m.Versions = c.nodes[m.Name].Versions
		if m.Name == c.active.Name {
			m.Versions = c.versions
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// States of a member.
const (
	alive = "alive"
	dead  = "dead"
	left  = "left"
)

func member(n *memberlist.Node, state string) Member {
	addr, _ := netip.AddrFromSlice(n.Addr)
	return Member{Name: n.Name, State: state, Address: netip.AddrPortFrom(addr.Unmap(), n.Port)}
}

// Run is the cluster's life: it follows the settings until ctx ends, then tells the others that this satellite leaves.
func (c *Cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return c.speak(ctx) })
	return g.Wait()
}

// follow applies settings and reads what others say.
func (c *Cluster) follow(ctx context.Context) error {
	defer c.stop()
	var newKey, retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b := <-c.inbox:
			c.merge(b)
			continue
		case <-newKey:
			c.useKey()
			newKey = nil
			continue
		case <-retry:
		case <-c.changed:
		}
		pending, err := c.apply()
		retry = nil
		c.problem(err)
		c.cfg.Changed()
		if err != nil {
			retry = time.After(rejoinPeriod)
		}
		if pending {
			newKey = time.After(c.cfg.KeyDelay)
		}
	}
}

func (c *Cluster) problem(err error) {
	if err == nil {
		c.cfg.Problem("gossip", "")
		return
	}
	c.log.Warn("the site's satellites can't be joined", "err", err)
	c.cfg.Problem("gossip", fmt.Sprintf("the site's satellites can't be joined: %v", err))
}

// apply makes the cluster what the settings say. newKey tells that a key waits to be used.
func (c *Cluster) apply() (newKey bool, err error) {
	c.mu.Lock()
	want, have, running := c.settings, c.active, c.list != nil
	c.mu.Unlock()
	if len(want.Key) == 0 || !want.Advertise.IsValid() {
		c.stop()
		return false, nil
	}
	same := running && want.Site == have.Site && want.Name == have.Name && want.Advertise == have.Advertise && want.Bind == have.Bind && want.Port == have.Port
	if !same {
		c.stop()
		if err := c.create(want); err != nil {
			return false, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active = want
	poke(c.outward)
	if bytes.Equal(c.ring.GetPrimaryKey(), want.Key) {
		return false, nil
	}
	return true, c.ring.AddKey(want.Key)
}

// useKey sends with the newest key and forgets all but that and the one before.
func (c *Cluster) useKey() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		return
	}
	before := c.ring.GetPrimaryKey()
	if err := c.ring.UseKey(c.active.Key); err != nil {
		c.log.Warn("the site's new gossip key can't be used", "err", err)
		return
	}
	for _, k := range slices.Clone(c.ring.GetKeys()) {
		if !bytes.Equal(k, before) && !bytes.Equal(k, c.active.Key) {
			_ = c.ring.RemoveKey(k) // it is not the primary one
		}
	}
	c.log.Info("the site's new gossip key is in use")
}

func (c *Cluster) create(s Settings) error {
	ring, err := memberlist.NewKeyring([][]byte{s.Key}, s.Key)
	if err != nil {
		return err
	}
	cfg := memberlist.DefaultLANConfig()
	if c.cfg.Local {
		cfg = memberlist.DefaultLocalConfig()
		cfg.GossipInterval = 20 * time.Millisecond
		cfg.ProbeInterval, cfg.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
		cfg.PushPullInterval = time.Second
	}
	cfg.Name, cfg.Label, cfg.Keyring = s.Name, s.Site, ring
	cfg.BindAddr, cfg.BindPort = "0.0.0.0", int(s.Port)
	if s.Bind.IsValid() {
		cfg.BindAddr = s.Bind.String()
	}
	cfg.AdvertiseAddr, cfg.AdvertisePort = s.Advertise.String(), int(s.Port)
	cfg.Delegate, cfg.Events, cfg.Conflict = delegate{c}, events{c}, conflicts{c}
	cfg.Logger = newLogger(c.log)
	cfg.DeadNodeReclaimTime = 30 * time.Second // a satellite that comes back with another address
	c.mu.Lock()
	clear(c.nodes)
	clear(c.members)
	c.mu.Unlock()
	list, err := memberlist.Create(cfg)
	if err != nil {
		return fmt.Errorf("listen on port %d: %w", s.Port, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.ring, c.active = list, ring, s
	return nil
}

// stop leaves the cluster, if there is one.
func (c *Cluster) stop() {
	c.mu.Lock()
	list := c.list
	c.list = nil
	c.mu.Unlock()
	if list == nil {
		return
	}
	c.farewell(list)
	err := errors.Join(list.Leave(leaveTimeout), list.Shutdown())
	if err != nil {
		c.log.Debug("left the cluster without a farewell", "err", err)
	}
}

// merge takes over what others said.
func (c *Cluster) merge(b []byte) {
	nodes, err := decode(b)
	if err != nil {
		c.dropped.Inc()
		c.log.Debug("gossip message dropped", "err", err)
		return
	}
	c.mu.Lock()
	changed := false
	for _, n := range nodes {
		old, known := c.nodes[n.Name]
		if n.Name == c.active.Name || known && n.Sequence <= old.Sequence || !known && len(c.nodes) >= maxNodes {
			continue
		}
		c.nodes[n.Name] = n
		if m, ok := c.members[n.Name]; ok && n.Left && m.State == dead {
			m.State = left
			c.members[n.Name] = m
		}
		changed = true
	}
	c.mu.Unlock()
	if changed {
		c.cfg.Changed()
	}
}
