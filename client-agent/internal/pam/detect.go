package pam

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// AuthType returns how PAM shall take part: what PAM_AUTH_TYPE says, or after a look at the image Additional where LDAP or SSSD checks passwords and
// Primary elsewhere. Another word is an error.
func AuthType(root fs.FS, wanted string) (string, error) {
	switch wanted {
	case loginconf.Off, loginconf.Primary, loginconf.Additional:
		return wanted, nil
	case loginconf.Auto:
	default:
		return "", fmt.Errorf("PAM_AUTH_TYPE=%q: it is 0, Primary or Additional", wanted)
	}
	auth, err := fs.ReadFile(root, authPath)
	if err != nil {
		return loginconf.Primary, nil // nothing there that could check passwords
	}
	if hasWord(auth, "pam_ldap") || hasWord(auth, "pam_sss") && hasProvider(root) {
		return loginconf.Additional, nil
	}
	return loginconf.Primary, nil
}

// hasProvider tells whether SSSD is configured: in etc/sssd/*conf* or a file below such a directory.
func hasProvider(root fs.FS) bool {
	entries, err := fs.ReadDir(root, sssdDir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "conf") && mentions(root, path.Join(sssdDir, e.Name())) {
			return true
		}
	}
	return false
}

func mentions(root fs.FS, name string) bool {
	found := false
	err := fs.WalkDir(root, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read says nothing
		}
		if text, err := fs.ReadFile(root, p); err == nil && hasWord(text, "id_provider") {
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return err == nil && found
}

// hasWord tells whether a word stands anywhere in a text, comments included, as LTSP looks for it.
func hasWord(text []byte, word string) bool {
	return slices.Contains(strings.FieldsFunc(string(text), func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }), word)
}
