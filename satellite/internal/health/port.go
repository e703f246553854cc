package health

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PortOwner names the program that holds a TCP or UDP port ("tcp", "udp") of this machine, as "apache2 (process 812)". It is empty if
// nobody does, or if it can't be found out: that takes root and a /proc that shows all processes.
func PortOwner(network string, port uint16) string { return portOwner("/proc", network, port) }

func portOwner(proc, network string, port uint16) string {
	inodes := make(map[string]bool)
	for _, file := range []string{network, network + "6"} {
		f, err := os.Open(filepath.Join(proc, "net", file))
		if err != nil {
			continue
		}
		listeners(f, network == "tcp", port, inodes)
		_ = f.Close() // only read
	}
	if len(inodes) == 0 {
		return ""
	}
	links, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return ""
	}
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil || !inodes[to] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(l))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return ""
}

// listeners reads a table of sockets as /proc/net/tcp has it and adds the links ("socket:[INODE]") of those that listen on the port.
func listeners(r io.Reader, tcp bool, port uint16, inodes map[string]bool) {
	const stateListen, stateUnconnected = "0A", "07" // of TCP; of UDP
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			continue
		}
		_, hex, ok := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(hex, 16, 16)
		if !ok || err != nil || uint16(n) != port {
			continue
		}
		if tcp && f[3] == stateListen || !tcp && f[3] == stateUnconnected {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
}
