package fleet

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// LoginHost is where a site's users log in and have their homes: SERVER of ltsp.conf. The zero LoginHost means that there is none.
type LoginHost struct {
	Address  string   `json:"address,omitempty"` // IP address, host name or LocalLoginHost
	Port     uint32   `json:"port,omitempty"`    // of SSH; 0 means 22
	User     string   `json:"user,omitempty"`    // account with which satellites read the accounts; empty means "ltsp"
	HostKeys []string `json:"host_keys,omitempty"`
}

// LocalLoginHost as an address means the satellite's own machine.
const LocalLoginHost = "local"

const (
	maxHostKeys     = 16
	maxHostKeyBytes = 2048 // satellites take no longer ones
)

var (
	// RFC 1123 section 2.1: labels of letters, digits and inner hyphens.
	hostRule = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	userRule = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	// What sshd(8) offers as host keys.
	hostKeyTypes = []string{
		"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
	}
)

func (l *LoginHost) check(what string) error {
	what += ": login host"
	if l.Address == "" {
		if l.Port != 0 || l.User != "" || len(l.HostKeys) > 0 {
			return invalid("%s: a port, user or host key, and no address", what)
		}
		return nil
	}
	if !isHost(l.Address) {
		return invalid("%s %q: want an IP address, a host name or %q", what, l.Address, LocalLoginHost)
	}
	if l.Port > 65535 {
		return invalid("%s: port %d: want 1 to 65535, or 0 for 22", what, l.Port)
	}
	if l.User != "" && !userRule.MatchString(l.User) {
		return invalid("%s: user %q: want letters, digits, '_', '.' and '-'", what, l.User)
	}
	if len(l.HostKeys) > maxHostKeys {
		return invalid("%s: %d host keys, at most %d are allowed", what, len(l.HostKeys), maxHostKeys)
	}
	for i, key := range l.HostKeys {
		if slices.Contains(l.HostKeys[:i], key) {
			return invalid("%s: a host key is named twice", what)
		}
		if err := checkHostKey(key); err != nil {
			return invalid("%s: host key %d: %v", what, i+1, err)
		}
	}
	return nil
}

// isHost tells whether s is the address or the name of one machine.
func isHost(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Zone() == "" && !addr.IsUnspecified() && !addr.IsMulticast()
	}
	return len(s) <= 253 && hostRule.MatchString(s)
}

// checkHostKey wants TYPE BASE64, where what is encoded begins with the type once more (RFC 4253 section 6.6).
func checkHostKey(line string) error {
	kind, encoded, ok := strings.Cut(line, " ")
	if !ok || len(line) > maxHostKeyBytes || !slices.Contains(hostKeyTypes, kind) {
		return invalid("want a type such as ssh-ed25519, one space and the key in base64")
	}
	blob, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") { // which the decoder skips
		return invalid("the key is no base64")
	}
	if len(blob) < 4 || uint64(binary.BigEndian.Uint32(blob)) != uint64(len(kind)) || !strings.HasPrefix(string(blob[4:]), kind) || len(blob) < 4+len(kind)+4 {
		return invalid("the key is no %s key", kind)
	}
	return nil
}

// LoginHostStatus tells how a satellite gets the accounts of the site's login host.
type LoginHostStatus struct {
	PublicKey string    `json:"public_key,omitempty"` // that the login host must accept for the satellite
	State     string    `json:"state"`                // ok, unset, unreachable, host-key, denied or error
	Error     string    `json:"error,omitempty"`
	Updated   time.Time `json:"updated,omitzero"`
	Users     uint32    `json:"users,omitempty"`
}
