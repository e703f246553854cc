// Package ltspimport tells what of an LTSP server's /etc/ltsp will be different on clients of the fleet, and why: where it comes from the server, what
// its passwords were worth, what takes the place of live data. What single parameters do differently, lint says (internal/ltsplint). It is pure: a tree in,
// remarks out. Only ltspctl uses it.
package ltspimport

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Remark is one difference.
type Remark struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // 0: the whole file
	What string `json:"what"`           // parameter or file
	Text string `json:"text"`           // what is different, and why
	Do   string `json:"do,omitempty"`   // what the admin should do; empty if nothing
}

// Review looks at all of a tree. Remarks come in the order of files and lines.
func Review(tree policy.Tree) []Remark {
	var remarks []Remark
	for _, f := range tree {
		if f.Kind == policy.Regular && policy.IsConf(f.Path) {
			remarks = append(remarks, reviewConf(f)...)
		}
		remarks = append(remarks, reviewFile(f)...)
	}
	slices.SortStableFunc(remarks, func(a, b Remark) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return remarks
}

// assignment recognises VAR=value wherever the shell would, one a line; LTSP's "VAR = value" too.
var assignment = regexp.MustCompile(`^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$`)

func reviewConf(f policy.File) []Remark {
	conf, err := ltspconf.Parse(f.Content)
	if err != nil {
		return []Remark{{File: f.Path, What: "syntax", Text: err.Error(), Do: "mend it: it would be refused"}}
	}
	var remarks []Remark
	for i, line := range strings.Split(string(f.Content), "\n") {
		m := assignment.FindStringSubmatch(line)
		at := Remark{File: f.Path, Line: i + 1}
		if m == nil {
			remarks = append(remarks, reviewShell(at, line)...)
			continue
		}
		at.What = m[1]
		remarks = append(remarks, reviewVariable(at, m[2], serverOnly(conf, i+1))...)
	}
	return remarks
}

// serverOnly tells whether a line belongs to a section that only LTSP's server reads.
func serverOnly(conf *ltspconf.File, line int) bool {
	i := conf.SectionAt(line)
	return i >= 0 && conf.Sections[i].Name == "server"
}

// ruleFor is what an admin who comes from LTSP must know of parameters.
type ruleFor struct {
	names    []string // ending with _ it is a family
	text, do string
}

var rules = []ruleFor{
	{[]string{"SERVER"}, "satellites boot the PCs, and SERVER means the login and home host alone; written here it wins over the site's login host",
		"take it out and say it once: ltspctl site set SITE --login-host ADDRESS, then ltspctl site pin SITE"},
	{[]string{"NFS_HOME", "NFS_TFTP"}, "satellites export nothing by NFS; homes stay with the login host, which must go on exporting them", ""},
	{[]string{"DNS", "PROXY_DHCP", "REAL_DHCP", "TFTP"}, "there is no dnsmasq: satellites answer DHCP, TFTP and HTTP as the subnet says", "ltspctl subnet set NAME --site SITE --mode ..."},
	{[]string{"RPI_IMAGE"}, "Raspberry Pis with their own boot files are not booted by satellites", ""},
	{[]string{"PASSWORDS_"}, "LTSP put these passwords into a file that anybody in the network could fetch; here only the agent of a booted client gets them",
		"take them as known to your pupils and set new ones"},
	{[]string{"PWMERGE_SUR", "PWMERGE_SGR"}, "the users come from the site's login host while clients run, not from the machine where this was written", ""},
}

func (r *ruleFor) fits(name string) bool {
	return slices.ContainsFunc(r.names, func(n string) bool { return n == name || strings.HasSuffix(n, "_") && strings.HasPrefix(name, n) })
}

// serverHook matches hooks of applets that run on LTSP's server only.
var serverHook = regexp.MustCompile(`^(PRE|POST)_(DNSMASQ|IMAGE|INFO|INITRD|IPXE|KERNEL|NFS)_`)

func reviewVariable(at Remark, value string, server bool) []Remark {
	var remarks []Remark
	add := func(text, do string) {
		r := at
		r.Text, r.Do = text, do
		remarks = append(remarks, r)
	}
	switch {
	case serverHook.MatchString(at.What) && !strings.Contains(at.What, "_INITRD_BOTTOM_"):
		add("a hook of LTSP's server: nothing runs it here", "do by other means what it did, and take it out")
	case server:
		add("it stands in [server], which no client reads; there is no LTSP server that would", "take it out, or move it to [clients] if clients shall have it")
	}
	for _, r := range rules {
		if r.fits(at.What) {
			add(r.text, r.do)
		}
	}
	return append(remarks, reviewShell(at, value)...)
}

// What a value or a line of shell may hold that means something else here.
var shellRules = []struct {
	pattern  *regexp.Regexp
	what     string
	text, do string
}{
	{regexp.MustCompile(`\bnfsroot=|\broot=/dev/nfs|\bltsp\.image=`), "", "the root file system comes from a satellite by NBD; how LTSP found it is ignored",
		"take nfsroot=, root= and ltsp.image= out of the kernel parameters; ltspctl client set --boot says what a client boots"},
	{regexp.MustCompile(`/srv/(ltsp|tftp)\b|\bexportfs\b|\bltsp (dnsmasq|image|initrd|ipxe|kernel|nfs)\b`), "",
		"it uses things of LTSP's server, which are neither on a client nor on a satellite", "look at what it is for"},
	{regexp.MustCompile(`root:[^:"' ]*\$[0-9a-z]+\$|\busermod\b.*\s-p\s|\bchpasswd\b`), "",
		"it sets a password: LTSP let anybody in the network read it (a hash can be tried out); here only clients get it", "set a new one"},
	{regexp.MustCompile(`192\.168\.67\.1\b`), "", "192.168.67.1 was LTSP's server; satellites and the login host may have other addresses", "write $SERVER or a name"},
}

func reviewShell(at Remark, text string) []Remark {
	if before, _, ok := strings.Cut(text, "#"); ok && strings.TrimSpace(before) == "" {
		return nil
	}
	var remarks []Remark
	for _, r := range shellRules {
		if found := r.pattern.FindString(text); found != "" {
			remark := at
			remark.Text, remark.Do = r.text, r.do
			remark.What = cmp.Or(at.What, strings.TrimSpace(found))
			remarks = append(remarks, remark)
		}
	}
	return remarks
}

// reviewFile looks at a file by its name.
func reviewFile(f policy.File) []Remark {
	remark := func(text, do string) []Remark { return []Remark{{File: f.Path, What: f.Path, Text: text, Do: do}} }
	switch {
	case f.Path == "passwd" || f.Path == "group":
		return remark("it takes the place of the login host's accounts: users who are added there do not come to clients", "take it out, unless your accounts come from LDAP")
	case f.Path == "ssh_known_hosts":
		return remark("it takes the place of the login host's pinned keys", "take it out and run ltspctl site pin SITE")
	case f.Path == "epoptes.crt":
		return remark("Epoptes is not part of the fleet; clients go on to the server whose certificate this is", "")
	case strings.HasPrefix(f.Path, "server/") && f.Kind == policy.Regular:
		return remark("a script of LTSP's server: nothing runs it here", "do by other means what it did, and take it out")
	case f.Kind == policy.Regular && strings.HasSuffix(f.Path, ".sh") && slices.Contains([]string{"client", "common"}, top(f.Path)):
		return reviewScript(f)
	case f.Kind == policy.Symlink && path.IsAbs(string(f.Content)):
		return remark(fmt.Sprintf("a link to %s: on a client that is the image's file, not the server's", f.Content), "put the file itself here if clients shall have this one")
	}
	return nil
}

func top(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

func reviewScript(f policy.File) []Remark {
	var remarks []Remark
	for i, line := range strings.Split(string(f.Content), "\n") {
		remarks = append(remarks, reviewShell(Remark{File: f.Path, Line: i + 1}, line)...)
	}
	return remarks
}
