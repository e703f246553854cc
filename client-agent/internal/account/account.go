// Package account tells who a user is for the programs that run at a login. Names come from outside (what somebody typed at a login prompt), so they are
// checked before anything is done with them.
package account

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"
)

// Errors that callers test for.
var (
	ErrName    = errors.New("not a user name")
	ErrUnknown = errors.New("unknown user")
)

// Account is a user.
type Account struct {
	Name     string
	UID, GID int
	Home     string // absolute and clean
	Shell    string
	// Local is false for users that /etc/passwd does not have: LDAP's, SSSD's.
	Local bool
}

// maxName is what login(1) and ssh take at most, in bytes.
const maxName = 255

// CheckName returns ErrName for what cannot be a user's name, or could be taken for something else on a command line or in a path.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || name[0] == '-' || name == "." || name == ".." {
		return fmt.Errorf("%w: %.40q", ErrName, name)
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(`._-+@\`, c) >= 0 || c == '$' && i == len(name)-1 {
			continue
		}
		return fmt.Errorf("%w: %.40q", ErrName, name)
	}
	return nil
}

// Files names where accounts are.
type Files struct {
	Passwd, Shadow string
	// Getent is the program that knows users of LDAP and SSSD; empty: they are not asked for.
	Getent string
}

// System is the running client's.
var System = Files{Passwd: "/etc/passwd", Shadow: "/etc/shadow", Getent: "/usr/bin/getent"}

// getentTimeout bounds the question to LDAP or SSSD.
const getentTimeout = 10 * time.Second

// Lookup returns a user. It may ask LDAP or SSSD, and then takes a while.
func (f Files) Lookup(ctx context.Context, name string) (Account, error) {
	if err := CheckName(name); err != nil {
		return Account{}, err
	}
	line, err := findLine(f.Passwd, name)
	if err == nil {
		a, err := parse(line)
		a.Local = true
		return a, err
	}
	if !errors.Is(err, ErrUnknown) || f.Getent == "" {
		return Account{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, getentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.Getent, "passwd", "--", name)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return Account{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	a, err := parse(strings.TrimSuffix(string(out), "\n"))
	if err == nil && a.Name != name {
		return Account{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return a, err
}

// NameOf returns the name of a local user by number, or "".
func (f Files) NameOf(uid int) string {
	text, err := os.ReadFile(f.Passwd)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if a, err := parse(strings.TrimSuffix(line, "\n")); err == nil && a.UID == uid {
			return a.Name
		}
	}
	return ""
}

func findLine(file, name string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", name, err)
	}
	defer f.Close()
	return scanFor(f, name)
}

func scanFor(r io.Reader, name string) (string, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if before, _, ok := bytes.Cut(lines.Bytes(), []byte(":")); ok && string(before) == name {
			return lines.Text(), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("look up %s: %w", name, err)
	}
	return "", fmt.Errorf("%w: %s", ErrUnknown, name)
}

// parse reads a line of passwd(5).
func parse(line string) (Account, error) {
	f := strings.Split(line, ":")
	if len(f) != 7 {
		return Account{}, fmt.Errorf("a line of passwd has %d fields", len(f))
	}
	a := Account{Name: f[0], Home: path.Clean(f[5]), Shell: f[6]}
	var err error
	if err = CheckName(a.Name); err != nil {
		return Account{}, err
	}
	if a.UID, err = strconv.Atoi(f[2]); err != nil || a.UID < 0 {
		return Account{}, fmt.Errorf("user %s: number %.20q", a.Name, f[2])
	}
	if a.GID, err = strconv.Atoi(f[3]); err != nil || a.GID < 0 {
		return Account{}, fmt.Errorf("user %s: group %.20q", a.Name, f[3])
	}
	if !path.IsAbs(f[5]) {
		return Account{}, fmt.Errorf("user %s: home %.40q", a.Name, f[5])
	}
	return a, nil
}

// Secret is what the password field of shadow(5) says of a user of the login host.
type Secret struct {
	// Remote is false for users whose password the client itself checks, if anybody does.
	Remote bool
	// Free lets the user in without a question to anybody.
	Free bool
	// Password is sent to the login host in place of what was typed, unless it is nil.
	Password []byte
}

// remoteMark begins the field of a user of the login host; behind it may follow "=" with a password in base64, and after a comma what nobody reads.
const remoteMark = "pamltsp"

// Secret returns the secret of a local user. It takes root.
func (f Files) Secret(name string) (Secret, error) {
	line, err := findLine(f.Shadow, name)
	if err != nil {
		return Secret{}, err
	}
	return parseSecret(strings.Split(line, ":")[1])
}

func parseSecret(field string) (Secret, error) {
	value, ok := strings.CutPrefix(field, remoteMark)
	if !ok {
		return Secret{}, nil
	}
	value, _, _ = strings.Cut(value, ",")
	if value == "=" {
		return Secret{Remote: true, Free: true}, nil
	}
	text, ok := strings.CutPrefix(value, "=")
	if !ok {
		return Secret{Remote: true}, nil
	}
	password, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return Secret{Remote: true}, errors.New("the stored password is not base64")
	}
	password = bytes.TrimRight(password, "\n") // of an echo(1) before base64(1)
	if len(password) == 0 || bytes.ContainsAny(password, "\x00\n") {
		return Secret{Remote: true}, errors.New("the stored password is not one line of text")
	}
	return Secret{Remote: true, Password: password}, nil
}
