package remoteapp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Host is where an application runs.
type Host struct {
	Name string // a host's name or address; never looks like an option
	Port uint16 // 0: not said
}

// String returns NAME, NAME:PORT or [ADDRESS]:PORT.
func (h Host) String() string {
	if h.Port == 0 {
		return h.Name
	}
	name := h.Name
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return name + ":" + strconv.Itoa(int(h.Port))
}

// FormatHosts writes hosts with blanks between.
func FormatHosts(hosts []Host) string {
	words := make([]string, len(hosts))
	for i, h := range hosts {
		words[i] = h.String()
	}
	return strings.Join(words, " ")
}

// ParseHosts reads at most 16 hosts with blanks or commas between; no text is no host.
func ParseHosts(text string) ([]Host, error) {
	var out []Host
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		host, err := parseHost(word)
		if err != nil {
			return nil, err
		}
		out = append(out, host)
	}
	return out, checkHosts(out)
}

func checkHosts(hosts []Host) error {
	if len(hosts) > maxHosts {
		return fmt.Errorf("%d hosts, at most %d", len(hosts), maxHosts)
	}
	for _, h := range hosts {
		if !isHostName(h.Name) {
			return fmt.Errorf("host %q: not a host name or address", h.Name)
		}
	}
	return nil
}

func parseHost(word string) (Host, error) {
	name, port := word, ""
	switch {
	case strings.HasPrefix(word, "["):
		inside, behind, ok := strings.Cut(word[1:], "]")
		if !ok || behind != "" && behind[0] != ':' {
			return Host{}, fmt.Errorf("host %q: want NAME, NAME:PORT or [ADDRESS]:PORT", word)
		}
		name, port = inside, strings.TrimPrefix(behind, ":")
	case strings.Count(word, ":") == 1:
		name, port, _ = strings.Cut(word, ":")
	}
	host := Host{Name: name}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Host{}, fmt.Errorf("host %q: port %q is no port", word, port)
		}
		host.Port = uint16(n)
	}
	return host, nil
}

// isHostName tells whether a name is a host's name or address.
func isHostName(name string) bool {
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Zone() == ""
	}
	return len(name) <= 253 && name != "" && strings.Trim(name, alphanumeric+".-") == "" && strings.Trim(name, ".-") == name
}
