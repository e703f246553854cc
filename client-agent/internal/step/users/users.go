// Package users is the step 54-pam: the accounts of the login host join the image's, and the login modules are put in place.
package users

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/posixre"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accounts"
)

// Step returns the step.
func Step() step.Step {
	return step.Step{Name: "54-pam", Main: "pam_main", Functions: []step.Function{
		{Name: "merge_accounts", Live: true, Do: merge, Needs: []string{
			"PAM_AUTH_TYPE", "PWMERGE_SUR", "PWMERGE_SGR", "PWMERGE_DUR", "PWMERGE_DGR", "PASSWORDS_*", step.InputUsers,
		}},
		{Name: "install_pam", Live: true, Do: install, Needs: []string{"PAM_AUTH_TYPE", "SSH_SERVER", "SSH_OPTIONS", "SSHFS", "MKHOMEDIR"}},
	}}
}

// off tells whether the administrator wants accounts and logins left alone.
func off(c *step.Context) bool { return c.Values["PAM_AUTH_TYPE"] == "0" }

const note = "imported users"

func merge(c *step.Context) error {
	if c.Users == nil || off(c) {
		return nil
	}
	rules, err := rules(c)
	if err != nil {
		return err
	}
	source := accounts.Files{Passwd: []byte(c.Users.Passwd), Group: []byte(c.Users.Group)}
	return Update(c, func(now accounts.Files) (accounts.Files, error) {
		dest, shadows := now, rules.KeepsLocal()
		if c.Live {
			image, err := originals(c)
			if err != nil {
				return now, err
			}
			dest, shadows = accounts.Base(image, now, c.Memory.Notes[note]), true
		}
		merged := accounts.Merge(source, dest, shadows, rules)
		c.Memory.Notes[note] = merged.Imported
		for _, reason := range merged.Reasons {
			c.Remark("%s", reason)
		}
		return passwords(c, merged.Files), nil
	})
}

func rules(c *step.Context) (accounts.Rules, error) {
	defs, err := c.Root.ReadFile("/etc/login.defs")
	if err != nil {
		defs = nil // an image without has the defaults
	}
	var texts [4]string
	for i, name := range []string{"PWMERGE_SUR", "PWMERGE_SGR", "PWMERGE_DUR", "PWMERGE_DGR"} {
		if texts[i], err = c.Expand(c.Values[name]); err != nil {
			return accounts.Rules{}, fmt.Errorf("expand %s: %w", name, err)
		}
	}
	return accounts.NewRules(texts[0], texts[1], texts[2], texts[3], accounts.ParseLoginDefs(defs))
}

// passwords stores those of PASSWORDS_x, whose expressions are sed's.
func passwords(c *step.Context, f accounts.Files) accounts.Files {
	var words []string
	for _, value := range c.Values.Family("PASSWORDS_") {
		words = append(words, strings.Fields(value)...)
	}
	if len(words) == 0 {
		return f
	}
	var reasons []string
	f.Shadow, reasons = accounts.SetPasswords(f.Shadow, words, func(expression string) (func(string) bool, error) {
		re, err := posixre.Basic(`^\(` + expression + `\)$`)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	})
	for _, reason := range reasons {
		c.Remark("%s", reason)
	}
	return f
}

func install(c *step.Context) error {
	if c.PAM == nil {
		return nil
	}
	return c.PAM.Install(c.Ctx, c.Root, step.PAMSettings{
		AuthType: c.Values["PAM_AUTH_TYPE"], SSHServer: c.Values["SSH_SERVER"], SSHOptions: c.Values["SSH_OPTIONS"],
		SSHFS: c.Values["SSHFS"], MkHomeDir: c.Values["MKHOMEDIR"],
	})
}

// Places of the four files.
const (
	passwdFile  = "/etc/passwd"
	groupFile   = "/etc/group"
	shadowFile  = "/etc/shadow"
	gshadowFile = "/etc/gshadow"
)

func read(get func(string) (string, error)) (accounts.Files, error) {
	var f accounts.Files
	for _, e := range []struct {
		path string
		to   *[]byte
	}{{passwdFile, &f.Passwd}, {groupFile, &f.Group}, {shadowFile, &f.Shadow}, {gshadowFile, &f.GroupShadow}} {
		text, err := get(e.path)
		if err != nil {
			return f, fmt.Errorf("read %s: %w", e.path, err)
		}
		*e.to = []byte(text)
	}
	return f, nil
}

// originals are the image's files as no step has changed them.
func originals(c *step.Context) (accounts.Files, error) { return read(c.Original) }

// Update changes the accounts: under the locks of those who change them too, and each file at once. What is not changed is not written.
func Update(c *step.Context, change func(accounts.Files) (accounts.Files, error)) error {
	unlock, err := lock(c)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := read(func(p string) (string, error) {
		text, err := c.Root.ReadFile(p)
		if err != nil && c.Root.Exists(p) {
			return "", err
		}
		return string(text), nil
	})
	if err != nil {
		return err
	}
	then, err := change(now)
	if err != nil {
		return err
	}
	// Groups first: who looks in between sees a user with all groups or no user. Shadow before passwd: nobody without a password.
	for _, f := range []struct {
		path      string
		old, text []byte
		mode      uint32
	}{
		{groupFile, now.Group, then.Group, 0o644}, {gshadowFile, now.GroupShadow, then.GroupShadow, 0o640},
		{shadowFile, now.Shadow, then.Shadow, 0o640}, {passwdFile, now.Passwd, then.Passwd, 0o644},
	} {
		if slices.Equal(f.old, f.text) {
			continue
		}
		if err := c.Replace(f.path, string(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// SetSystemGroup makes a group of the system that has just these members.
func SetSystemGroup(c *step.Context, name string, members []string) error {
	return Update(c, func(f accounts.Files) (accounts.Files, error) {
		defs, err := c.Root.ReadFile("/etc/login.defs")
		if err != nil {
			defs = nil
		}
		return accounts.SetSystemGroup(f, name, members, accounts.ParseLoginDefs(defs))
	})
}

// lockFile is that of a file for tools of shadow-utils.
func lockFile(p string) string { return path.Join(path.Dir(p), path.Base(p)+".lock") }
