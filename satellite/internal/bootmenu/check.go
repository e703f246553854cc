package bootmenu

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Limits of what a request or a policy may bring.
const (
	MaxQuery            = 1024 // bytes of a query string
	MaxKernelParameters = 1024 // bytes of one entry of kernel parameters
)

// ErrRequest is the reason for queries that are refused.
var ErrRequest = errors.New("bad boot request")

// ParseMAC reads an Ethernet address as hw.ParseMAC does and returns it as aa:bb:cc:dd:ee:ff.
func ParseMAC(s string) (string, error) {
	mac, err := hw.ParseMAC(s)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return mac.String(), nil
}

// ParseQuery reads the query of a script or boot configuration request: mac, uuid, arch, platform, again and boot; other keys are ignored. A
// missing MAC is no error; one that is present and unusable is an ErrRequest, an empty one too. The other values are
// dropped when they are unusable: nothing depends on them.
func ParseQuery(raw string) (Request, error) {
	if len(raw) > MaxQuery {
		return Request{}, fmt.Errorf("%w: query of %d bytes, at most %d allowed", ErrRequest, len(raw), MaxQuery)
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return Request{}, fmt.Errorf("%w: malformed query", ErrRequest)
	}
	var r Request
	if q.Has("mac") {
		if r.MAC, err = ParseMAC(q.Get("mac")); err != nil {
			return Request{}, err
		}
	}
	r.UUID = parseUUID(q.Get("uuid"))
	r.Arch = word(q.Get("arch"))
	r.Platform = word(q.Get("platform"))
	r.Again = q.Get("again") == "1"
	if boot, err := config.ParseBoot(q.Get("boot")); err == nil {
		r.Boot = boot.String()
	}
	return r, nil
}

// parseUUID returns a UUID in lower case, or nothing if it is none or says nothing (all digits equal).
func parseUUID(s string) string {
	if len(s) != 36 {
		return ""
	}
	s = strings.ToLower(s)
	for i := range len(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (s[i] == '-') || !hyphen && strings.IndexByte("0123456789abcdef", s[i]) < 0 {
			return ""
		}
	}
	if first := s[:1]; strings.Trim(s, first+"-") == "" {
		return ""
	}
	return s
}

func word(s string) string {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
	}
	if len(s) > 16 || strings.ContainsFunc(s, func(r rune) bool { return !ok(r) }) {
		return ""
	}
	return s
}

// CheckKernelParameters tells whether s can stand in a script's kernel line: printable ASCII, no word that iPXE takes for an operator or a
// comment (|| && ; #...), no backslash at the end of a word. ${...} is expanded by iPXE: an admin may use its settings.
func CheckKernelParameters(s string) error {
	if len(s) > MaxKernelParameters {
		return fmt.Errorf("kernel parameters of %d bytes: at most %d are allowed", len(s), MaxKernelParameters)
	}
	for _, r := range s {
		if r < ' ' || r > '~' {
			return fmt.Errorf("kernel parameters %q: character %q is not allowed", s, r)
		}
	}
	for w := range strings.FieldsSeq(s) {
		if slices.Contains([]string{"||", "&&", ";"}, w) || w[0] == '#' || strings.HasSuffix(w, `\`) {
			return fmt.Errorf("kernel parameters %q: the word %q has a meaning of its own in boot scripts", s, w)
		}
	}
	return nil
}

// printable makes any text fit for an echo line: words of harmless characters. A script's operators, comments and settings cannot
// come out of it.
func printable(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" .,:_@%()/+!?'=-", r):
			return r
		case r == ';':
			return ','
		}
		return '?'
	}, s)), " ")
}
