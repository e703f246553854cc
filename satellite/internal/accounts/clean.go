package accounts

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Bounds of one account. maxID is the highest user or group ID: -1 stands for none (chown(2)).
const (
	maxName  = 256
	maxID    = 1<<32 - 2
	maxField = 4 << 10
)

// Ordinary users, as Debian's adduser and login.defs number them; only for counting.
const (
	firstUser = 1000
	lastUser  = 60000
)

// cleaned is accounts fit for clients.
type cleaned struct {
	agentproto.Users
	users   int // ordinary ones
	dropped int // lines that were unusable
}

// clean checks each line of passwd(5) and group(5) and writes it anew with the password field "x": hashes must not leave the satellite. Lines that are no account are
// dropped, and further ones of a name: the first counts, as for getpwnam(3). An error means that there is no account at all.
func clean(t texts) (cleaned, error) {
	var c cleaned
	var out strings.Builder
	seen := make(map[string]bool)
	for line := range lines(t.passwd) {
		account, id, ok := cleanUser(line)
		name, _, _ := strings.Cut(account, ":")
		if !ok {
			c.dropped++
		}
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		if id >= firstUser && id < lastUser {
			c.users++
		}
		out.WriteString(account)
	}
	c.Passwd = out.String()
	out.Reset()
	clear(seen)
	for line := range lines(t.group) {
		group, ok := cleanGroup(line)
		name, _, _ := strings.Cut(group, ":")
		if !ok {
			c.dropped++
		}
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		out.WriteString(group)
	}
	c.Group = out.String()
	if c.Passwd == "" || c.Group == "" {
		return c, fmt.Errorf("%w: no users, or no groups", errFrame)
	}
	return c, c.Validate()
}

// lines yields the lines that are neither empty nor entries of the compat service (nsswitch.conf(5)).
func lines(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.SplitSeq(text, "\n") {
			if line != "" && line[0] != '+' && line[0] != '-' && !yield(line) {
				return
			}
		}
	}
}

// cleanUser returns name:x:UID:GID:GECOS:HOME:SHELL and a line end.
func cleanUser(line string) (account string, id uint64, ok bool) {
	f := strings.Split(strings.ToValidUTF8(line, "?"), ":")
	if len(f) != 7 || !isName(f[0]) {
		return "", 0, false
	}
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	if err1 != nil || err2 != nil || uid > maxID || gid > maxID {
		return "", 0, false
	}
	for _, text := range f[4:] {
		if len(text) > maxField || strings.ContainsFunc(text, unicode.IsControl) {
			return "", 0, false
		}
	}
	if f[5] != "" && f[5][0] != '/' || f[6] != "" && f[6][0] != '/' {
		return "", 0, false
	}
	return fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", f[0], uid, gid, f[4], f[5], f[6]), uid, true
}

// cleanGroup returns name:x:GID:MEMBERS and a line end; members that can't be names are left out.
func cleanGroup(line string) (string, bool) {
	f := strings.Split(strings.ToValidUTF8(line, "?"), ":")
	if len(f) != 4 || !isName(f[0]) {
		return "", false
	}
	gid, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil || gid > maxID {
		return "", false
	}
	var members []string
	for m := range strings.SplitSeq(f[3], ",") {
		if isName(m) {
			members = append(members, m)
		}
	}
	return fmt.Sprintf("%s:x:%d:%s\n", f[0], gid, strings.Join(members, ",")), true
}

// isName tells whether s can name a user or group. Directories allow more than passwd(5) does (blanks, backslashes, letters of all kinds); what would be a path or an
// option is refused.
func isName(s string) bool {
	if s == "" || len(s) > maxName || strings.ContainsAny(s[:1], "-+~ .") || strings.HasSuffix(s, " ") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || strings.ContainsRune(`/,;:"'<>|&*?`, r) || r == unicode.ReplacementChar
	})
}
