package ltsplint

import (
	"encoding/base64"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspparam"
)

// environment are variables that are often set for one command.
var environment = []string{"IFS", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PATH", "HOME", "DISPLAY", "XAUTHORITY", "TZ", "DEBIAN_FRONTEND", "PYTHONPATH"}

// commands looks at simple commands that were meant as something else.
func (f *file) commands() {
	for _, c := range f.tree.calls {
		name := c.args[0]
		second := ""
		if len(c.args) > 1 {
			second = c.args[1]
		}
		switch {
		case syntax.ValidName(name) && strings.HasPrefix(second, "="):
			f.add(c.line, Error, "spaced-assignment", "take the spaces away, before and round the =", "%q is run as a command, because spaces are before it", name)
		case appends(name):
			f.add(c.line, Error, "plus-equals", `write A="$A more"`, "sh does not know +=, so this is run as a command")
		case name == "exit" || name == "exec":
			f.add(c.line, Warning, "exit", "use return, or if", "%s ends LTSP while it starts a client", name)
		}
	}
}

func appends(word string) bool {
	name, _, ok := strings.Cut(word, "+=")
	return ok && syntax.ValidName(name)
}

func (f *file) assignments() {
	told := make(map[string]bool)
	for _, s := range f.tree.sets {
		p, known := ltspparam.Lookup(s.name)
		switch {
		case strings.EqualFold(s.name, "include"):
			f.add(s.line, Error, "include-indented", "begin the line with INCLUDE", "INCLUDE counts at the beginning of a line only; this sets a variable")
			continue
		case s.before != "" && f.unquoted(s, known):
			continue
		case s.before != "":
			continue
		case !known:
			f.unknown(s)
			continue
		}
		f.side(s, p)
		f.special(s)
		if isHook(p) {
			f.hook(s)
			continue
		}
		if told[p.Name] {
			continue
		}
		told[p.Name] = f.support(s, p)
	}
	f.hostNames()
}

// unquoted finds a value whose spaces made a command of its rest.
func (f *file) unquoted(s set, known bool) bool {
	if !known || slices.Contains(environment, s.name) || s.before == "export" {
		return false
	}
	f.add(s.line, Error, "unquoted-spaces", "put the value in quotes", "%s is set for the command %q only, because of the space", s.name, s.before)
	return true
}

func isHook(p ltspparam.Param) bool { return p.Name == "PRE_" || p.Name == "POST_" }

// side finds parameters in sections that those who read them do not evaluate.
func (f *file) side(s set, p ltspparam.Param) {
	section := f.section(s.line)
	side := p.Side
	if isHook(p) {
		applet, _ := hookApplet(s.name)
		side = applets[applet]
	}
	switch {
	case section == "clients" && side == ltspparam.Server:
		f.add(s.line, Warning, "server-value-on-clients", "put it into [server]", "%s is for LTSP's server, which does not evaluate [clients]", s.name)
	case section == "server" && side == ltspparam.Client:
		f.add(s.line, Warning, "client-value-on-server", "put it into [clients]", "%s is for clients, which do not evaluate [server]", s.name)
	}
	if strings.HasPrefix(s.name, "PRE_INITRD_BOTTOM_") || strings.HasPrefix(s.name, "POST_INITRD_BOTTOM_") {
		if section == "server" || section == "common" || section == ltspconf.Unnamed {
			f.add(s.line, Warning, "initrd-hook", "put it into [clients]", "LTSP's server runs this hook as well, when it makes the initrd")
		}
	}
	if slices.Contains([]string{"DEFAULT_IMAGE", "KERNEL_PARAMETERS", "MENU_TIMEOUT"}, p.Name) && !readsMenu(section) {
		f.add(s.line, Warning, "mac-only", "use a section of the whole MAC address, or better: "+p.Differs, "%s is not read from section %q", s.name, section)
	}
}

// applets are those that hooks can be for.
var applets = map[string]ltspparam.Side{
	"DNSMASQ": ltspparam.Server, "IMAGE": ltspparam.Server, "IPXE": ltspparam.Server, "KERNEL": ltspparam.Server, "NFS": ltspparam.Server,
	"INIT": ltspparam.Client, "INITRD_BOTTOM": ltspparam.Client, "SESSION": ltspparam.Client, "REMOTEAPPS": ltspparam.Client,
	"INITRD": ltspparam.Both, "INFO": ltspparam.Both, "SERVICE": ltspparam.Both,
}

// hookApplet returns the applet of a hook's name, and whether a suffix follows; "" if there is no such applet.
func hookApplet(name string) (applet string, suffixed bool) {
	_, rest, _ := strings.Cut(name, "_")
	for a := range applets {
		if (rest == a || strings.HasPrefix(rest, a+"_")) && len(a) > len(applet) {
			applet, suffixed = a, len(rest) > len(a)+1
		}
	}
	return applet, suffixed
}

// hook looks at a PRE_ or POST_ parameter.
func (f *file) hook(s set) {
	applet, suffixed := hookApplet(s.name)
	switch {
	case applet == "":
		f.add(s.line, Warning, "typo", "write POST_INIT_X, or the applet that is meant", "no applet runs the hook %s", s.name)
	case !suffixed:
		f.add(s.line, Error, "family-suffix", "write "+strings.TrimSuffix(s.name, "_")+"_X", "%s does nothing without a suffix", s.name)
	case applet != "INIT" && applet != "INITRD_BOTTOM":
		f.add(s.line, Note, "not-here", "leave it out, or use POST_INIT_x", "nothing here runs the hooks of LTSP's applet %s", strings.ToLower(applet))
	}
}

func readsMenu(section string) bool {
	return section == "server" || section == "common" || section == "clients" || section == ltspconf.Unnamed || wholeMAC.MatchString(section) || !strings.ContainsAny(section, ":*?|.")
}

// special looks at the values of some parameters.
func (f *file) special(s set) {
	switch {
	case s.name == "SERVER":
		f.add(s.line, Note, "server-set", "leave it out, unless these clients log in elsewhere", "SERVER wins over the site's login host; it must never be the address of a satellite")
	case s.name == "SSHFS" || s.name == "MKHOMEDIR":
		f.add(s.line, Note, "pamltsp-conf", "for LTSP, put it into pamltsp.conf", "%s works here; LTSP reads it from pamltsp.conf only", s.name)
	case s.name == "HOSTNAME" && s.exact && s.value != strings.ToLower(s.value) && !strings.Contains(s.value, "%"):
		f.add(s.line, Warning, "host-name-upper-case", "write "+strings.ToLower(s.value), "names of sections are lower case, so none matches the host name %q", s.value)
	case s.name == "AUTOLOGIN" && s.exact && slices.Contains([]string{"0", "1", "true", "yes", "True"}, s.value):
		f.add(s.line, Error, "autologin-form", "write AUTOLOGIN=USER, or AUTOLOGIN=pc/guest", "AUTOLOGIN=%s would log in a user of that name", s.value)
	case strings.HasPrefix(s.name, "PASSWORDS_") && s.exact:
		f.passwords(s)
	}
}

func (f *file) passwords(s set) {
	for word := range strings.FieldsSeq(s.value) {
		_, secret, ok := strings.Cut(word, "/")
		if !ok {
			f.add(s.line, Error, "password-form", "write USERS/BASE64", "a word of %s has no slash", s.name)
			continue
		}
		if i := strings.LastIndexByte(word, '/'); i != strings.IndexByte(word, '/') {
			f.add(s.line, Note, "password-slash", "for LTSP, choose another password", "the password has a slash in base64: it works here, and LTSP cuts it there")
		}
		if _, err := base64.StdEncoding.DecodeString(secret); err != nil {
			f.add(s.line, Warning, "password-form", "make it with: printf %s PASSWORD | base64", "a password of %s is no base64", s.name)
		}
	}
}

// support tells what is different here, once for each parameter.
func (f *file) support(s set, p ltspparam.Param) bool {
	switch {
	case p.Support == ltspparam.No:
		f.add(s.line, Note, "not-here", "leave it out", "%s means nothing here: %s", s.name, p.Differs)
	case p.Support == ltspparam.Differs && !p.Own && p.Name != "SERVER" && p.Name != "SSHFS" && p.Name != "MKHOMEDIR" && p.Name != "PASSWORDS_":
		f.add(s.line, Note, "differs", "nothing to do, if that is what you want", "%s differs from LTSP: %s", s.name, p.Differs)
	}
	return true
}

// unknown finds names that were probably meant as a parameter.
func (f *file) unknown(s set) {
	if ltspparam.Given(s.name) || f.tree.used[s.name] {
		return
	}
	if _, ok := ltspparam.Lookup(s.name + "_X"); ok && !strings.HasSuffix(s.name, "_") {
		f.add(s.line, Error, "family-suffix", "write "+s.name+"_X", "%s does nothing without a suffix", s.name)
		return
	}
	if slices.ContainsFunc(ltsp5, func(p string) bool { return strings.HasPrefix(s.name, p) }) {
		f.add(s.line, Warning, "ltsp5", "leave it out, and see the list of parameters", "%s was a parameter of LTSP 5", s.name)
		return
	}
	if f.looked[s.name] || len(f.looked) >= maxLooked {
		return
	}
	f.looked[s.name] = true
	if near := nearest(s.name); near != "" {
		f.add(s.line, Warning, "typo", "write "+near, "%s is no parameter", s.name)
	}
}

// ltsp5 are beginnings of names that lts.conf of LTSP 5 had.
var ltsp5 = []string{"LDM_", "SCREEN_0", "SCREEN_1", "LOCAL_APPS", "LOCALDEV", "NBD_SWAP", "XSERVER", "XKB", "X_COLOR_DEPTH", "X_MODE_", "X_OPTION_", "PRINTER_", "FAT_", "KEEP_SYSTEM_SERVICE_", "SOUND"}

// twice finds values that a later line of the same section takes back.
func (f *file) twice() {
	last := make(map[string]set)
	for _, s := range f.tree.sets {
		if _, known := ltspparam.Lookup(s.name); !known || !s.always || !s.exact || f.tree.used[s.name] {
			continue
		}
		key := f.section(s.line) + "\x00" + s.name
		if o, seen := last[key]; seen && o.line != s.line {
			f.add(o.line, Warning, "assigned-twice", "put all into one value, with line breaks where several lines are meant", "%s gets another value in line %d, so this one is lost", s.name, s.line)
		}
		last[key] = s
	}
}

// maxLooked bounds the names of a file that are compared with all parameters.
const maxLooked = 1000

// nearest returns the known parameter that a name was probably meant as, or "".
func nearest(name string) string {
	upper := strings.ToUpper(name)
	if _, ok := ltspparam.Lookup(upper); ok && len(name) > 3 {
		return upper
	}
	if name != upper {
		return ""
	}
	best, bestAt := "", 3
	for _, p := range ltspparam.All() {
		candidate, end := p.Name, name
		suffix := ""
		if p.Family {
			i := strings.IndexByte(name, '_')
			if i <= 0 || i == len(name)-1 {
				continue
			}
			end, suffix = name[:i+1], name[i+1:]
		}
		limit := 2
		if len(candidate) < 8 {
			limit = 1
		}
		if len(candidate) < 5 {
			continue
		}
		if d := distance(end, candidate, limit); d <= limit && d < bestAt {
			best, bestAt = candidate+suffix, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that make one of the other; limit+1 if there are more than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	var before, last, row []int
	for j := range len(b) + 1 {
		last = append(last, j)
	}
	for i := range len(a) {
		row = []int{i + 1}
		for j := range len(b) {
			d := last[j]
			if a[i] != b[j] {
				d++
			}
			d = min(d, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row = append(row, d)
		}
		before, last = last, row
	}
	return last[len(b)]
}

// hostNames finds sections that name two clients alike.
func (f *file) hostNames() {
	first := make(map[string]set)
	for _, s := range f.tree.sets {
		section := f.section(s.line)
		if s.name != "HOSTNAME" || s.before != "" || !s.exact || s.value == "" || strings.Contains(s.value, "%") {
			continue
		}
		shared := isGlob(section) || strings.Contains(section, "|") || slices.Contains(special, section)
		o, seen := first[s.value]
		switch {
		case shared:
			f.add(s.line, Warning, "host-name-collision", `use HOSTNAME="`+s.value+`%{IP}"`, "all clients of section %q get the name %q", section, s.value)
		case seen && f.section(o.line) != section:
			f.add(s.line, Warning, "host-name-collision", "give each client its own name", "section %q (line %d) gives the name %q too", f.section(o.line), o.line, s.value)
		case !seen:
			first[s.value] = s
		}
	}
}

// endings finds sections whose last command can fail.
func (f *file) endings() {
	for line, s := range f.tree.lasts {
		fails := false
		switch c := s.Cmd.(type) {
		case *syntax.BinaryCmd:
			fails = c.Op == syntax.AndStmt
		case *syntax.CallExpr:
			fails = len(c.Args) > 0 && (c.Args[0].Lit() == "test" || c.Args[0].Lit() == "[")
		}
		if fails && !s.Negated {
			f.add(lineOf(s.Pos()), Note, "last-command", "write if ...; then ...; fi, or put a line with : behind it",
				"this is the last command of the section in line %d; when it fails, LTSP stops the client's start, which the agent does not", max(line, 1))
		}
	}
}
