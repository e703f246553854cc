// Package accountfeed is the program that a site's login host runs for satellites: it prints the accounts whenever they change. Satellites run it over SSH; ltspctl
// writes it into lines of authorized_keys, so that a satellite's key is good for nothing else. It is text only.
package accountfeed

import (
	"strconv"
	"time"
)

// Poll is how often the accounts are looked at.
const Poll = 2 * time.Second

// Script is a POSIX shell program. It prints a line "LTSP-ACCOUNTS PASSWD GROUP" with the lengths in bytes of both texts, and the texts; or "LTSP-ALIVE" when
// nothing has changed. It ends when nobody reads any more. It holds no single quote and no line end, so that any login shell passes it on as one word.
func Script() string {
	return `o=/; while :; do p=$(getent passwd); g=$(getent group); ` +
		`if [ "$p:$g" = "$o" ]; then echo LTSP-ALIVE || exit 1; ` +
		`else o=$p:$g; printf "LTSP-ACCOUNTS %d %d\n" "$(printf %s "$p" | wc -c)" "$(printf %s "$g" | wc -c)" && printf %s%s "$p" "$g" || exit 1; fi; ` +
		`sleep ` + strconv.Itoa(int(Poll/time.Second)) + `; done`
}

// Command runs Script whatever the account's login shell is.
func Command() string { return `exec env LC_ALL=C sh -c '` + Script() + `'` }
