package accounts

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// getent(1) ends well, or as if there were nothing more, when a directory fails before or while it lists. A list that has lost at least shortLost users or groups,
// and more than half of them, counts only after it has been short for shortTime without a break.
const (
	shortLost = 5
	shortTime = time.Hour
)

// nobody is the overflow ID of user namespaces and NFS, which Debian names in its own files.
const nobody = 65534

// shortKey is the key of the problem.
const shortKey = "accounts-short"

// sizes are how many users and groups there are, but for the system's own.
type sizes struct{ users, groups int }

// held is a short list that does not count yet.
type held struct {
	reading
	since time.Time // of the first one
}

// believable tells whether a list counts that has been much shorter than before for the given time; zero if it is the first one.
func believable(before, now sizes, short time.Duration) bool {
	return short >= shortTime || !shorter(before.users, now.users) && !shorter(before.groups, now.groups)
}

func shorter(before, now int) bool {
	lost := before - now
	return lost >= shortLost && 2*lost > before
}

// count returns the sizes of accounts as last has them; zero if they can't be read.
func count(l *last) sizes {
	u, err := agentproto.ParseUsers(l.Users)
	if err != nil {
		return sizes{}
	}
	return sizes{countIDs(u.Passwd), countIDs(u.Group)}
}

// countIDs counts the lines of passwd(5) or group(5) whose ID is none of the system's.
func countIDs(text string) int {
	n := 0
	for line := range lines(text) {
		if f := strings.SplitN(line, ":", 4); len(f) == 4 {
			if id, err := strconv.ParseUint(f[2], 10, 32); err == nil && id >= firstUser && id != nobody {
				n++
			}
		}
	}
	return n
}

// takeUnlessShort takes what was read just now, or holds it back.
func (w *Watcher) takeUnlessShort(r reading) {
	w.mu.Lock()
	before, h := w.last, w.held
	w.mu.Unlock()
	if before == nil || before.Address != r.list.Address {
		w.take(r)
		return
	}
	if h == nil {
		h = &held{since: r.list.Updated}
	}
	was, is := count(before), count(r.list)
	if believable(was, is, r.list.Updated.Sub(h.since)) {
		w.take(r)
		return
	}
	w.mu.Lock()
	w.held = &held{r, h.since}
	w.status.State, w.status.Error, w.status.Held = OK, "", true
	w.mu.Unlock()
	w.log.Warn("the login host's list is much shorter than the last one, which stays", "addr", r.list.Address, "users", is.users, "groups", is.groups,
		"users_before", was.users, "groups_before", was.groups)
	w.cfg.Problem("login-host", "")
	w.cfg.Problem(shortKey, fmt.Sprintf("login host %s lists %d users and %d groups, before it had %d and %d: does its directory fail? Clients keep the accounts of %s; "+
		"the short list counts if it is still so at %s", r.list.Address, is.users, is.groups, was.users, was.groups,
		before.Updated.UTC().Format(time.RFC3339), h.since.Add(shortTime).UTC().Format(time.RFC3339)))
}

// unchanged is told that the list is still the one that was read last: one that is held back may count now.
func (w *Watcher) unchanged() {
	now := w.cfg.Now()
	w.mu.Lock()
	h := w.held
	w.mu.Unlock()
	if h == nil || now.Sub(h.since) < shortTime {
		return
	}
	list := *h.list
	list.Updated = now
	w.takeUnlessShort(reading{&list, h.dropped})
}

// release forgets a list that is held back.
func (w *Watcher) release() {
	w.mu.Lock()
	w.held, w.status.Held = nil, false
	w.mu.Unlock()
	w.cfg.Problem(shortKey, "")
}
