package clients

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Defaults of Config.
const (
	DefaultMaxClients     = 4096
	DefaultNewBootAfter   = time.Minute
	DefaultReportInterval = 10 * time.Second
	DefaultBootTimeout    = 10 * time.Minute
	DefaultSaveInterval   = 30 * time.Second
)

// Errors that can be tested for.
var (
	ErrToken   = errors.New("the token is not one of this client")
	ErrReport  = errors.New("unusable report")
	ErrUnknown = errors.New("no client of that MAC")
	ErrAddress = errors.New("the address is not this client's")
)

// Store keeps the registry over restarts. Its methods must be safe for concurrent use.
type Store interface {
	Put(bucket string, key, value []byte) error
	Delete(bucket string, key []byte) error
	// ForEach calls fn for each pair of the bucket; the slices are valid during the call only.
	ForEach(bucket string, fn func(key, value []byte) error) error
}

// Config configures a Registry. Zero values are the defaults.
type Config struct {
	Store          Store // nil: nothing is kept over restarts
	MaxClients     int
	NewBootAfter   time.Duration
	ReportInterval time.Duration // in which agents are asked to report
	LostAfter      time.Duration // default: 3 times ReportInterval and 5 s
	BootTimeout    time.Duration // how long a boot may show no sign of life
	SaveInterval   time.Duration
	// Neighbour returns the MAC that an address has on the local network, empty if that is not known. nil: it never is.
	Neighbour func(netip.Addr) (string, error)
	Now       func() time.Time // nil: time.Now
	Random    io.Reader        // of tokens; nil: crypto/rand
	Logger    *slog.Logger     // nil discards
	Metrics   prometheus.Registerer
}

// Registry is the table of clients. All methods are safe for concurrent use; none blocks on anything but memory, except New and Run.
type Registry struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	notify  chan struct{}

	mu      sync.Mutex
	clients map[string]*client
	byAddr  map[netip.Addr]string
	queue   []string // MACs with changes that Pending has not returned
	key     []byte   // of tokens, see SetTokenKey
	removed []string // MACs to be deleted from the store
}

// client is guarded by Registry.mu.
type client struct {
	Snapshot
	boot       boot
	tokens     []string
	lastReport time.Time // zero: the agent was not heard in this boot
	known      bool      // an agent has proved its token once
	place      place     // where it is in this boot
	queued     bool
	unsaved    bool
	saved      bool // it is in the store
}

// New returns a registry with what the store holds. Entries that cannot be read are dropped.
func New(cfg Config) (*Registry, error) {
	setDefaults(&cfg)
	r := &Registry{
		cfg: cfg, log: cfg.Logger, notify: make(chan struct{}, 1),
		clients: make(map[string]*client), byAddr: make(map[netip.Addr]string),
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics, r)
	if err != nil {
		return nil, err
	}
	r.metrics = m
	return r, nil
}

func setDefaults(c *Config) {
	orDefault(&c.MaxClients, DefaultMaxClients)
	orDefault(&c.NewBootAfter, DefaultNewBootAfter)
	orDefault(&c.ReportInterval, DefaultReportInterval)
	orDefault(&c.LostAfter, 3*c.ReportInterval+5*time.Second)
	orDefault(&c.BootTimeout, DefaultBootTimeout)
	orDefault(&c.SaveInterval, DefaultSaveInterval)
	if c.Neighbour == nil {
		c.Neighbour = func(netip.Addr) (string, error) { return "", nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func orDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Saw takes what a room of the satellite saw.
func (r *Registry) Saw(s Sighting) {
	now := r.cfg.Now()
	s.Addr = s.Addr.Unmap()
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.MAC == "" {
		s.MAC = r.byAddr[s.Addr]
	}
	if s.MAC == "" {
		return
	}
	if _, known := r.clients[s.MAC]; !known && s.Step == "" {
		return // no sign of a boot: any machine of the LAN
	}
	c := r.clientLocked(s.MAC, now)
	c.LastSeen = now
	r.moveLocked(c, s.Addr)
	if s.UUID != "" {
		c.UUID = s.UUID
	}
	if s.Step == "" {
		c.place.saw(s)
		return
	}
	if c.boot.begins(s, now, !c.lastReport.IsZero(), r.cfg.NewBootAfter) {
		r.beginLocked(c, now, true)
	}
	c.place.saw(s)
	if c.Firmware == "" {
		c.Firmware = s.Firmware
	}
	if !c.boot.add(s.Step, now) {
		return
	}
	if c.State == Lost && c.lastReport.IsZero() {
		c.State, c.Reasons = Booting, nil
	}
	c.unsaved = true
	r.changedLocked(c, now)
}

// clientLocked returns the client of that MAC, made when it is new.
func (r *Registry) clientLocked(mac string, now time.Time) *client {
	if c, ok := r.clients[mac]; ok {
		return c
	}
	if len(r.clients) >= r.cfg.MaxClients {
		r.dropLocked()
	}
	c := &client{Snapshot: Snapshot{MAC: mac, State: Booting, LastSeen: now}}
	r.clients[mac] = c
	return c
}

// dropLocked removes the client that was silent for longest; those whose agent was never heard go first, so that made-up MACs do not drive out
// PCs.
func (r *Registry) dropLocked() {
	var victim *client
	for _, c := range r.clients {
		if victim == nil || !c.known && victim.known || c.known == victim.known && c.LastSeen.Before(victim.LastSeen) {
			victim = c
		}
	}
	r.forgetLocked(victim)
	r.metrics.dropped.Inc()
}

func (r *Registry) forgetLocked(c *client) {
	delete(r.clients, c.MAC)
	if r.byAddr[c.Addr] == c.MAC {
		delete(r.byAddr, c.Addr)
	}
	if c.saved {
		r.removed = append(r.removed, c.MAC)
	}
}

// moveLocked makes addr the client's address.
func (r *Registry) moveLocked(c *client, addr netip.Addr) {
	if !addr.IsValid() || addr.IsUnspecified() || r.byAddr[addr] == c.MAC && c.Addr == addr {
		return
	}
	if r.byAddr[c.Addr] == c.MAC {
		delete(r.byAddr, c.Addr)
	}
	c.Addr = addr
	r.byAddr[addr] = c.MAC
}

// beginLocked starts a new boot.
func (r *Registry) beginLocked(c *client, now time.Time, witnessed bool) {
	c.boot = boot{Start: now, Last: now, Witnessed: witnessed}
	c.State, c.Reasons, c.Report, c.BootID, c.Firmware = Booting, nil, nil, "", ""
	c.BootedAt, c.lastReport, c.place = now, time.Time{}, place{}
	r.metrics.boots.Inc()
	r.log.Info("client boots", "client", c.MAC, "addr", c.Addr)
}

// Get returns a client, or false.
func (r *Registry) Get(mac string) (Snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.clients[mac]
	if !ok {
		return Snapshot{}, false
	}
	return c.snapshot(), true
}

// List returns all clients in the order of their MACs.
func (r *Registry) List() []Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Snapshot, 0, len(r.clients))
	for _, c := range r.clients {
		out = append(out, c.snapshot())
	}
	slices.SortFunc(out, func(a, b Snapshot) int { return cmp.Compare(a.MAC, b.MAC) })
	return out
}

// Counts returns how many clients are in each state; all states are present.
func (r *Registry) Counts() map[State]int {
	out := make(map[State]int, len(states()))
	for _, s := range states() {
		out[s] = 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		out[c.State]++
	}
	return out
}

// MACOf returns the MAC of the client that was seen at addr last, or an empty string.
func (r *Registry) MACOf(addr netip.Addr) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byAddr[addr.Unmap()]
}

func (c *client) snapshot() Snapshot {
	s := c.Snapshot
	s.Reasons = slices.Clone(s.Reasons)
	s.Timeline = c.boot.timeline()
	if c.Report != nil {
		report := *c.Report
		s.Report = &report
	}
	return s
}

// Report takes the report of a client's agent, which arrived from addr. ErrReport if its state is none.
func (r *Registry) Report(mac string, addr netip.Addr, report agentproto.Report) error {
	state := State(report.State)
	if !slices.Contains([]State{Booting, Starting, Healthy, Degraded}, state) {
		return fmt.Errorf("%w: state %.20q", ErrReport, report.State)
	}
	clean(&report)
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clientLocked(mac, now)
	r.heardLocked(c, addr.Unmap(), time.Duration(report.Uptime), now)
	if len(report.Timeline) > 0 {
		c.boot.Agent = report.Timeline
		c.unsaved = true
	}
	report.Timeline = nil
	if c.State != state || c.Report == nil {
		c.unsaved = true
		r.log.Info("client changed state", "client", mac, "addr", c.Addr, "state", state, "before", c.State)
	}
	c.State, c.Reasons, c.Report = state, report.Reasons, &report
	if state == Healthy && !c.boot.Healthy {
		c.boot.Healthy = true
		if c.boot.Witnessed {
			r.metrics.duration.Observe(now.Sub(c.boot.Start).Seconds())
		}
	}
	r.changedLocked(c, now)
	return nil
}

// heardLocked notes that the agent spoke. An agent whose boot was not seen here (another satellite served it) begins one at its kernel's start.
func (r *Registry) heardLocked(c *client, addr netip.Addr, uptime time.Duration, now time.Time) {
	if c.boot.Start.IsZero() {
		r.beginLocked(c, now.Add(-max(uptime, 0)), false)
	}
	c.boot.align(uptime, now)
	c.LastSeen, c.lastReport, c.known = now, now, true
	r.moveLocked(c, addr)
}

// Failure takes the failure that an agent tells of from the initrd.
func (r *Registry) Failure(mac string, addr netip.Addr, f agentproto.Failure) {
	now := r.cfg.Now()
	reason := cleanText(fmt.Sprintf("%s: %s", f.Stage, f.Error), maxReason)
	reasons := []string{reason}
	if advice := cleanText(f.Advice, maxReason); advice != "" {
		reasons = append(reasons, advice)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clientLocked(mac, now)
	r.heardLocked(c, addr.Unmap(), 0, now)
	c.State, c.Reasons, c.unsaved = Failed, reasons, true
	r.log.Warn("client could not boot", "client", mac, "addr", c.Addr, "err", reason)
	r.changedLocked(c, now)
}
