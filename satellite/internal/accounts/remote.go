package accounts

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Times of the connection.
const (
	connectTimeout = 15 * time.Second // from the dial to the end of the handshake
	keepaliveTime  = 15 * time.Second
	keepaliveWait  = 15 * time.Second
	exitWait       = 5 * time.Second // for the exit code of a command that has closed its output
)

// maxStderr bounds what is kept of the remote command's complaints.
const maxStderr = 512

// failure is why the accounts can't be had.
type failure struct {
	state State
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// watchRemote connects to the login host and calls found for each state of its accounts, until the connection ends or ctx does. The error is a *failure.
func (w *Watcher) watchRemote(ctx context.Context, h config.LoginHost, found func(texts) error) error {
	addr := net.JoinHostPort(h.Address, strconv.Itoa(int(h.Port)))
	pinned, err := parseHostKeys(h.HostKeys)
	if err != nil {
		return &failure{HostKey, err}
	}
	client, err := w.connect(ctx, addr, h, pinned)
	if err != nil {
		return err
	}
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { _ = client.Close() }) // ends all reads
	defer stop()
	session, err := client.NewSession()
	if err != nil {
		return &failure{Failed, fmt.Errorf("open a session on %s: %w", addr, err)}
	}
	var complaints tail
	session.Stderr = &complaints
	out, err := session.StdoutPipe()
	if err == nil {
		err = session.Start(accountfeed.Command())
	}
	if err != nil {
		return &failure{Failed, fmt.Errorf("start the command on %s: %w", addr, err)}
	}
	var alive sync.WaitGroup
	defer alive.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive.Go(func() { keepAlive(ctx, client) })
	if err = w.read(out, found); errors.Is(err, io.EOF) {
		err = errors.New("the command ended")
		late := time.AfterFunc(exitWait, func() { _ = client.Close() })
		defer late.Stop()
		if ended := session.Wait(); ended != nil {
			err = ended
		}
	}
	_ = client.Close() // so that complaints gets no more
	if text := complaints.String(); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return &failure{Failed, fmt.Errorf("read the accounts of %s: %w", addr, err)}
}

func (w *Watcher) read(r io.Reader, found func(texts) error) error {
	f := newFrames(r)
	for {
		t, alive, err := f.next()
		if err != nil {
			return err
		}
		if alive {
			w.unchanged()
			continue
		}
		if err := found(t); err != nil {
			return err
		}
	}
}

// connect dials and proves both ends to each other. Nothing of ours is sent to a host without a pinned key.
func (w *Watcher) connect(ctx context.Context, addr string, h config.LoginHost, pinned []ssh.PublicKey) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &failure{Unreachable, err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var refused error
	cfg := &ssh.ClientConfig{User: h.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signer)}, ClientVersion: "SSH-2.0-ltsp-satellite",
		HostKeyAlgorithms: hostKeyAlgorithms(pinned),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			refused = judge(addr, key, pinned)
			return refused
		}}
	c, channels, requests, err := ssh.NewClientConn(conn, addr, cfg)
	switch {
	case err == nil:
		return ssh.NewClient(c, channels, requests), nil
	case refused != nil:
		err = &failure{HostKey, refused}
	case strings.Contains(err.Error(), "unable to authenticate"): // the library has no other sign
		err = &failure{Denied, fmt.Errorf("%s does not accept this satellite's key for the account %s: append it to that account's .ssh/authorized_keys", addr, h.User)}
	case ctx.Err() != nil:
		err = &failure{Unreachable, fmt.Errorf("%s did not finish the handshake within %s", addr, connectTimeout)}
	default:
		err = &failure{Failed, fmt.Errorf("connect to %s: %w", addr, err)}
	}
	_ = conn.Close() // it is given up
	return nil, err
}

// judge compares the key that a host has proven with the pinned ones.
func judge(addr string, key ssh.PublicKey, pinned []ssh.PublicKey) error {
	if len(pinned) == 0 {
		return fmt.Errorf("no host key is pinned for %s; it presents %s: compare that with the host itself, then pin it", addr, keyText(key))
	}
	if slices.ContainsFunc(pinned, func(p ssh.PublicKey) bool { return bytes.Equal(p.Marshal(), key.Marshal()) }) {
		return nil
	}
	return fmt.Errorf("the host key of %s is not the pinned one: it presents %s. Either the host was installed anew, then pin that key, or somebody else answers at its address",
		addr, keyText(key))
}

// hostKeyAlgorithms prefers the kinds of the pinned keys: a host has several keys and shows one. The other kinds follow, so that an unknown key is told as such.
func hostKeyAlgorithms(pinned []ssh.PublicKey) []string {
	ofKey := func(a string) bool {
		kind := a
		if a == ssh.KeyAlgoRSASHA256 || a == ssh.KeyAlgoRSASHA512 {
			kind = ssh.KeyAlgoRSA
		}
		return slices.ContainsFunc(pinned, func(p ssh.PublicKey) bool { return p.Type() == kind })
	}
	all := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(rank(ofKey(a)), rank(ofKey(b))) })
	return all
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// keepAlive closes the connection when the host does not answer any more: a login host that was switched off says no farewell.
func keepAlive(ctx context.Context, c *ssh.Client) {
	tick := time.NewTicker(keepaliveTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		late := time.AfterFunc(keepaliveWait, func() { _ = c.Close() })
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		late.Stop()
		if err != nil {
			_ = c.Close() // it is dead
			return
		}
	}
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-maxStderr):]...)
	t.text = t.text[max(0, len(t.text)-maxStderr):]
	return len(p), nil
}

// String returns the text as one line of printable characters.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(t.text), "?"))), " ")
}
