package gossip

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
)

// speak does what may block on others: joining them, and sending the list of versions.
func (c *Cluster) speak(ctx context.Context) error {
	tick := time.NewTicker(rejoinPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-c.outward:
		}
		c.join(ctx)
		c.send(ctx)
	}
}

// join tries the peers that are no members.
func (c *Cluster) join(ctx context.Context) {
	c.mu.Lock()
	list, peers := c.list, c.active.Peers
	var members []netip.AddrPort
	for _, m := range c.members {
		if m.State == alive {
			members = append(members, m.Address)
		}
	}
	c.mu.Unlock()
	if list == nil {
		return
	}
	for _, p := range peers {
		if ctx.Err() != nil {
			return
		}
		if slices.Contains(members, p) {
			continue
		}
		if _, err := list.Join([]string{p.String()}); err != nil {
			c.log.Debug("satellite of the site does not answer", "addr", p, "err", err)
		}
	}
}

// send tells all members the versions of this satellite, if they have changed.
func (c *Cluster) send(ctx context.Context) {
	c.mu.Lock()
	list, dirty := c.list, c.dirty
	own, ok := c.ownLocked()
	others := c.othersLocked()
	if list != nil {
		c.dirty = false
	}
	c.mu.Unlock()
	if list == nil || !dirty || !ok {
		return
	}
	b := encode([]node{own})
	for _, n := range others {
		if ctx.Err() != nil {
			return
		}
		if err := list.SendReliable(n, b); err != nil {
			c.log.Debug("versions not sent, the next push/pull brings them", "peer", n.Name, "err", err)
		}
	}
	c.cfg.Changed()
}

// othersLocked returns the living members but this one.
func (c *Cluster) othersLocked() []*memberlist.Node {
	var out []*memberlist.Node
	for _, m := range c.members {
		if m.State == alive && m.Name != c.active.Name {
			out = append(out, &memberlist.Node{Name: m.Name, Addr: m.Address.Addr().AsSlice(), Port: m.Address.Port()})
		}
	}
	return out
}

// farewell tells the others that this satellite leaves by intention, which memberlist's own message does not let them see. It is one datagram to
// each, so that the end of the program waits for nobody.
func (c *Cluster) farewell(list *memberlist.Memberlist) {
	c.mu.Lock()
	b := encode([]node{{Name: c.active.Name, Sequence: max(c.sequence+1, uint64(time.Now().UnixNano())), Left: true}})
	others := c.othersLocked()
	c.mu.Unlock()
	for _, n := range others {
		if err := list.SendBestEffort(n, b); err != nil {
			c.log.Debug("farewell not sent", "peer", n.Name, "err", err)
		}
	}
}

// ownLocked is this satellite's entry; false before SetVersions was called.
func (c *Cluster) ownLocked() (node, bool) {
	return node{Name: c.active.Name, Sequence: c.sequence, Versions: c.versions}, c.sequence != 0
}

// delegate is called by memberlist from any goroutine; nothing in it blocks for longer than the mutex, under which there is no I/O.
type delegate struct{ c *Cluster }

func (d delegate) NodeMeta(int) []byte               { return nil }
func (d delegate) GetBroadcasts(int, int) [][]byte   { return nil }
func (d delegate) NotifyMsg(b []byte)                { d.c.receive(b) }
func (d delegate) MergeRemoteState(b []byte, _ bool) { d.c.receive(b) }

// LocalState is the whole table, so that what one satellite knows reaches all.
func (d delegate) LocalState(bool) []byte {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	var nodes []node
	if own, ok := d.c.ownLocked(); ok {
		nodes = append(nodes, own)
	}
	for _, n := range d.c.nodes {
		nodes = append(nodes, n)
	}
	return encode(nodes)
}

// receive copies a message for follow; a full queue drops it.
func (c *Cluster) receive(b []byte) {
	if len(b) == 0 {
		return
	}
	if len(b) > maxMessageBytes {
		c.dropped.Inc()
		return
	}
	select {
	case c.inbox <- append([]byte(nil), b...):
	default:
		c.dropped.Inc()
	}
}

// events is called by memberlist with its node lock held: nothing that is called here may ask memberlist for anything.
type events struct{ c *Cluster }

func (e events) NotifyJoin(n *memberlist.Node) {
	m := member(n, alive)
	e.c.mu.Lock()
	_, known := e.c.members[m.Name]
	if known || len(e.c.members) < maxNodes {
		e.c.members[m.Name] = m
	}
	e.c.dirty = true // the new one does not know our versions
	e.c.mu.Unlock()
	poke(e.c.outward)
	e.c.log.Info("satellite joined", "peer", m.Name, "addr", m.Address)
	e.c.cfg.Changed()
}

func (e events) NotifyLeave(n *memberlist.Node) {
	m := member(n, dead)
	e.c.mu.Lock()
	if e.c.nodes[m.Name].Left {
		m.State = left
	}
	delete(e.c.nodes, m.Name)
	e.c.members[m.Name] = m
	e.c.mu.Unlock()
	e.c.log.Info("satellite is gone", "peer", m.Name, "addr", m.Address, "state", m.State)
	e.c.cfg.Changed()
}

func (e events) NotifyUpdate(*memberlist.Node) {}

type conflicts struct{ c *Cluster }

// NotifyConflict hears of two satellites with one name.
func (x conflicts) NotifyConflict(existing, other *memberlist.Node) {
	x.c.log.Error("two satellites have one name", "peer", existing.Name, "addr", member(existing, alive).Address, "other_addr", member(other, alive).Address)
}

// newLogger passes memberlist's lines on. Its errors are our warnings: it copes with them.
func newLogger(l *slog.Logger) *log.Logger { return log.New(lineWriter{l}, "", 0) }

type lineWriter struct{ log *slog.Logger }

func (w lineWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	for prefix, l := range map[string]slog.Level{"[ERR] ": slog.LevelWarn, "[WARN] ": slog.LevelInfo, "[INFO] ": slog.LevelDebug, "[DEBUG] ": slog.LevelDebug} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = strings.TrimPrefix(rest, "memberlist: "), l
			break
		}
	}
	w.log.Log(context.Background(), level, "memberlist", "text", line)
	return len(b), nil
}

func (c *Cluster) register(reg prometheus.Registerer) error {
	c.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_gossip_dropped_total", Help: "Messages of others that were dropped."})
	if reg == nil {
		return nil
	}
	errs := []error{reg.Register(c.dropped)}
	for _, state := range []string{alive, dead, left} {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_gossip_members",
			Help: "Members of the site's cluster.", ConstLabels: prometheus.Labels{"state": state}}, func() float64 { return c.count(state) })))
	}
	return errors.Join(errs...)
}

func (c *Cluster) count(state string) float64 {
	n := 0
	for _, m := range c.Members() {
		if m.State == state {
			n++
		}
	}
	return float64(n)
}
