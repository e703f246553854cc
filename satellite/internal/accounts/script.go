package accounts

// pollSeconds is how often the accounts are looked at, on the login host and on this machine.
const pollSeconds = "2"

// Script is the POSIX shell program that prints accounts as the package comment says, whenever they change. It holds no single quote and no line end, so
// that any login shell passes it on as one word.
const Script = `o=/; while :; do p=$(getent passwd); g=$(getent group); if [ "$p:$g" = "$o" ]; then echo LTSP-ALIVE || exit 1; ` +
	`else o=$p:$g; printf "LTSP-ACCOUNTS %d %d\n" "$(printf %s "$p" | wc -c)" "$(printf %s "$g" | wc -c)" && printf %s%s "$p" "$g" || exit 1; fi; sleep ` + pollSeconds + `; done`

// remoteCommand runs Script whatever the account's login shell is.
const remoteCommand = `exec env LC_ALL=C sh -c '` + Script + `'`
