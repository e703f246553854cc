// Package loginkey makes the lines of authorized_keys that let satellites read the accounts of a site's login host, and nothing else. Only ltspctl uses it.
package loginkey

import (
	"fmt"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/hostkeys"
	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
)

// Line makes a line of authorized_keys (sshd(8)) from the public key that a satellite has told. What it told becomes part of a file that gives access:
// an error if it is anything but one key.
func Line(satellite, publicKey string) (string, error) {
	key, err := hostkeys.Parse(publicKey)
	if err != nil {
		return "", fmt.Errorf("satellite %s: %w", satellite, err)
	}
	return fmt.Sprintf(`restrict,command="%s" %s ltsp-fleet-%s`, strings.ReplaceAll(accountfeed.Command(), `"`, `\"`), key.Line, satellite), nil
}
