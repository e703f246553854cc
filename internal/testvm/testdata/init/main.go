// This program is the only one in the initrd of a test machine: it says that it runs, answers one line, and switches off.
package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
)

func main() {
	fmt.Printf("INIT UP pid %d\n", os.Getpid())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Printf("INIT HEARD %q %v\n", line, err)
	if line == "panic\n" {
		os.Exit(1) // the kernel cannot live without its first process
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
