package remoteapps

import (
	"bufio"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Times of the choice.
const (
	answerTime = 2 * time.Second // for a host to say that it is an SSH server
	probeTime  = 6 * time.Second // for a host to tell its load
)

// address returns where a host's SSH server listens.
func (h Host) address() string {
	port := "22"
	if h.Port != 0 {
		port = strconv.Itoa(int(h.Port))
	} else if p := portIn(h.Options); p != "" {
		port = p
	}
	return net.JoinHostPort(h.Name, port)
}

// portIn finds the port in words for ssh's command line.
func portIn(options []string) string {
	for i, o := range options {
		word := strings.TrimPrefix(o, "-o")
		switch {
		case o == "-p" && i+1 < len(options):
			return options[i+1]
		case strings.HasPrefix(o, "-p") && len(o) > 2:
			return o[2:]
		case len(word) > 5 && strings.EqualFold(word[:5], "port="):
			return word[5:]
		}
	}
	return ""
}

// answers tells whether an SSH server greets at an address (RFC 4253 section 4.2) within answerTime.
func answers(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // a connection that takes none fails in the read
	lines := bufio.NewReaderSize(conn, 512)
	for range 16 { // lines may come before the greeting
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return false
		}
		if strings.HasPrefix(string(line), "SSH-") {
			return true
		}
	}
	return false
}

// each asks all hosts at once and returns their answers in order.
func each[T any](hosts []Host, ask func(Host) T) []T {
	out := make([]T, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { out[i] = ask(h) })
	}
	wg.Wait()
	return out
}

// probe is what a host tells of itself.
type probe struct {
	ok      bool
	load    float64 // average of a minute for each processor
	waypipe bool
}

// probeCommand is what a host is asked; its words are parsed by parseProbe. waypipe is of use only where it has a place for its socket.
const probeCommand = `exec sh -c 'cat /proc/loadavg; nproc; test -d "$XDG_RUNTIME_DIR" && command -v waypipe; exit 0'`

// parseProbe reads the answer to probeCommand.
func parseProbe(text string) probe {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	fields := strings.Fields(lines[0])
	if len(lines) < 2 || len(fields) < 3 {
		return probe{}
	}
	load, err := strconv.ParseFloat(fields[0], 64)
	if err != nil || !(load >= 0) {
		return probe{}
	}
	processors, err := strconv.Atoi(strings.TrimSpace(lines[1]))
	if err != nil || processors < 1 {
		return probe{}
	}
	return probe{ok: true, load: load / float64(processors), waypipe: len(lines) > 2 && strings.TrimSpace(lines[2]) != ""}
}

// choose returns the index of the host to use, among hosts that answer: one where the user has an application already (programs share files and locks), else
// the least loaded, else the first. probes may be nil.
func choose(hosts []Host, probes []probe, inUse []string) int {
	if i := slices.IndexFunc(hosts, func(h Host) bool { return slices.Contains(inUse, h.Name) }); i >= 0 {
		return i
	}
	best := 0
	for i, p := range probes {
		if p.ok && (!probes[best].ok || p.load < probes[best].load) {
			best = i
		}
	}
	return best
}
