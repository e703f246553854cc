package loginhost

import "strings"

// signs are what OpenSSH writes, and what it means. The first that is found counts. They are fatal() and error() texts of sshconnect.c, sshconnect2.c,
// ssh.c, clientloop.c and packet.c, the same for years, in no language but this.
var signs = []struct {
	text    string
	outcome Outcome
}{
	{"REMOTE HOST IDENTIFICATION HAS CHANGED", HostKey},
	{"REVOKED HOST KEY", HostKey},
	{"Host key verification failed", HostKey},
	{"host key is known for", HostKey},
	{"Permission denied (", Refused},
	{"Password change required", Broken},
	{"subsystem request failed", Broken},
	{"Could not resolve hostname", Away},
	{"connect to host", Away},
	{"connect to address", Away},
	{"Connection timed out", Away},
	{"Connection refused", Away},
	{"Connection reset by", Away},
	{"Connection closed by", Away},
	{"Connection to ", Away},
	{"timed out", Away},
	{"Timeout, server", Away},
	{"kex_exchange_identification", Away},
	{"No route to host", Away},
	{"Network is unreachable", Away},
	{"Broken pipe", Away},
	{"ssh_dispatch_run_fatal", Away},
}

// Classify understands the words of an ssh or sshfs that failed.
func Classify(said string) Answer {
	for _, s := range signs {
		line := lineWith(said, s.text)
		if line == "" {
			continue
		}
		answer := Answer{Outcome: s.outcome, Text: line}
		if s.outcome == Refused {
			answer.methods = methodsIn(line)
		}
		if s.outcome == HostKey {
			answer.Text = hostKeyText(said)
		}
		return answer
	}
	return Answer{Outcome: Broken, Text: lastLine(said)}
}

// hostKeyText tells a key that has changed from one that was never pinned.
func hostKeyText(said string) string {
	if strings.Contains(said, "IDENTIFICATION HAS CHANGED") {
		return "its host key is not the pinned one"
	}
	if line := lineWith(said, "host key is known for"); line != "" {
		return "no host key is pinned for it"
	}
	return "its host key is not accepted"
}

// methodsIn reads "USER@HOST: Permission denied (publickey,password)."
func methodsIn(line string) []string {
	open, end := strings.LastIndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return nil
	}
	return strings.Split(line[open+1:end], ",")
}

func lineWith(said, text string) string {
	for line := range strings.Lines(said) {
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func lastLine(said string) string {
	last := "it failed without a word"
	for line := range strings.Lines(said) {
		if l := strings.TrimSpace(line); l != "" {
			last = l
		}
	}
	return last
}
