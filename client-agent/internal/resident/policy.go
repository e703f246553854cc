package resident

import (
	"context"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/follower"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// maxCommands bounds what is done for administrators at a time.
	maxCommands = 4
	// lastWords bounds the time in which the results of commands are told when the client ends, or is about to.
	lastWords = 3 * time.Second
	// maxEvents bounds what is taken from the spool at a time.
	maxEvents = 16
)

// newFollower makes the follower of the policy.
func (a *Agent) newFollower() *follower.Follower {
	cfg := a.cfg.Policy
	cfg.Log = a.cfg.Log
	cfg.Changed = func(news string) {
		if r := a.follower.Report(); r != nil {
			a.cfg.SavePolicy(*r)
		}
		if news != "" {
			a.outbox.Add(event(agentproto.EventPolicy, news))
		}
		a.judge()
		a.reportSoon()
	}
	return follower.New(cfg)
}

func event(kind, text string) agentproto.Message {
	e := spool.Event(kind, text)
	return agentproto.Message{Event: &e}
}

// hear takes what a satellite says unasked. It does not block.
func (a *Agent) hear(ctx context.Context, sat agentproto.Satellite, m agentproto.Message) {
	switch {
	case m.Notice != nil && m.Notice.Policy != "":
		a.follower.Want(sat, m.Notice.Policy)
	case m.Command != nil:
		a.command(ctx, *m.Command)
	}
}

// command carries a command out beside what else goes on. One that comes twice, by way of two satellites or again after a lost stream, is done once.
func (a *Agent) command(ctx context.Context, c agentproto.Command) {
	if !a.isNew(c.ID) {
		return
	}
	select {
	case a.slots <- struct{}{}:
	default:
		a.outbox.Add(agentproto.Message{Result: &agentproto.Result{ID: c.ID, Error: "the client is busy with other commands"}})
		return
	}
	a.work.Go(func() {
		defer func() { <-a.slots }()
		result, then := a.cfg.Command(ctx, c)
		a.outbox.Add(agentproto.Message{Result: &result})
		if then == nil {
			return
		}
		told, cancel := context.WithTimeout(ctx, lastWords)
		defer cancel()
		a.outbox.awaitEmpty(told)
		if err := then(); err != nil {
			a.cfg.Log.Error("command", "kind", c.Kind, "err", err)
		}
	})
}

// isNew tells whether a command's ID has not been seen lately.
func (a *Agent) isNew(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.commands, id) {
		return false
	}
	a.commands = append(a.commands, id)
	a.commands = a.commands[max(0, len(a.commands)-maxLines):]
	return true
}

// lookAround takes in sessions and events.
func (a *Agent) lookAround() {
	for _, e := range a.cfg.Events(maxEvents) {
		if err := e.Validate(); err != nil {
			a.cfg.Log.Warn("event dropped", "err", err)
			continue
		}
		a.outbox.Add(agentproto.Message{Event: &e})
	}
	sessions := a.cfg.Sessions()
	a.mu.Lock()
	same := slices.Equal(sessions, a.sessions)
	a.sessions = sessions
	a.mu.Unlock()
	if !same {
		a.reportSoon()
	}
}

// reportSoon has a report sent at once.
func (a *Agent) reportSoon() {
	select {
	case a.changed <- struct{}{}:
	default: // one is due already
	}
}

// finish lets results of commands out when the agent is told to end: "restart" is one.
func (a *Agent) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	for len(a.slots) > 0 && pause(ctx, emptyPoll) {
		continue
	}
	a.outbox.awaitEmpty(ctx)
}
