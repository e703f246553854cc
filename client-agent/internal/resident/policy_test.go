package resident

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const running = "SystemState=running\nNFailedUnits=0\nNJobs=0\n"

func TestPolicyIsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{show: running, noPolicy: "booted without a policy: away"}
		runClient(t, c, func() {
			close(c.finished)
			synctest.Wait()
			if r := c.last(); r.State != Degraded || !cmp.Equal(r.Reasons, []string{c.noPolicy}) || r.Policy != nil {
				t.Errorf("without a policy: %+v", r)
			}
			c.set(func() { c.policy = "1" })
			time.Sleep(time.Minute + 2*time.Second) // the next acknowledgement names it
			synctest.Wait()
			if r := c.last(); r.State != Healthy || r.Policy == nil || r.Policy.State != "1" || !cmp.Equal(r.Policy.Pending, []string{"SWAP needs a reboot"}) {
				t.Errorf("with a policy: %+v", r)
			}
			c.set(func() { c.policy = "2" })
			c.incoming(agentproto.Message{Notice: &agentproto.Notice{Policy: "2"}})
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if r := c.last(); r.Policy.State != "2" || r.Policy.Took != agentproto.Duration(2*time.Second) {
				t.Errorf("after a notice: %+v", r.Policy)
			}
			c.set(func() { c.policy, c.applyErr = "3", errors.New("line 7 of ltsp.conf") })
			c.incoming(agentproto.Message{Notice: &agentproto.Notice{Policy: "3"}})
			time.Sleep(3 * time.Second)
			if r := c.last(); r.Policy.State != "2" || len(r.Policy.Errors) != 1 || !strings.Contains(r.Policy.Errors[0], "line 7 of ltsp.conf") {
				t.Errorf("after a bad one: %+v", r.Policy)
			}
			if len(c.lines) != 1 || c.lines[0].Event == nil || c.lines[0].Event.Kind != agentproto.EventPolicy || c.lines[0].Event.Validate() != nil {
				t.Errorf("told %+v", c.lines)
			}
		})
		if len(c.saved) == 0 || c.saved[len(c.saved)-1].State != "2" {
			t.Errorf("kept %+v", c.saved)
		}
	})
}

func order(id string) agentproto.Message {
	return agentproto.Message{Command: &agentproto.Command{ID: id, Kind: agentproto.CommandRun}}
}

// results are the IDs of the results that were told, with their errors.
func (c *client) results() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, m := range c.lines {
		if m.Result != nil {
			list = append(list, strings.TrimSpace(m.Result.ID+" "+m.Result.Error))
		}
	}
	return list
}

func TestCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{show: running, commands: map[string]chan func() error{}}
		for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
			c.commands[id] = make(chan func() error, 1)
		}
		runClient(t, c, func() {
			for _, id := range []string{"a", "b", "c", "d", "a", "e"} { // one twice, one too many
				c.incoming(order(id))
			}
			synctest.Wait()
			if diff := cmp.Diff([]string{"e the client is busy with other commands"}, c.results()); diff != "" {
				t.Error(diff)
			}
			c.commands["b"] <- nil
			synctest.Wait()
			c.incoming(order("f"))
			var told []string
			c.commands["f"] <- func() error { // the PC ends: its result must have been told
				told = append(told, c.results()...)
				return errors.New("it goes on")
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if !slices.Equal(told, []string{"e the client is busy with other commands", "b", "f"}) {
				t.Errorf("told before the end: %v", told)
			}
			c.commands["a"] <- nil // ends while the agent does
		})
		// c and d hang until the agent gives them up.
		got := c.results()[3:]
		slices.Sort(got)
		if len(got) == 0 || got[0] != "a" {
			t.Errorf("told at the end: %v", got)
		}
	})
}

func TestSessionsAndEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &client{show: running}
		runClient(t, c, func() {
			close(c.finished)
			synctest.Wait()
			n := len(c.reports)
			anna := agentproto.Session{Kind: "login", User: "anna", Since: time.Now().UTC()}
			good := agentproto.Event{Time: time.Now().UTC(), Kind: agentproto.EventLoginHost, Text: "does not answer"}
			c.set(func() {
				c.sessions = []agentproto.Session{anna}
				c.events = []agentproto.Event{{Kind: "Bad kind", Text: "x"}, good}
			})
			time.Sleep(watchEvery)
			synctest.Wait()
			if len(c.reports) != n+1 || !cmp.Equal(c.last().Sessions, []agentproto.Session{anna}) {
				t.Errorf("%d reports, sessions %v", len(c.reports)-n, c.last().Sessions)
			}
			if diff := cmp.Diff([]agentproto.Message{{Event: &good}}, c.lines); diff != "" {
				t.Error(diff)
			}
			time.Sleep(30 * time.Second)
			if len(c.reports) != n+1 {
				t.Errorf("%d reports of the same sessions", len(c.reports)-n)
			}
		})
	})
}
