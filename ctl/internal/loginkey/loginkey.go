// Package loginkey makes the lines of authorized_keys that let satellites read the accounts of a site's login host, and nothing else. Only ltspctl uses it.
package loginkey

import (
	"fmt"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/hostkeys"
)

// script prints the accounts whenever they have changed, as satellites read them: a line "LTSP-ACCOUNTS PASSWD GROUP" with the lengths in bytes of both
// texts, and the texts; or "LTSP-ALIVE". It ends when nobody reads any more. It holds no single quote: it stands in a pair of them.
const script = `o=/; while :; do p=$(getent passwd); g=$(getent group); ` +
	`if [ "$p:$g" = "$o" ]; then echo LTSP-ALIVE || exit 1; ` +
	`else o=$p:$g; printf "LTSP-ACCOUNTS %d %d\n" "$(printf %s "$p" | wc -c)" "$(printf %s "$g" | wc -c)" && printf %s%s "$p" "$g" || exit 1; fi; ` +
	`sleep 2; done`

// Command is what the login host runs for a satellite, whatever that asks for.
const Command = `exec env LC_ALL=C sh -c '` + script + `'`

// Line makes a line of authorized_keys (sshd(8)) from the public key that a satellite has told. What it told becomes part of a file that gives access:
// an error if it is anything but one key.
func Line(satellite, publicKey string) (string, error) {
	key, err := hostkeys.Parse(publicKey)
	if err != nil {
		return "", fmt.Errorf("satellite %s: %w", satellite, err)
	}
	return fmt.Sprintf(`restrict,command="%s" %s ltsp-fleet-%s`, strings.ReplaceAll(Command, `"`, `\"`), key.Line, satellite), nil
}
