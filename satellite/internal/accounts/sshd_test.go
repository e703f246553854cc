package accounts

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// sshd is an SSH server of a test that runs a Go function as every command.
type sshd struct {
	t    *testing.T
	addr netip.AddrPort

	mu       sync.Mutex
	key      ssh.Signer
	accept   string // authorized_keys line without the comment
	run      func(command string, ch ssh.Channel)
	listener net.Listener
	conns    []net.Conn
	users    []string // whose key was asked about
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSSHD(t *testing.T, run func(command string, ch ssh.Channel)) *sshd {
	t.Helper()
	s := &sshd{t: t, key: newKey(t), run: run, addr: netip.MustParseAddrPort("127.0.0.1:0")}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *sshd) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			go s.serve(c)
		}
	}()
}

// stop ends the server and all connections.
func (s *sshd) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *sshd) serve(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users = append(s.users, m.User())
		if s.accept != "" && !strings.HasPrefix(s.accept, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	cfg.AddHostKey(s.key)
	run := s.run
	s.mu.Unlock()
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				if r.Type == "exec" {
					_ = r.Reply(true, nil)
					go func() { defer ch.Close(); run(string(r.Payload[4:]), ch) }()
				} else {
					_ = r.Reply(false, nil)
				}
			}
		}()
	}
}

// host is the site's setting for this server.
func (s *sshd) host(pinned ...ssh.Signer) config.LoginHost {
	h := config.LoginHost{Address: s.addr.Addr().String(), Port: s.addr.Port(), User: "reader"}
	for _, k := range pinned {
		h.HostKeys = append(h.HostKeys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey()))))
	}
	return h
}

// prints is a command that prints a text and then what comes through more.
func prints(text string, more <-chan string) func(string, ssh.Channel) {
	return func(_ string, ch ssh.Channel) {
		if _, err := io.WriteString(ch, text); err != nil {
			return
		}
		for m := range more {
			if _, err := io.WriteString(ch, m); err != nil {
				return
			}
		}
	}
}
