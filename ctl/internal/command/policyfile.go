package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltsplint"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// evalFlags say for whom files are evaluated.
type evalFlags struct {
	mac, ip, hostname, applet, kernel string
	server, lost                      bool
	set                               []string
}

// policyEvalFile is "policy eval": it needs no controller.
func policyEvalFile(a *app) *cobra.Command {
	var f evalFlags
	c := &cobra.Command{
		Use:   "eval FILE...",
		Short: "Show what ltsp.conf files mean for one client, without a controller",
		Long: "Evaluates ltsp.conf by LTSP's rules and shows each value with the line that gave it. Nothing is run: what hangs on a program or a file of the client is marked\n" +
			"with ~. FILE may be a directory such as /etc/ltsp; several are layers, the organisation's first.",
		Example: "  ltspctl policy eval /etc/ltsp --mac 52:54:00:12:34:56 --ip 10.0.0.21/24 --hostname pc01\n" +
			"  ltspctl policy eval ltsp.conf --mac 52:54:00:12:34:56 --applet initrd-bottom -o json",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.evalFiles(cmd.Context(), args, f) },
	}
	flags := c.Flags()
	flags.StringVar(&f.mac, "mac", "", "MAC address of the client")
	flags.StringVar(&f.ip, "ip", "", "IP address of the client, with /BITS to expand %{IP}")
	flags.StringVar(&f.hostname, "hostname", "", "host name that the client got from DHCP")
	flags.StringVar(&f.applet, "applet", "init", "applet of LTSP that evaluates: init, initrd-bottom, ...")
	flags.StringVar(&f.kernel, "kernel", "", "kernel command line; its ltsp.NAME=VALUE count for initrd-bottom")
	flags.BoolVar(&f.server, "server", false, "evaluate as LTSP's server: [server] in place of [clients]")
	flags.BoolVar(&f.lost, "lost", false, "show the lines that lost as well")
	flags.StringArrayVar(&f.set, "set", nil, "NAME=VALUE that is set before, such as SERVER=10.0.0.1 (repeatable)")
	return c
}

// policyLintFile is "policy lint": it needs no controller.
func policyLintFile(a *app) *cobra.Command {
	var rules bool
	c := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Find traps in ltsp.conf files, without a controller",
		Long: "Names the lines that do silently something else than they seem to, and what to write instead. FILE may be a directory such as /etc/ltsp; several are layers,\n" +
			"the organisation's first. It ends with code 7 if any finding is an error.",
		Example: "  ltspctl policy lint /etc/ltsp",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !rules {
				return errors.New("name at least one file")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if rules {
				return a.listRules()
			}
			return a.lintFiles(args)
		},
	}
	c.Flags().BoolVar(&rules, "rules", false, "list the rules")
	return c
}

// readLayers reads each argument as a layer. Of a directory that is ltsp.conf and the ltsp-APPLET.conf that wanted accepts.
func readLayers(args []string, wanted func(name string) bool) ([]ltspeval.Source, error) {
	var sources []ltspeval.Source
	for i, arg := range args {
		names, err := confFiles(arg, wanted)
		if err != nil {
			return nil, err
		}
		if slices.Contains(args[:i], arg) {
			return nil, usagef("%q is named twice", arg)
		}
		for _, name := range names {
			text, err := readConf(name)
			if err != nil {
				return nil, err
			}
			sources = append(sources, ltspeval.Source{Scope: filepath.Dir(name), File: filepath.Base(name), Text: text})
		}
	}
	return sources, nil
}

func confFiles(arg string, wanted func(name string) bool) ([]string, error) {
	info, err := os.Stat(arg)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{arg}, nil
	}
	entries, err := os.ReadDir(arg)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if policy.IsConf(e.Name()) && (e.Name() == policy.ConfName || wanted(e.Name())) {
			names = append(names, filepath.Join(arg, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("look for %s in %q: %w", policy.ConfName, arg, fs.ErrNotExist)
	}
	// ltsp.conf is evaluated before the others.
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(confOrder(a), confOrder(b))
	})
	return names, nil
}

func confOrder(name string) int {
	if filepath.Base(name) == policy.ConfName {
		return 0
	}
	return 1
}

func readConf(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, policy.MaxConfBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	if len(text) > policy.MaxConfBytes {
		return nil, invalidError{fmt.Errorf("%q has more than %d bytes", name, policy.MaxConfBytes)}
	}
	return text, nil
}

func (f evalFlags) query() (ltspeval.Query, netip.Prefix, error) {
	q := ltspeval.Query{
		Subject: ltspconf.Subject{Hostname: f.hostname, Applet: f.applet, Server: f.server},
		Vars:    make(map[string]string), Kernel: f.kernel,
	}
	if f.mac != "" {
		mac, err := hw.ParseMAC(f.mac)
		if err != nil {
			return q, netip.Prefix{}, usagef("--mac: %v", err)
		}
		q.Subject.MAC = mac.String()
	}
	var net netip.Prefix
	if f.ip != "" {
		var err error
		if net, err = parseAddress(f.ip); err != nil {
			return q, net, usagef("--ip: %v", err)
		}
		q.Subject.IP = net.Addr().String()
	}
	for _, s := range f.set {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return q, net, usagef("--set %q: want NAME=VALUE", s)
		}
		q.Vars[name] = value
	}
	return q, net, nil
}

// parseAddress reads an address, or one with the length of its network. Without that the prefix has no bits.
func parseAddress(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	addr, err := netip.ParseAddr(s)
	return netip.PrefixFrom(addr, -1), err
}

func (a *app) evalFiles(ctx context.Context, args []string, f evalFlags) error {
	q, net, err := f.query()
	if err != nil {
		return err
	}
	sources, err := readLayers(args, func(name string) bool { return name == "ltsp-"+f.applet+".conf" })
	if err != nil {
		return err
	}
	program, err := ltspeval.Compile(sources)
	if err != nil {
		return invalidError{err}
	}
	res, err := program.Evaluate(ctx, q)
	if err != nil {
		if _, ours := errors.AsType[*ltspeval.Error](err); ours {
			return invalidError{err}
		}
		return err
	}
	view := viewEvaluation(res)
	view.expand(ctx, q.Subject, net)
	if a.output == string(printer.Table) {
		for _, r := range res.Remarks {
			fmt.Fprintln(a.stderr, r)
		}
	}
	return a.print(view.view(f.lost))
}

type assignmentView struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Section string `json:"section"`
	Value   string `json:"value"`
}

type valueView struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Expanded is the value after LTSP's late expansion of %.
	Expanded string `json:"expanded,omitempty"`
	Inexact  bool   `json:"inexact,omitempty"`
	// Assignments has the one that counts first.
	Assignments []assignmentView `json:"assignments"`
}

type evaluationView struct {
	Values   []valueView `json:"values"`
	Sections []string    `json:"sections"`
	Remarks  []string    `json:"remarks"`
}

func viewEvaluation(res *ltspeval.Result) *evaluationView {
	e := &evaluationView{Values: []valueView{}, Sections: append([]string{}, res.Sections...), Remarks: append([]string{}, res.Remarks...)}
	for _, v := range res.Values {
		view := valueView{Name: v.Name, Value: v.Value, Inexact: v.Inexact}
		for _, as := range v.Assignments {
			view.Assignments = append(view.Assignments, assignmentView{File: filepath.Join(as.Scope, as.File), Line: as.Line, Section: as.Section, Value: as.Value})
		}
		e.Values = append(e.Values, view)
	}
	return e
}

// expand does the late expansion, with HOSTNAME first, because the others may use it.
func (e *evaluationView) expand(ctx context.Context, s ltspconf.Subject, net netip.Prefix) {
	vars := map[string]string{"MAC": strings.ReplaceAll(s.MAC, ":", ""), "HOSTNAME": s.Hostname, "MAC_ADDRESS": s.MAC, "IP_ADDRESS": s.IP}
	if net.Bits() >= 0 {
		vars["IP"] = hostNumber(net)
	}
	for _, v := range e.Values {
		if !expandsLate(v.Name) {
			vars[v.Name] = v.Value
		}
	}
	late := func(v *valueView) {
		if strings.Contains(v.Value, "%{IP}") && vars["IP"] == "" {
			return
		}
		if text, inexact, err := ltspeval.Expand(ctx, v.Value, vars); err == nil && !inexact && text != v.Value {
			v.Expanded = text
		}
		if v.Name == "HOSTNAME" {
			vars["HOSTNAME"] = cmp.Or(v.Expanded, v.Value)
		}
	}
	for _, first := range []bool{true, false} {
		for i := range e.Values {
			if v := &e.Values[i]; expandsLate(v.Name) && (v.Name == "HOSTNAME") == first {
				late(v)
			}
		}
	}
}

func expandsLate(name string) bool {
	return name == "HOSTNAME" || name == "LTSPDM_USERS" || strings.HasPrefix(name, "PWMERGE_")
}

// hostNumber is LTSP's %{IP}: the bits of an address behind its network's, as one number.
func hostNumber(p netip.Prefix) string {
	if !p.Addr().Is4() {
		return ""
	}
	b := p.Addr().As4()
	n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	return strconv.FormatUint(n&(1<<(32-p.Bits())-1), 10)
}

func (e *evaluationView) view(lost bool) printer.View {
	v := printer.View{Value: e, Columns: []string{"NAME", "VALUE", "SET IN", "SECTION"}}
	for _, x := range e.Values {
		value := oneLine(x.Value)
		if x.Expanded != "" {
			value += "  (" + oneLine(x.Expanded) + ")"
		}
		if x.Inexact {
			value = "~" + value
		}
		for i, as := range x.Assignments {
			place := as.File + ":" + strconv.Itoa(as.Line)
			switch {
			case i == 0:
				v.Rows = append(v.Rows, []string{x.Name, value, place, "[" + as.Section + "]"})
			case lost:
				v.Rows = append(v.Rows, []string{"  lost", oneLine(as.Value), place, "[" + as.Section + "]"})
			}
		}
	}
	return v
}

// oneLine shows a value in a table.
func oneLine(s string) string {
	const longest = 100
	s = strings.NewReplacer("\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s)
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
	if r := []rune(s); len(r) > longest {
		return string(r[:longest]) + "..."
	}
	return s
}

type findingView struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Severity string `json:"severity"`
	Rule     string `json:"rule"`
	Text     string `json:"text"`
	Remedy   string `json:"remedy"`
}

func (a *app) lintFiles(args []string) error {
	sources, err := readLayers(args, func(string) bool { return true })
	if err != nil {
		return err
	}
	views := []findingView{}
	v := printer.View{Columns: []string{"PLACE", "SEVERITY", "RULE", "FINDING", "REMEDY"}}
	wrong := 0
	for _, f := range ltsplint.Lint(sources) {
		x := findingView{File: filepath.Join(f.Scope, f.File), Line: f.Line, Severity: f.Severity, Rule: f.Rule, Text: f.Text, Remedy: f.Remedy}
		views = append(views, x)
		v.Rows = append(v.Rows, []string{x.File + ":" + strconv.Itoa(x.Line), x.Severity, x.Rule, oneLine(x.Text), oneLine(x.Remedy)})
		if f.Severity == ltsplint.Error {
			wrong++
		}
	}
	v.Value = views
	if len(views) == 0 {
		a.say("nothing found")
	}
	if err := a.print(v); err != nil {
		return err
	}
	if wrong > 0 {
		return invalidError{fmt.Errorf("%d of %d findings are errors", wrong, len(views))}
	}
	return nil
}

func (a *app) listRules() error {
	type ruleView struct {
		Name    string `json:"name"`
		Summary string `json:"summary"`
	}
	var views []ruleView
	v := printer.View{Columns: []string{"RULE", "FINDS"}}
	for _, r := range ltsplint.Rules() {
		views = append(views, ruleView(r))
		v.Rows = append(v.Rows, []string{r.Name, r.Summary})
	}
	v.Value = views
	return a.print(v)
}
