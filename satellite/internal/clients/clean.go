package clients

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Bounds of what is kept of a report. Texts are cut, lists end early.
const (
	maxReasons = 16
	maxReason  = 256
	maxName    = 128
	maxUnits   = 32
	maxLines   = 32 // of what a policy needs and could not do
)

// clean bounds a report and takes control characters out of its texts, which end up on terminals.
func clean(r *agentproto.Report) {
	r.Reasons = cleanList(r.Reasons, maxReasons, maxReason)
	r.Failed = cleanList(r.Failed, maxUnits, maxName)
	for _, s := range []*string{
		&r.Image, &r.Digest, &r.Hostname, &r.Kernel, &r.Addr, &r.Link.Name, &r.Link.Duplex, &r.NBD.Satellite,
	} {
		*s = cleanText(*s, maxName)
	}
	if math.IsNaN(r.Load1) || math.IsInf(r.Load1, 0) || r.Load1 < 0 {
		r.Load1 = 0
	}
	r.Uptime = max(r.Uptime, 0)
	r.Link.SpeedMbps = max(r.Link.SpeedMbps, 0)
	cleanPolicy(r)
	if r.Lease != nil {
		l := *r.Lease
		l.Server = cleanText(l.Server, maxName)
		r.Lease = &l
	}
	steps := r.Timeline[:min(len(r.Timeline), maxSteps)]
	r.Timeline = make([]agentproto.Step, len(steps))
	for i, s := range steps {
		r.Timeline[i] = agentproto.Step{Name: cleanText(s.Name, maxName), At: max(s.At, 0)}
	}
}

// cleanPolicy bounds what a report says of policy and sessions.
func cleanPolicy(r *agentproto.Report) {
	if r.Policy != nil {
		p := *r.Policy
		p.State = cleanText(p.State, maxName)
		p.Pending, p.Errors = cleanList(p.Pending, maxLines, maxReason), cleanList(p.Errors, maxLines, maxReason)
		p.Took = max(p.Took, 0)
		r.Policy = &p
	}
	sessions := r.Sessions[:min(len(r.Sessions), agentproto.MaxSessions)]
	r.Sessions = nil
	for _, s := range sessions {
		s.Kind, s.User, s.App, s.Host = cleanText(s.Kind, maxName), cleanText(s.User, maxName), cleanText(s.App, maxName), cleanText(s.Host, maxName)
		r.Sessions = append(r.Sessions, s)
	}
}

func cleanList(list []string, maxLen, maxText int) []string {
	var out []string
	for _, s := range list[:min(len(list), maxLen)] {
		out = append(out, cleanText(s, maxText))
	}
	return out
}

// cleanText returns at most maxBytes of s, without control characters and broken UTF-8.
func cleanText(s string, maxBytes int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxBytes {
		cut := maxBytes
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return strings.TrimSpace(s)
}
