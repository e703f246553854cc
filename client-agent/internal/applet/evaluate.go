package applet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/shell"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// confScript is the name of the script with the whole configuration.
const confScript = "ltsp.conf"

// evaluate runs the configuration of all layers in the shell and returns the variables.
func (r *runner) evaluate(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	files, names, err := parse(r.cfg.Layers, r.cfg.Name)
	if err != nil {
		return nil, err
	}
	if err := r.shell.Set(ctx, predefined(r.cfg.Name, r.cfg.Facts)); err != nil {
		return nil, err
	}
	program := ltspconf.NewProgram(files, ltspconf.Subject{
		MAC: r.cfg.Facts.MAC.String(), IP: address(r.cfg.Facts.Addr), Hostname: r.cfg.Facts.Hostname, Applet: r.cfg.Name,
	})
	// Some shells go on behind an error of syntax. Who has come to the end says so.
	const end = "evaluated"
	said, err := r.shell.Eval(ctx, confScript, string(program.Text)+"_ltsp_status=$?\nprintf "+end+" >&9\nreturn $_ltsp_status\n")
	var exit *shell.ExitError
	switch {
	case errors.As(err, &exit) && said == end:
		r.remark("the last command of ltsp.conf failed: %s", where(exit.Error(), program, names))
	case err != nil:
		return nil, errors.New(r.blame(ctx, files, names) + where(err.Error(), program, names))
	}
	if r.cfg.Name == InitrdBottom {
		// LTSP reads the kernel's command line in this applet only.
		if err := r.shell.Run(ctx, "kernel", string(ltspconf.KernelScript(r.cfg.Facts.CommandLine))); err != nil {
			return nil, err
		}
	}
	return r.shell.Variables(ctx)
}

// blame finds the file that does not parse, whose error the shell may tell for the end of all of them. It returns "" if each one parses.
func (r *runner) blame(ctx context.Context, files [][]*ltspconf.File, names [][]string) string {
	sh, err := r.startShell(ctx)
	if err != nil {
		return ""
	}
	defer sh.Close()
	const script = "check.sh"
	for i, layer := range files {
		for j, f := range layer {
			place := path.Join(StateDir, script)
			if err := r.root.WriteFileMode(place, string(f.Translate(0)), 0o600); err != nil {
				return ""
			}
			var exit *shell.ExitError
			if err := sh.Run(ctx, "check", "/bin/sh -n "+shell.Quote(r.seen(place))+"\n"); errors.As(err, &exit) {
				return names[i][j] + ": "
			}
		}
	}
	return ""
}

// parse reads the layers' configurations; names says what each is called, by layer and file.
func parse(layers []Layer, applet string) (files [][]*ltspconf.File, names [][]string, err error) {
	for _, l := range layers {
		var parsed []*ltspconf.File
		var named []string
		for _, name := range []string{policy.ConfName, "ltsp-" + applet + ".conf"} {
			entry, ok := l.Tree.Find(name)
			if !ok || entry.Kind != policy.Regular {
				continue
			}
			f, err := ltspconf.Parse(entry.Content)
			if err != nil {
				return nil, nil, fmt.Errorf("%s of %s: %w", name, l.Scope, err)
			}
			parsed, named = append(parsed, f), append(named, name+" of "+l.Scope)
		}
		files, names = append(files, parsed), append(names, named)
	}
	return files, names, nil
}

// scriptLine finds the line of the script in what shells say: "FILE: 12: Syntax error", "FILE: line 12: syntax error", "ltsp: 12: FILE: Syntax error".
var scriptLine = regexp.MustCompile(`\S*/` + regexp.QuoteMeta(confScript) + `\.sh: (?:line )?(\d+)|ltsp: (\d+): \S*/` + regexp.QuoteMeta(confScript) + `\.sh`)

// where names the configuration and its line in place of the script's.
func where(text string, program *ltspconf.Program, names [][]string) string {
	return scriptLine.ReplaceAllStringFunc(text, func(found string) string {
		m := scriptLine.FindStringSubmatch(found)
		n, err := strconv.Atoi(m[1] + m[2])
		if err != nil {
			return found
		}
		layer, file, line, ok := program.Locate(n)
		if !ok {
			return found
		}
		return fmt.Sprintf("%s: line %d", names[layer][file], line)
	})
}

func address(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.Addr().String()
}

// anyGateway is what LTSP's GATEWAY is where no router leads to it: the address that it looks for.
const anyGateway = "192.168.67.1"

// predefined are the variables that a configuration and its hooks may read.
func predefined(applet string, f step.Facts) map[string]string {
	v := map[string]string{
		"_APPLET": applet, "_APPLET_DIR": "/usr/share/ltsp/client/" + applet,
		"DEVICE": f.Device, "IP_ADDRESS": address(f.Addr), "MAC_ADDRESS": f.MAC.String(), "HOSTNAME": f.Hostname, "SERVER": f.Server,
		"GATEWAY": anyGateway, "rootmnt": "/",
		"IPCONFIG_DEVICE": f.Device, "IPCONFIG_PROTO": "dhcp", "IPCONFIG_IPV4ADDR": address(f.Addr), "IPCONFIG_HOSTNAME": f.Hostname,
		"IPCONFIG_DNSDOMAIN": f.Domain, "IPCONFIG_ROOTSERVER": f.RootServer, "IPCONFIG_DHCPSERVER": f.DHCPServer, "IPCONFIG_IPV4GATEWAY": "0.0.0.0",
		"IPCONFIG_IPV4DNS0": "0.0.0.0", "IPCONFIG_IPV4DNS1": "0.0.0.0",
	}
	if f.ServerPort != 0 { // a configuration that has options of its own says this too, or another host's
		v["SSH_OPTIONS"] = "-p " + strconv.Itoa(int(f.ServerPort))
	}
	if f.Gateway.IsValid() {
		v["GATEWAY"], v["IPCONFIG_IPV4GATEWAY"] = f.Gateway.String(), f.Gateway.String()
	}
	if f.Addr.IsValid() && f.Addr.Addr().Is4() {
		mask, broadcast := masks(f.Addr)
		v["IPCONFIG_IPV4NETMASK"], v["IPCONFIG_IPV4BROADCAST"] = mask.String(), broadcast.String()
	}
	for i, a := range f.DNS[:min(2, len(f.DNS))] {
		v["IPCONFIG_IPV4DNS"+strconv.Itoa(i)] = a.String()
	}
	if f.Lease > 0 {
		v["IPCONFIG_DHCPLEASETIME"] = strconv.Itoa(int(f.Lease.Seconds()))
	}
	return v
}

func masks(p netip.Prefix) (mask, broadcast netip.Addr) {
	a := p.Addr().As4()
	var m, b [4]byte
	for i := range 4 {
		m[i] = byte(0xff << max(0, min(8, 8*(i+1)-p.Bits())))
		b[i] = a[i] | ^m[i]
	}
	return netip.AddrFrom4(m), netip.AddrFrom4(b)
}

// digestInputs tells by digests what the configuration's variables do not show.
func digestInputs(cfg Config) map[string]string {
	var trees []policy.Tree
	for _, l := range cfg.Layers {
		trees = append(trees, l.Tree)
	}
	scripts, files := sha256.New(), sha256.New()
	for _, f := range policy.Merge(trees...) {
		to := files
		if strings.HasPrefix(f.Path, "client/") {
			if !strings.HasPrefix(f.Path, "client/"+cfg.Name+"/") {
				continue
			}
			to = scripts
		}
		addFile(to, f)
	}
	return map[string]string{
		step.InputScripts: sum(scripts), step.InputFiles: sum(files), step.InputUsers: digestUsers(cfg.Users),
	}
}

func addFile(h hash.Hash, f policy.File) {
	fmt.Fprintf(h, "%q %c %o %d\n", f.Path, f.Kind, f.Mode, len(f.Content))
	h.Write(f.Content)
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// digestUsers is empty if no accounts are known.
func digestUsers(u *agentproto.Users) string {
	if u == nil {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s%s", len(u.Passwd), u.Passwd, u.Group)
	return sum(h)
}
