// Command ltsp-agent is the client's part of LTSP Fleet: one static binary that is /init of the initrd, the keeper of the root connection, and the
// resident agent of the running client.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/initrd"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/keeper"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/resident"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
)

const usage = `ltsp-agent is the part of LTSP Fleet that runs on diskless clients.

Usage:
  ltsp-agent resident   report this client's state to a satellite (started by the unit ltsp-agent.service)
  ltsp-agent pam auth|session       answer PAM (pam_exec) when somebody logs in or out
  ltsp-agent remoteapp NAME ARG...  run a remote application (started by its launcher)
  ltsp-agent session COMMAND...     run a desktop session, the user's only one on all clients
  ltsp-agent version    print the version
  ltsp-agent --help     print this text

As process 1 of an initrd it attaches the image and starts the image's init. Kernel parameters that it obeys:
  BOOTIF=01-MAC         the NIC that the PC booted from
  ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE   its address; without one it asks by DHCP
  ltsp.dhcp=ADDR        the DHCP server that gave the address
  ltsp.dns=ADDR,ADDR    DNS servers
  ltsp.reboot=SECONDS   how long a failed boot shows its message (60)
  init=PATH             the program to start instead of /sbin/init
  modprobe.blacklist=M  drivers not to load
`

func main() { os.Exit(run(os.Args, os.Getpid(), os.Stdout, os.Stderr)) }

// run chooses what to be. Process 1 without a command is /init, whatever it is called.
func run(args []string, pid int, stdout, stderr io.Writer) int {
	if code, ok := runForUser(args, stdout, stderr); ok {
		return code
	}
	command := ""
	if len(args) == 2 {
		command = args[1]
	}
	switch {
	case len(args) > 0 && args[0] == keeper.Argv0:
		return exit(keeper.Main(), stderr)
	case command == "resident":
		return exit(resident.Main(initrd.Uptime), stderr)
	case command == "version" || command == "--version":
		fmt.Fprintf(stdout, "ltsp-agent %s %s/%s\n", buildinfo.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case command == "--help" || command == "-h" || command == "help":
		fmt.Fprint(stdout, usage)
		return 0
	case pid == 1:
		initrd.Main() // returns only if the PC cannot even be restarted
		return 1
	}
	fmt.Fprint(stderr, usage)
	return 2
}

func exit(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintf(stderr, "ltsp-agent: %v\n", err)
		return 1
	}
	return 0
}
