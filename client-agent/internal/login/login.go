// Package login is what PAM runs on a client (pam_exec(8)) when somebody logs in, unlocks the screen or logs out. Who may come in is decided by the login
// host; homes are package home's business, the spool tells the resident agent. What it prints is shown to who sits there.
package login

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/home"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Values of PAM_TYPE.
const (
	typeAuth    = "auth"
	typeAccount = "account"
	typeOpen    = "open_session"
	typeClose   = "close_session"
)

// request is what PAM asks.
type request struct {
	kind    string // PAM_TYPE
	user    string // PAM_USER, whatever somebody typed
	service string // PAM_SERVICE
	root    bool
	uid     int // who we run as
	caller  int // process that uses PAM
}

// Main is the agent as PAM's program. args are the words behind "pam": "auth", "session", or "release USER" for the process that outlives a session.
// It returns the exit code: 0 lets PAM go on.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) int {
	keepSecrets()
	if len(args) == 2 && args[0] == "release" && os.Geteuid() == 0 {
		return release(ctx, args[1])
	}
	if len(args) != 1 || args[0] != "auth" && args[0] != "session" {
		return 2
	}
	r := request{kind: os.Getenv("PAM_TYPE"), user: os.Getenv("PAM_USER"), service: os.Getenv("PAM_SERVICE"), root: os.Geteuid() == 0, uid: os.Geteuid(), caller: os.Getppid()}
	h := &handler{request: r, stdin: stdin, say: func(text string) { fmt.Fprintln(stdout, text) }}
	if h.handle(ctx) {
		return 0
	}
	return 1
}

// keepSecrets sees to it that no password reaches a core dump, or a process of the same user.
func keepSecrets() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Umask(0o022)
}

func release(ctx context.Context, user string) int {
	a, err := account.System.Lookup(ctx, user)
	if err == nil {
		err = home.Wait(ctx, a)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "ltsp-agent: %v\n", err)
		return 1
	}
	return 0
}

// handler answers one request.
type handler struct {
	request
	stdin    io.Reader
	say      func(text string)
	settings loginconf.Settings
	account  account.Account
}

// handle tells whether PAM shall go on.
func (h *handler) handle(ctx context.Context) bool {
	if h.kind == typeAccount {
		return true // shadow's dates are pam_unix's business
	}
	if err := account.CheckName(h.user); err != nil {
		return false // without a word: it may be a password in the wrong field
	}
	if !h.root {
		return h.kind == typeAuth && h.unlock(ctx)
	}
	var err error
	if h.settings, err = loginconf.LoadRoot(); err != nil {
		h.say("Login: " + err.Error())
		return false
	}
	if h.account, err = account.System.Lookup(ctx, h.user); err != nil {
		return false
	}
	switch h.kind {
	case typeAuth:
		return h.auth(ctx)
	case typeOpen:
		h.noteSession()
		return h.open(ctx)
	case typeClose:
		spool.System.EndSession(h.caller)
		return h.close(ctx)
	}
	return false
}

// secret returns what is known of the user's password.
func (h *handler) secret() (account.Secret, error) {
	if !h.account.Local {
		return account.Secret{Remote: true}, nil // nobody shall ask LDAP for hashes
	}
	return account.System.Secret(h.user)
}

// auth answers for a typed password.
func (h *handler) auth(ctx context.Context) bool {
	secret, err := h.secret()
	if err != nil {
		h.say("Login: " + err.Error())
	}
	step := decide(h.settings.AuthType, h.account, secret, err)
	if step == accept {
		return true
	}
	if step == refuse {
		return false
	}
	if step == letIn {
		h.remember(nil)
		return h.makeHome()
	}
	password, err := h.password(secret)
	if err != nil {
		return false
	}
	defer clear(password)
	return h.ask(ctx, step, secret, password)
}

// step is what an auth request comes to.
type step int

const (
	refuse    step = iota
	accept         // it is none of our business
	letIn          // without a question
	askHost        // by sshfs if the home wants it, else by ssh
	mountOnly      // somebody else has checked the password
)

// decide chooses. err is why the secret is not known.
func decide(authType string, a account.Account, secret account.Secret, err error) step {
	additional := authType == loginconf.Additional
	switch {
	case additional && err == nil && (!a.Local || secret.Remote && !secret.Free):
		return mountOnly
	case additional:
		return accept
	case err != nil || !a.Local || !secret.Remote || a.UID == 0:
		return refuse // the login host has no say over root
	case secret.Free:
		return letIn
	}
	return askHost
}

// password returns the stored password, else what was typed.
func (h *handler) password(secret account.Secret) ([]byte, error) {
	if secret.Password != nil {
		return secret.Password, nil
	}
	text, err := io.ReadAll(io.LimitReader(h.stdin, maxPassword+1))
	if err != nil {
		return nil, fmt.Errorf("read the password: %w", err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	if len(text) == 0 || len(text) > maxPassword {
		return nil, fmt.Errorf("a password of %d bytes", len(text))
	}
	return text, nil
}

// maxPassword is PAM_MAX_RESP_SIZE, in bytes.
const maxPassword = 512

// ask has the login host judge.
func (h *handler) ask(ctx context.Context, step step, secret account.Secret, password []byte) bool {
	// The slow part of what a screen lock will need runs while the login host thinks.
	entry := make(chan *unlockEntry, 1)
	if step == askHost {
		var typed []byte
		if secret.Password == nil {
			typed = bytes.Clone(password)
		}
		go func() { entry <- newUnlockEntry(h.settings, typed) }()
	}
	answer, asked := h.contact(ctx, step, password)
	if !asked {
		return true
	}
	h.report(answer)
	if answer.Outcome != loginhost.Accepted {
		home.Unmark(h.account)
		if step == mountOnly && answer.Outcome == loginhost.Refused {
			h.say("Your home folder could not be mounted: the login host does not take your password.")
		}
		return false
	}
	if step == mountOnly {
		return true
	}
	h.rememberEntry(<-entry)
	return true
}

// contact mounts the home if it wants to be, else asks by ssh. asked is false if there was nothing to do.
func (h *handler) contact(ctx context.Context, step step, password []byte) (answer loginhost.Answer, asked bool) {
	unlock, err := home.Lock(ctx, h.account)
	if err != nil {
		return loginhost.Answer{Outcome: loginhost.Broken, Text: err.Error()}, true
	}
	wants, err := home.Wants(h.settings, h.account)
	if err != nil {
		unlock()
		return loginhost.Answer{Outcome: loginhost.Broken, Text: err.Error()}, true
	}
	if wants {
		defer unlock()
		return h.mount(ctx, password), true
	}
	unlock()
	if step == mountOnly {
		return answer, false
	}
	answer = h.host().Check(ctx, h.user, password)
	if answer.Outcome == loginhost.Accepted {
		h.makeHome()
	}
	return answer, true
}

// mount mounts the home, and sees to its end for the case that no session follows.
func (h *handler) mount(ctx context.Context, password []byte) loginhost.Answer {
	answer := home.Mount(ctx, h.host(), h.settings, h.account, password)
	if answer.Outcome == loginhost.Accepted {
		h.close(ctx)
	}
	return answer
}

func (h *handler) host() loginhost.Host {
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe"
	}
	return loginhost.Host{Server: h.settings.SSHServer, Options: h.settings.SSHOptions, Askpass: self}
}

// makeHome makes a home that is missing and that nothing else brings. A login goes on without one.
func (h *handler) makeHome() bool {
	if h.settings.MkHomeDir {
		if err := home.Make(h.account); err != nil {
			h.say("Your home folder could not be made: " + err.Error())
		}
	}
	return true
}

// report tells the user and the admin of an answer that is not a yes. Of a wrong password the programs that ask for it tell themselves.
func (h *handler) report(answer loginhost.Answer) {
	text, kind := words(h.settings.SSHServer, answer)
	if text != "" {
		h.say(text)
	}
	if kind != "" {
		_ = spool.System.AddEvent(spool.Event(kind, h.user+" could not log in: login host "+h.settings.SSHServer+": "+answer.Text)) // the user knows
	}
}

// words says what to tell the user, and what kind of event it is for the admin; empty for nothing.
func words(server string, answer loginhost.Answer) (text, kind string) {
	switch answer.Outcome {
	case loginhost.HostKey:
		return fmt.Sprintf("The login host %s is not the one this computer knows (%s). Nobody can log in until the administrator has looked into it.", server, answer.Text),
			agentproto.EventHostKey
	case loginhost.Away:
		return fmt.Sprintf("The login host %s does not answer. Please tell the administrator, and try again later.", server), agentproto.EventLoginHost
	case loginhost.Broken:
		return fmt.Sprintf("The login host %s could not check your password: %s", server, spool.Clean(answer.Text, maxTold)), agentproto.EventLoginHost
	}
	return "", ""
}

// maxTold bounds what a user is told of an error, in bytes.
const maxTold = 200

// open answers for a session that begins: of somebody whose password was asked for, or was not (automatic login, su by root).
func (h *handler) open(ctx context.Context) bool {
	secret, err := h.secret()
	if err != nil || !h.account.Local || !secret.Remote || h.account.UID == 0 {
		return true
	}
	if secret.Free {
		h.remember(nil)
		return h.makeHome()
	}
	if secret.Password == nil {
		return true // the home came with the password, or not at all
	}
	answer := loginhost.Answer{Outcome: loginhost.Accepted}
	if unlock, err := home.Lock(ctx, h.account); err == nil {
		defer unlock()
		if wants, err := home.Wants(h.settings, h.account); err == nil && wants {
			answer = h.mount(ctx, secret.Password)
		} else if err == nil {
			h.makeHome()
		}
	}
	if answer.Outcome == loginhost.Refused {
		h.say("The stored password of " + h.user + " is not valid on the login host; the home folder could not be mounted.")
	}
	h.report(answer)
	if answer.Outcome == loginhost.Accepted {
		h.remember(nil)
	}
	return answer.Outcome == loginhost.Accepted
}

// close has the home unmounted once no process of the user is left.
func (h *handler) close(ctx context.Context) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	return home.Release(ctx, h.account, self, "pam", "release") == nil
}

// quietServices open sessions that are nobody's presence.
var quietServices = []string{"su", "su-l", "sudo", "sudo-i", "runuser", "runuser-l", "cron", "atd", "systemd-user", "polkit-1", "gdm-launch-environment", "lightdm-greeter", "sddm-greeter"}

// noteSession tells the resident agent of who has come. Greeters are users with small numbers.
func (h *handler) noteSession() {
	if uid := h.account.UID; slices.Contains(quietServices, h.service) || uid != 0 && uid < firstUser || uid == nobody {
		return
	}
	_, _ = spool.System.AddSession(agentproto.Session{Kind: spool.KindLogin, User: h.user, Since: time.Now()}, h.caller) // no login fails for a report
}

const (
	firstUser = 1000
	nobody    = 65534
)
