package link

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

// Bounds of commands.
const (
	maxOutstanding = 4096             // commands without an answer, of all sites
	answerGrace    = 10 * time.Second // for the way there and back, beyond what the client may take
)

// Why a command has no answer of the client. These are results, not errors: other clients go on.
const (
	noSatellite  = "no satellite of the site is connected"
	noConnection = "no satellite has a connection to the client"
	noNetwork    = "no satellite is attached to the client's network"
	tooMany      = "too many commands are under way; try again later"
)

// tally is a command that not all satellites of the site have answered. It is guarded by Registry.mu.
type tally struct {
	kind   fleet.CommandKind
	left   map[*Session]bool // that may still answer
	failed string            // what went wrong where it did
	answer chan fleet.CommandResult
}

// hear takes what a session said, or that it has ended (an answer of NotHere), and tells whether the command is over with that. A client has a
// stream to one satellite, so that one's answer counts whatever it is; a machine is woken up if any satellite could.
func (t *tally) hear(s *Session, result fleet.CommandResult) bool {
	if !t.left[s] {
		return false
	}
	delete(t.left, s)
	over := !result.NotHere && (result.Error == "" || t.kind != fleet.CommandWake)
	if !over {
		if !result.NotHere {
			t.failed = result.Error
		}
		if len(t.left) > 0 {
			return false
		}
		result = fleet.CommandResult{Error: noConnection}
		switch {
		case t.failed != "":
			result.Error = t.failed
		case t.kind == fleet.CommandWake:
			result.Error = noNetwork
		}
	}
	t.answer <- result
	return true
}

// Command has one client of a site do something and waits for the answer, at most the command's timeout and a little more. The ID is made here. The
// error is ctx's; what went wrong on the way is in the result.
func (r *Registry) Command(ctx context.Context, site string, c fleet.Command) (fleet.CommandResult, error) {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	c.ID = hex.EncodeToString(id[:])
	t := &tally{kind: c.Kind, left: make(map[*Session]bool), answer: make(chan fleet.CommandResult, 1)}
	result := fleet.CommandResult{ID: c.ID, MAC: c.MAC}
	if result.Error = r.dispatch(site, c, t); result.Error != "" {
		return result, nil
	}
	defer r.forgetCommand(c.ID)
	wait := time.Duration(c.Timeout) + answerGrace
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case answer := <-t.answer:
		answer.ID, answer.MAC = c.ID, c.MAC
		return answer, nil
	case <-timer.C:
		result.Error = fmt.Sprintf("no answer within %s", wait)
		return result, nil
	case <-ctx.Done():
		return result, ctx.Err()
	}
}

// dispatch hands the command to the sessions of the site, or says why it could not.
func (r *Registry) dispatch(site string, c fleet.Command, t *tally) (problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.commands) >= maxOutstanding {
		return tooMany
	}
	problem = noSatellite
	for _, s := range r.sessions {
		if s.site != site || s.ended() {
			continue
		}
		if len(s.queue) >= maxOutstanding {
			problem = tooMany
			continue
		}
		s.queue = append(s.queue, c)
		t.left[s] = true
		notify(s.queued)
	}
	if len(t.left) == 0 {
		return problem
	}
	r.commands[c.ID] = t
	r.metrics.commands.Inc()
	return ""
}

// unqueue takes the next command off the queue; nil if there is none. What nobody waits for any more is not sent: the admin was told that it was not
// done.
func (s *Session) unqueue() *fleet.Command {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(s.queue) > 0 {
		c := s.queue[0]
		s.queue = s.queue[1:]
		if r.commands[c.ID] != nil {
			notify(s.queued)
			return &c
		}
	}
	return nil
}

func (r *Registry) forgetCommand(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.commands, id)
}

func (r *Registry) outstanding() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(len(r.commands))
}

// Result takes the satellite's answer to a command. One to a command that it was not given, or that is over, is dropped.
func (s *Session) Result(result fleet.CommandResult) {
	result.Bound()
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.commands[result.ID]; t != nil && t.hear(s, result) {
		delete(r.commands, result.ID)
	}
}

// abandon lets go of the commands that an ended session will not answer any more.
func (r *Registry) abandon(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, t := range r.commands {
		if t.hear(s, fleet.CommandResult{NotHere: true}) {
			delete(r.commands, id)
		}
	}
}
