package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// retryTime is how often the interfaces are looked at: one that could not be opened is tried again, one that has been replaced is
// opened anew.
const retryTime = 2 * time.Second

// A Server answers DHCP on the configured interfaces. Its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	table    *lease.Table
	commits  *lease.Committer
	policy   policy
	limiter  *limiter
	metrics  *metrics
	settings atomic.Pointer[Settings]
	setting  sync.Mutex // serialises SetConfig
	inFlight atomic.Int64

	changed chan struct{}
	ready   chan struct{}
	out     chan outgoing // never full: inFlight bounds what goes in
	probes  chan struct{} // a slot for each probe under way
	talk    *limiter      // bounds the log lines that clients cause
	probing sync.WaitGroup

	links  map[string]*link // by name; Run's goroutine only
	broken map[string]string
	reader sync.WaitGroup
}

// outgoing is a reply on its way.
type outgoing struct {
	wire wire
	port uint16
	req  *request
	*reply
}

// A wire is what a link can do for a client.
type wire interface {
	// send puts a message on the network, from one of the server's ports.
	send(port uint16, to destination, msg []byte) error
	// probe asks who has addr and reports whether it is somebody other than client. It blocks for probeTime.
	probe(addr netip.Addr, client lease.MAC) (bool, error)
}

// New makes a server and reads the leases from the log. It opens no socket; Run does.
func New(cfg Config) (*Server, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:     cfg,
		table:   lease.New(lease.Config{Now: cfg.Now, MaxOffers: cfg.Limits.Offers}),
		commits: lease.NewCommitter(cfg.Log),
		limiter: newLimiter(cfg.Limits.Burst, cfg.Limits.PerSecond, cfg.Limits.Clients),
		changed: make(chan struct{}, 1),
		ready:   make(chan struct{}),
		out:     make(chan outgoing, cfg.Limits.InFlight+1),
		probes:  make(chan struct{}, cfg.Limits.Probes),
		talk:    newLimiter(50, 1, 1),
		links:   make(map[string]*link),
		broken:  make(map[string]string),
	}
	s.policy = policy{leases: s.table, boot: cfg.Boot}
	if err := s.table.Load(context.Background(), cfg.Log); err != nil {
		return nil, err
	}
	if err := s.SetConfig(cfg.Settings); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s.table.Counts, func() float64 { return float64(s.inFlight.Load()) })
	return s, s.metrics.register(cfg.Registerer)
}

// SetConfig replaces interfaces, subnets and reservations; leases are kept. After an error nothing has changed. It returns before
// the sockets are open.
func (s *Server) SetConfig(settings Settings) error {
	settings, err := settings.check()
	if err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	if err := s.table.SetSubnets(settings.leaseSubnets()); err != nil {
		return err
	}
	s.settings.Store(&settings)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// Leases lists all addresses that are or were in use, by address.
func (s *Server) Leases() []lease.Lease { return s.table.List() }

// Ready is closed when all interfaces of the first settings are being served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// String is the name of the task.
func (s *Server) String() string { return "dhcp" }

// Run serves until ctx ends; then it answers what has been accepted, closes the sockets and returns nil. An interface that can't be
// opened is an error in the log and is tried again: the others work on. Run can be called once.
func (s *Server) Run(ctx context.Context) error {
	committing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var committer, sender sync.WaitGroup
	committer.Go(func() { _ = s.commits.Run(committing) }) // ends with nil only
	sender.Go(func() {
		for o := range s.out {
			s.send(o)
		}
	})
	s.watch(ctx)

	for _, l := range s.links {
		l.stopReading()
	}
	s.reader.Wait()
	s.probing.Wait()
	stop()
	committer.Wait()
	close(s.out)
	sender.Wait()
	for name, l := range s.links {
		s.closeLink(name, l)
	}
	return nil
}

// watch keeps the open links like the settings until ctx ends.
func (s *Server) watch(ctx context.Context) {
	for first := true; ; {
		complete := s.reconcile(ctx)
		if complete && first {
			close(s.ready)
			first = false
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-time.After(retryTime):
		}
	}
}

// reconcile opens and closes links and reports whether all that should be open are.
func (s *Server) reconcile(ctx context.Context) bool {
	want := make(map[string]Interface)
	for _, i := range s.settings.Load().Interfaces {
		want[i.Name] = i
	}
	for name, l := range s.links {
		if want[name] != l.Interface || l.stale() {
			s.closeLink(name, l)
		}
	}
	for name := range s.broken {
		if _, ok := want[name]; !ok {
			delete(s.broken, name)
		}
	}
	complete := true
	for name, i := range want {
		if s.links[name] == nil && !s.openLink(ctx, i) {
			complete = false
		}
	}
	return complete
}

func (s *Server) openLink(ctx context.Context, i Interface) bool {
	l, err := openLink(i)
	if err != nil {
		if s.broken[i.Name] != err.Error() { // say it once, not every two seconds
			s.cfg.Logger.Error("interface not served", "interface", i.Name, "err", err)
			s.broken[i.Name] = err.Error()
		}
		return false
	}
	delete(s.broken, i.Name)
	s.links[i.Name] = l
	s.metrics.sockets.Inc()
	if l.raw == nil {
		s.cfg.Logger.Warn("not allowed to send Ethernet frames (CAP_NET_RAW): replies are broadcast instead", "interface", i.Name)
	}
	s.cfg.Logger.Info("interface served", "interface", i.Name, "addr", i.Addr)
	for port := range l.udp {
		s.reader.Go(func() {
			l.read(port, func(data []byte, src netip.AddrPort, dst netip.Addr) {
				s.receive(l, data, datagram{port: port, in: l.Interface, src: src, dst: dst, at: s.cfg.Now()})
			}, func(err error) bool { return s.readFailed(ctx, l, err) })
		})
	}
	return true
}

// readFailed decides whether reading goes on after an error, and waits a little so that a lasting error costs no CPU.
func (s *Server) readFailed(ctx context.Context, l *link, err error) bool {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.cfg.Logger.Warn("cannot receive", "interface", l.Name, "err", err)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Second):
		return true
	}
}

func (s *Server) closeLink(name string, l *link) {
	l.close()
	delete(s.links, name)
	s.metrics.sockets.Dec()
	s.cfg.Logger.Info("interface no longer served", "interface", name)
}

// receive takes one datagram through parse, limit and policy. It is called by one goroutine per socket.
func (s *Server) receive(w wire, data []byte, pkt datagram) {
	r, why := parse(data)
	if why != dropNone {
		s.dropped(why)
		return
	}
	s.metrics.packets.WithLabelValues(label(r.kind)).Inc()
	switch {
	case !s.limiter.allow(r.client.MAC, pkt.at):
		s.dropped(dropRate)
	case s.inFlight.Load() >= int64(s.cfg.Limits.InFlight):
		s.dropped(dropBusy)
	default:
		s.carryOut(w, pkt, r, s.policy.handle(pkt, r, s.settings.Load()), maxProbes)
	}
}

// say logs what a client has caused, but not more than a line a second in the long run: clients can be hostile.
func (s *Server) say(level slog.Level, msg string, args ...any) {
	if s.talk.allow(lease.MAC{}, s.cfg.Now()) {
		s.cfg.Logger.Log(context.Background(), level, msg, args...)
	}
}

func (s *Server) dropped(why drop) { s.metrics.dropped.WithLabelValues(string(why)).Inc() }

// label is a message type as a metric label, "discover".
func label(kind fmt.Stringer) string { return strings.ToLower(kind.String()) }

// maxProbes bounds the addresses tried for one client before it is offered one unprobed.
const maxProbes = 3

// carryOut does what policy has decided.
func (s *Server) carryOut(w wire, pkt datagram, r *request, out outcome, probes int) {
	if out.seen != nil {
		s.cfg.OnEvent(*out.seen)
	}
	if out.note != "" {
		s.say(slog.LevelInfo, "client needs attention", "client", r.client.MAC, "type", label(r.kind), "arch", r.arch, "note", out.note)
	}
	switch {
	case out.drop != dropNone:
		s.dropped(out.drop)
		if out.drop == dropFull {
			s.metrics.full.Inc()
		}
	case out.reply == nil:
		s.commit(r, out.records, nil)
	case out.probe && probes > 0 && s.probeFirst(w, pkt, r, out, probes):
	default:
		s.deliver(outgoing{w, pkt.port, r, out.reply}, out.records)
	}
}

// deliver sends a reply once its records are durable.
func (s *Server) deliver(o outgoing, records []lease.Record) {
	s.inFlight.Add(1)
	if len(records) == 0 {
		s.out <- o
		return
	}
	s.commit(o.req, records, &o)
}

// commit makes records durable, then sends o, which deliver has counted. Without the records there is no reply: the client will
// ask again.
func (s *Server) commit(r *request, records []lease.Record, o *outgoing) {
	if len(records) == 0 {
		return
	}
	if records[0].State == lease.Declined {
		s.metrics.conflicts.Inc()
	}
	if o == nil {
		s.inFlight.Add(1)
	}
	s.commits.Submit(records, func(err error) {
		switch {
		case err != nil:
			s.metrics.commitErrors.Inc()
			s.say(slog.LevelError, "lease not durable, client gets no answer", "client", r.client.MAC, "addr", records[0].Addr, "err", err)
			s.inFlight.Add(-1)
		case o != nil:
			s.out <- *o
		default:
			s.inFlight.Add(-1)
		}
	})
}

// probeFirst looks for a stranger on the offered address in a goroutine of its own, then sends the offer or makes another. It
// reports false if it can't: then the address is offered unprobed.
func (s *Server) probeFirst(w wire, pkt datagram, r *request, out outcome, probes int) bool {
	addr := out.reply.event.Addr
	if s.cfg.NoProbe || r.giaddr.IsValid() || !pkt.in.Addr.Masked().Contains(addr) {
		return false
	}
	select {
	case s.probes <- struct{}{}:
	default:
		return false
	}
	s.inFlight.Add(1)
	s.probing.Go(func() {
		defer func() {
			<-s.probes
			s.inFlight.Add(-1)
		}()
		used, err := w.probe(addr, r.client.MAC)
		if err != nil {
			s.say(slog.LevelWarn, "address not probed", "addr", addr, "err", err)
		}
		if !used {
			s.deliver(outgoing{w, pkt.port, r, out.reply}, out.records)
			return
		}
		s.say(slog.LevelWarn, "address is in use by a stranger", "addr", addr, "client", r.client.MAC)
		s.commit(r, s.table.Conflict(addr), nil)
		next := s.policy.handle(pkt, r, s.settings.Load())
		next.seen = nil
		s.carryOut(w, pkt, r, next, probes-1)
	})
	return true
}

// send puts a reply on the wire and tells of it. Called by the sender's goroutine only.
func (s *Server) send(o outgoing) {
	defer s.inFlight.Add(-1)
	if err := o.wire.send(o.port, o.to, marshal(o.msg, o.req)); err != nil {
		s.metrics.sendErrors.Inc()
		s.say(slog.LevelWarn, "reply not sent", "client", o.event.MAC, "addr", o.to.addr, "err", err)
		return
	}
	kind := label(o.msg.MessageType())
	s.metrics.replies.WithLabelValues(kind).Inc()
	s.cfg.Logger.Debug("replied", "client", o.event.MAC, "type", kind, "addr", o.event.Addr, "boot", o.event.Detail)
	s.cfg.OnEvent(o.event)
}
