// Package seat holds the steps of "init" for who sits at the PC: display managers with automatic login and the list of users, and several seats.
package seat

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/posixre"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/users"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accounts"
)

// DisplayManager returns the step 55-display-manager. A display manager that runs reads its configuration when the next session begins, or at the next boot.
func DisplayManager() step.Step {
	return step.Step{Name: "55-display-manager", Main: "display_manager_main", Functions: []step.Function{
		{Name: "configure_gdm", Needs: []string{"AUTOLOGIN", "GDM3_CONF", "HOSTNAME", step.InputFiles, step.InputUsers}, Live: true, Do: gdm},
		{Name: "configure_lightdm", Needs: []string{"AUTOLOGIN", "RELOGIN", "RELOGIN_TIMEOUT", "LIGHTDM_CONF", "HOSTNAME", step.InputFiles, step.InputUsers}, Live: true, Do: lightdm},
		{Name: "configure_sddm", Needs: []string{"AUTOLOGIN", "RELOGIN", "SDDM_CONF", "HOSTNAME", step.InputFiles, step.InputUsers}, Live: true, Do: sddm},
		{Name: "ltspdm", Needs: []string{"LTSPDM_USERS", "SLICK_CONF", step.InputUsers, step.InputFiles}, Live: true, Do: greeter},
	}}
}

// autologin is the user that AUTOLOGIN means on this PC: a name, or FROM/TO that sed makes of the host name. One that is not there is nobody.
func autologin(c *step.Context) (string, error) {
	setting := c.Values["AUTOLOGIN"]
	if setting == "" {
		return "", nil
	}
	user, err := posixre.Substitute(c.Values["HOSTNAME"], setting)
	if err != nil {
		user = setting
	}
	if strings.ContainsAny(user, ":\n") {
		return "", nil
	}
	passwd, err := c.Root.ReadFile("/etc/passwd")
	if err != nil {
		return "", err
	}
	if _, ok := accounts.ParsePasswd(passwd).Find(user); !ok {
		c.Remark("AUTOLOGIN %q means %q here, which is no user", setting, user)
		return "", nil
	}
	return user, nil
}

// more is what a *_CONF variable adds: the text of a file of that name, or the value itself.
func more(c *step.Context, variable string) (string, error) {
	value := c.Values[variable]
	if value == "" {
		return "", nil
	}
	if path.IsAbs(value) && c.Root.IsFile(value) {
		text, err := c.Root.ReadFile(value)
		return string(text), err
	}
	return strings.TrimRight(value, "\n") + "\n", nil
}

// section is what is written behind a display manager's own configuration, where later values win.
func section(c *step.Context, variable, text string) (string, error) {
	rest, err := more(c, variable)
	return "\n# Made by ltsp-agent; " + variable + " of ltsp.conf is added.\n" + text + rest, err
}

func gdm(c *step.Context) error {
	if !c.Root.HasCommand("gdm3") {
		return nil
	}
	user, err := autologin(c)
	if err != nil {
		return err
	}
	file := "/etc/gdm3/custom.conf"
	if c.Root.IsFile("/etc/gdm3/daemon.conf") {
		file = "/etc/gdm3/daemon.conf"
	}
	text, err := section(c, "GDM3_CONF", fmt.Sprintf("[daemon]\nAutomaticLoginEnable=%t\nAutomaticLogin=%s\n", user != "", user))
	if err != nil {
		return err
	}
	return c.Append(file, text)
}

func lightdm(c *step.Context) error {
	if !c.Root.HasCommand("lightdm") {
		return nil
	}
	user, err := autologin(c)
	if err != nil {
		return err
	}
	// With a timeout of 0 lightdm logs the user in again at once; with one of 2 s it does not hang at the second login.
	timeout := "2"
	if c.Values["RELOGIN"] == "0" {
		timeout = "0"
	}
	timeout = cmp.Or(c.Values["RELOGIN_TIMEOUT"], timeout)
	text, err := section(c, "LIGHTDM_CONF", "[Seat:*]\ngreeter-show-manual-login=true\ngreeter-hide-users=false\nautologin-user="+user+"\nautologin-user-timeout="+timeout+"\n")
	if err != nil {
		return err
	}
	return c.Append("/etc/lightdm/lightdm.conf", text)
}

func sddm(c *step.Context) error {
	if !c.Root.HasCommand("sddm") {
		return nil
	}
	user, err := autologin(c)
	if err != nil {
		return err
	}
	text, err := section(c, "SDDM_CONF", fmt.Sprintf("[Autologin]\nUser=%s\nSession=%s\nRelogin=%t\n", user, sddmSession(c), c.Values["RELOGIN"] != "0"))
	if err != nil {
		return err
	}
	return c.Append("/etc/sddm.conf", text)
}

// sddmSession names the session of an automatic login, without which sddm does none.
func sddmSession(c *step.Context) string {
	const dir = "/usr/share/xsessions/"
	if c.Root.IsFile(dir + "plasma.desktop") {
		return "plasma.desktop"
	}
	for _, p := range c.Root.Glob(dir + "*.desktop") {
		if c.Root.IsFile(p) {
			return path.Base(p)
		}
	}
	return ""
}

const (
	greeterGroup  = "ltspdm"
	accountsDir   = "/var/lib/AccountsService/users"
	slickConf     = "/etc/lightdm/slick-greeter.conf"
	greeterScript = "/usr/lib/lightdm/lightdm-greeter-session"
)

// greeter has greeters list the users of LTSPDM_USERS only: they are the members of a group, and those that AccountsService knows.
func greeter(c *step.Context) error {
	names, err := greeterUsers(c)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return undoGreeter(c)
	}
	if err := knownAccounts(c, names); err != nil {
		return err
	}
	if err := users.SetSystemGroup(c, greeterGroup, names); err != nil {
		return err
	}
	if c.Root.HasCommand("slick-greeter") {
		text, err := section(c, "SLICK_CONF", "[Greeter]\ngroup-filter="+greeterGroup+"\n")
		if err != nil {
			return err
		}
		if err := c.Append(slickConf, text); err != nil {
			return err
		}
	}
	if !c.Root.HasCommand("arctica-greeter") {
		return nil
	}
	// It has no configuration file.
	return c.Edit(greeterScript, func(old string) string {
		var b strings.Builder
		for line := range strings.Lines(old) {
			if strings.HasPrefix(line, "exec") {
				b.WriteString("dconf write /org/ArcticaProject/arctica-greeter/group-filter \"['" + greeterGroup + "']\"\n")
			}
			b.WriteString(line)
		}
		return b.String()
	})
}

// greeterUsers are the users that LTSPDM_USERS, an expression of awk's, means.
func greeterUsers(c *step.Context) ([]string, error) {
	setting := c.Values["LTSPDM_USERS"]
	if setting == "" {
		return nil, nil
	}
	expression, err := c.Expand(setting)
	if err != nil {
		return nil, fmt.Errorf("expand LTSPDM_USERS %q: %w", setting, err)
	}
	re, err := posixre.Extended("^" + expression + "$")
	if err != nil {
		return nil, fmt.Errorf("LTSPDM_USERS: %w", err)
	}
	passwd, err := c.Root.ReadFile("/etc/passwd")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, u := range accounts.ParsePasswd(passwd).Users {
		if re.MatchString(u.Name) {
			names = append(names, u.Name)
		}
	}
	if names == nil {
		c.Remark("LTSPDM_USERS: no user matches %q", expression)
	}
	return names, nil
}

func knownAccounts(c *step.Context, names []string) error {
	entries, err := c.Root.ReadDir(accountsDir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !slices.Contains(names, e.Name()) {
			if _, err := c.Hide(path.Join(accountsDir, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		p := path.Join(accountsDir, name)
		if c.Root.Exists(p) {
			continue
		}
		old, err := c.Original(p)
		if err != nil {
			return err
		}
		if err := c.Root.WriteFile(p, old); err != nil {
			return err
		}
	}
	return nil
}

// undoGreeter lets greeters list all users again.
func undoGreeter(c *step.Context) error {
	for _, p := range []string{slickConf, greeterScript} {
		if err := c.Restore(p); err != nil {
			return err
		}
	}
	return nil
}
