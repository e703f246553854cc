// Package bootconf works out what ltsp.conf says about booting a client: the image, kernel parameters and the menu, which must be known before any shell runs on
// the client. It is LTSP's server-side view: [server] and its like count for all clients, and a section whose header is exactly a client's MAC address
// for that one. It knows no disk and no network; results are kept until the policy changes. Only the satellite's wiring imports it.
package bootconf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
)

// applet is the one of LTSP that makes boot menus; its sections and its ltsp-ipxe.conf count.
const applet = "ipxe"

// evaluationTime bounds one evaluation, together with ltspeval's own limits.
const evaluationTime = 5 * time.Second

// maxTimeout bounds MENU_TIMEOUT, in milliseconds.
const maxTimeout = 24 * 60 * 60 * 1000

// Source gives the configurations; it must be safe for concurrent use.
type Source interface {
	// Generation changes whenever the answers of the others may.
	Generation() uint64
	Room(mac string, client netip.Addr) string
	// Confs returns the configurations of a room in the order of their evaluation.
	Confs(room, applet string) []ltspeval.Source
}

// Evaluator is safe for concurrent use. A first question after a change takes the time of an evaluation.
type Evaluator struct {
	source  Source
	problem func(key, text string)

	mu         sync.Mutex
	generation uint64
	rooms      map[string]*room
}

// room is what the configurations of one room say. It is made by one goroutine, once.
type room struct {
	once    sync.Once
	program *ltspeval.Program
	all     bootmenu.Conf   // for clients without a section of their own
	own     map[string]bool // MACs that have one

	mu   sync.Mutex
	macs map[string]bootmenu.Conf
}

// New returns an Evaluator. problem is told what a person should look at, by key; an empty text says that it is over. nil: nobody is told.
func New(source Source, problem func(key, text string)) *Evaluator {
	if problem == nil {
		problem = func(string, string) {}
	}
	return &Evaluator{source: source, problem: problem, generation: source.Generation(), rooms: make(map[string]*room)}
}

// Conf returns what ltsp.conf says about booting a client. After an error of the configuration it is what could still be told, at worst nothing, with the
// problem in it.
func (e *Evaluator) Conf(mac string, client netip.Addr) bootmenu.Conf {
	name := e.source.Room(mac, client)
	generation := e.source.Generation()
	e.mu.Lock()
	if generation != e.generation {
		e.generation, e.rooms = generation, make(map[string]*room)
		e.problem("boot-conf", "")
	}
	r := e.rooms[name]
	if r == nil {
		r = &room{own: make(map[string]bool), macs: make(map[string]bootmenu.Conf)}
		e.rooms[name] = r
	}
	e.mu.Unlock()
	r.once.Do(func() { r.compile(e.source.Confs(name, applet)) })
	c := r.conf(mac)
	if c.Problem != "" {
		e.problem("boot-conf", "ltsp.conf is not followed for boots: "+c.Problem)
	}
	return c
}

// Check evaluates anew after a change what counts for clients without a room or section of their own, so that an error is told before a client boots.
func (e *Evaluator) Check() { e.Conf("", netip.Addr{}) }

func (r *room) compile(sources []ltspeval.Source) {
	if len(sources) == 0 {
		return
	}
	program, err := ltspeval.Compile(sources)
	if err != nil {
		r.all.Problem = err.Error()
		return
	}
	r.program = program
	for _, s := range sources {
		f, err := ltspconf.Parse(s.Text)
		if err != nil {
			continue // it was compiled, so it can be parsed
		}
		for _, section := range f.Sections {
			if mac, err := bootmenu.ParseMAC(section.Name); err == nil && mac == section.Name {
				r.own[mac] = true
			}
		}
	}
	r.all = evaluate(program, "")
}

// conf evaluates a client's own sections once. Clients without one share a result, so that made-up MACs cost nothing.
func (r *room) conf(mac string) bootmenu.Conf {
	if r.program == nil || !r.own[mac] {
		return r.all
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.macs[mac]
	if !ok {
		if c = evaluate(r.program, mac); c.Problem != "" {
			problem := c.Problem
			c = r.all
			c.Problem = problem
		}
		r.macs[mac] = c
	}
	return c
}

func evaluate(p *ltspeval.Program, mac string) bootmenu.Conf {
	ctx, cancel := context.WithTimeout(context.Background(), evaluationTime)
	defer cancel()
	res, err := p.Evaluate(ctx, ltspeval.Query{Subject: ltspconf.Subject{MAC: mac, Applet: applet, Server: true}})
	if err != nil {
		return bootmenu.Conf{Problem: err.Error()}
	}
	v := values{res: res}
	c := bootmenu.Conf{DefaultImage: v.get("DEFAULT_IMAGE"), KernelParameters: v.get("KERNEL_PARAMETERS"), Titles: make(map[string]string)}
	if mac != "" {
		c.Hostname = v.get("HOSTNAME")
	}
	if text := v.get("MENU_TIMEOUT"); text != "" {
		if ms, err := strconv.Atoi(text); err != nil || ms < -1 || ms > maxTimeout {
			v.errs = append(v.errs, fmt.Errorf("MENU_TIMEOUT=%.40q is no number of milliseconds", text))
		} else {
			c.MenuTimeout = &ms
		}
	}
	for _, title := range res.Family("IPXE_") {
		if !title.Inexact {
			c.Titles[strings.TrimPrefix(title.Name, "IPXE_")] = title.Value
		}
	}
	if err := errors.Join(v.errs...); err != nil {
		c.Problem = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return c
}

// values reads results and collects what can't be used.
type values struct {
	res  *ltspeval.Result
	errs []error
}

func (v *values) get(name string) string {
	x, ok := v.res.Get(name)
	if !ok {
		return ""
	}
	if x.Inexact {
		where := name
		if i := slices.IndexFunc(x.Assignments, func(a ltspeval.Assignment) bool { return a.Line > 0 }); i >= 0 {
			a := x.Assignments[i]
			where = fmt.Sprintf("%s (%s/%s:%d)", name, a.Scope, a.File, a.Line)
		}
		v.errs = append(v.errs, fmt.Errorf("the value of %s hangs on what only a client can tell", where))
		return ""
	}
	return x.Value
}
