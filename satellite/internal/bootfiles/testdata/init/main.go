// This program is the init of a test machine: it shows what the boot script gave it, and switches off.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"syscall"
)

func main() {
	_ = os.Mkdir("/proc", 0o755)
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("INIT proc:", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	fmt.Printf("INIT CMDLINE %s %v\n", cmdline, err)
	config, err := os.ReadFile("/ltsp/boot.json")
	fmt.Printf("INIT CONFIG %s %v\n", config, err)
	filler, err := os.ReadFile("/filler")
	fmt.Printf("INIT FILLER %x %v\n", sha256.Sum256(filler), err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
