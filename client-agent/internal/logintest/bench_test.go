//go:build component

package logintest

import (
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// BenchmarkLogin is a login from the typed password to PAM's yes, by a stock PAM client: by the agent, and by LTSP's own program where it is installed.
// A host that takes the password in no time is the smaller part of it.
func BenchmarkLogin(b *testing.B) {
	host := newLoginHost(b, hostAddr)
	const ltsp = "/usr/share/ltsp/client/login/pamltsp"
	for _, settings := range []loginconf.Settings{noSSHFS, withSSHFS} {
		name := map[bool]string{false: "ssh", true: "sshfs"}[settings.SSHFS]
		for _, who := range []string{"agent", "ltsp"} {
			b.Run(name+"/"+who, func(b *testing.B) {
				c := newClient(b, settings, host)
				if who == "ltsp" {
					if !c.exists(ltsp) {
						b.Skip("LTSP is not installed")
					}
					c.write("etc/pam.d/common-auth", strings.ReplaceAll(c.read("etc/pam.d/common-auth"), "/run/ltsp/agent pam auth", ltsp+" pam_auth"), 0o644)
					if !settings.SSHFS {
						c.write(loginconf.ExtraPath, "SSHFS=0\n", 0o644)
					}
				}
				for b.Loop() {
					if out, ok := c.authenticate("ann", annsPassword); !ok {
						b.Fatal(out)
					}
					b.StopTimer()
					c.must(as{}, "sh", "-c", "! mountpoint -q /home/ann || umount -l /home/ann")
					b.StartTimer()
				}
			})
		}
	}
}
