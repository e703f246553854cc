package ltspimport_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/ltspimport"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// review shows remarks as "FILE:LINE WHAT WORD", with a word of the text by which it is known.
func review(tree policy.Tree) []string {
	words := []string{"SERVER means", "exports nothing", "satellites export", "no dnsmasq", "fetch", "[server]", "hook of", "by NBD", "things of LTSP's", "sets a password",
		"was LTSP's server", "login host's accounts", "pinned keys", "script of", "image's file", "Epoptes"}
	got := []string{}
	for _, r := range ltspimport.Review(tree) {
		word := r.Text
		for _, w := range words {
			if strings.Contains(r.Text, w) {
				word = w
			}
		}
		got = append(got, fmt.Sprintf("%s:%d %s %s", r.File, r.Line, r.What, word))
	}
	return got
}

func TestReviewConf(t *testing.T) {
	t.Parallel()
	conf := strings.Join([]string{
		`# SERVER=192.168.67.1`, // comments are nothing
		`[server]`,
		`NAT = 1`,
		`POST_IPXE_MENU="sed -i s/a/b/ /srv/tftp/ltsp/ltsp.ipxe"`,
		`[common]`,
		`SERVER=10.1.0.1`,
		`NFS_HOME=1`,
		`PROXY_DHCP=0`,
		`MENU_TIMEOUT=0`, // which lint judges
		`TIMEZONE=Europe/Athens`,
		`[clients]`,
		`KERNEL_PARAMETERS="quiet nfsroot=192.168.67.1:/srv/ltsp"`,
		`PASSWORDS_LAB="pc.*/cGFzcw=="`,
		`POST_INIT_ROOT='echo "root:$6$salt$hash" | chpasswd -e'`,
		`POST_INITRD_BOTTOM_X="true"`,
		`  exportfs -a`,
		`FSTAB_HOME="server:/home /home nfs defaults,nolock 0 0"`,
	}, "\n")
	got := review(policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Content: []byte(conf)}})
	want := []string{
		"ltsp.conf:3 NAT [server]",
		"ltsp.conf:4 POST_IPXE_MENU hook of",
		"ltsp.conf:4 POST_IPXE_MENU things of LTSP's",
		"ltsp.conf:6 SERVER SERVER means",
		"ltsp.conf:7 NFS_HOME satellites export",
		"ltsp.conf:8 PROXY_DHCP no dnsmasq",
		"ltsp.conf:12 KERNEL_PARAMETERS by NBD",
		"ltsp.conf:12 KERNEL_PARAMETERS things of LTSP's",
		"ltsp.conf:12 KERNEL_PARAMETERS was LTSP's server",
		"ltsp.conf:13 PASSWORDS_LAB fetch",
		"ltsp.conf:14 POST_INIT_ROOT sets a password",
		"ltsp.conf:16 exportfs things of LTSP's",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReviewFiles(t *testing.T) {
	t.Parallel()
	file := func(name, text string) policy.File {
		return policy.File{Path: name, Kind: policy.Regular, Mode: 0o644, Content: []byte(text)}
	}
	got := review(policy.Tree{
		file("bin/sshfs-amd64", "\x7fELF 192.168.67.1"),
		file("client/init/60-x.sh", "#!/bin/sh\n# 192.168.67.1\nping 192.168.67.1\n"),
		file("epoptes.crt", ""), file("group", ""), file("ltsp-init.conf", "NFS_TFTP=0\n"), file("passwd", ""),
		{Path: "server", Kind: policy.Dir, Mode: 0o755}, file("server/image/70-x.sh", "true"), file("ssh_known_hosts", ""),
		{Path: "xorg.conf", Kind: policy.Symlink, Content: []byte("/etc/X11/xorg.conf")}, {Path: "y", Kind: policy.Symlink, Content: []byte("passwd")},
	})
	want := []string{
		"client/init/60-x.sh:3 192.168.67.1 was LTSP's server", "epoptes.crt:0 epoptes.crt Epoptes", "group:0 group login host's accounts",
		"ltsp-init.conf:1 NFS_TFTP satellites export", "passwd:0 passwd login host's accounts", "server/image/70-x.sh:0 server/image/70-x.sh script of",
		"ssh_known_hosts:0 ssh_known_hosts pinned keys", "xorg.conf:0 xorg.conf image's file",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReviewOfWhatDoesNotParse(t *testing.T) {
	t.Parallel()
	got := ltspimport.Review(policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Content: []byte("\x00")}})
	if len(got) != 1 || got[0].What != "syntax" || got[0].Do == "" {
		t.Errorf("remarks %v", got)
	}
}
