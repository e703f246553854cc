package school

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// LoginHostAddr is the address of the login and home host in the classroom LAN.
const LoginHostAddr = "192.168.67.3"

// peoplePackages are what an image needs for users who log in by ssh, have homes elsewhere and run remote applications; the login host has the same.
var peoplePackages = []string{"dbus", "libpam-systemd", "openssh-client", "openssh-server", "sshfs", "nfs-common", "cron", "login", "passwd",
	"lightdm", "x11-apps", "x11-utils", "xauth", "xvfb"}

// LoginHost is the machine where the site's users have their accounts and homes: a Debian root of its own with OpenSSH's server, in a namespace on
// the classroom LAN. Its methods are not safe for concurrent use.
type LoginHost struct {
	Host *testnet.Host
	Root string // of its files, as the test sees them

	s    *School
	sshd *testnet.Process
	nfs  *testnet.Process
}

// LoginHost makes the login host and starts its sshd. It has no users yet but Debian's own.
func (s *School) LoginHost(ctx context.Context) (*LoginHost, error) {
	archive, err := testimage.Build(ctx, testimage.Config{CacheDir: s.Cache, Log: s.Log, Packages: peoplePackages})
	if err != nil {
		return nil, err
	}
	h := &LoginHost{s: s, Root: s.path("loginhost")}
	if err := os.Mkdir(h.Root, 0o755); err != nil {
		return nil, err
	}
	if err := testimage.Unpack(ctx, archive, h.Root); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(h.Root, "usr/lib/modules")); err != nil { // a host of its own kernel needs none
		return nil, err
	}
	// It is a router between the admin's desk and itself, so that the desk can see its host key.
	if h.Host, err = s.Lab.Host("login", s.LAN.At(LoginHostAddr+"/24"), s.WAN.At("10.77.0.50/24")); err != nil {
		return nil, err
	}
	if err := s.desk.IP("route", "add", LoginHostAddr+"/32", "via", "10.77.0.50"); err != nil {
		return nil, err
	}
	if err := h.prepare(ctx); err != nil {
		return nil, err
	}
	return h, h.StartSSH(ctx)
}

// prepare gives the host the account that satellites read accounts with, and a sshd that forwards X.
func (h *LoginHost) prepare(ctx context.Context) error {
	const settings = "X11Forwarding yes\nX11UseLocalhost yes\nUsePAM yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nPermitRootLogin no\nUseDNS no\n"
	if err := os.WriteFile(filepath.Join(h.Root, "etc/ssh/sshd_config.d/school.conf"), []byte(settings), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(h.Root, "run/sshd"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.Root, "etc/hosts"), []byte("127.0.0.1 localhost\n"+LoginHostAddr+" server\n"), 0o644); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "ssh-keygen", "-A"); err != nil {
		return err
	}
	_, err := h.Run(ctx, "useradd", "--system", "--create-home", "--home-dir", "/var/lib/ltsp", "--shell", "/bin/sh", "ltsp")
	return err
}

// Run runs a program in the host's root and returns its standard output.
func (h *LoginHost) Run(ctx context.Context, args ...string) (string, error) {
	return h.s.Run(ctx, h.Host, "chroot", append([]string{h.Root}, args...)...)
}

// mounted is a shell command that gives a process the mounts that a system has, and replaces itself by the command's arguments in the root $0.
const mounted = `set -e
mount -t proc proc "$0/proc"
mount -t tmpfs -o mode=755 tmpfs "$0/dev"
for n in null zero full random urandom tty; do touch "$0/dev/$n"; mount --bind "/dev/$n" "$0/dev/$n"; done
mkdir "$0/dev/pts" "$0/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$0/dev/pts"
ln -s pts/ptmx "$0/dev/ptmx"
ln -s /proc/self/fd "$0/dev/fd"
mount -t tmpfs tmpfs "$0/dev/shm"
exec chroot "$0" "$@"`

// StartSSH starts the host's sshd and waits until it answers.
func (h *LoginHost) StartSSH(ctx context.Context) (err error) {
	h.sshd, err = h.Host.Start(h.s.life, testnet.Proc{Path: "unshare", LogFile: h.s.path("sshd.log"), Args: []string{
		"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", mounted, h.Root, "/usr/sbin/sshd", "-D", "-e", "-p", "22"}})
	if err != nil {
		return err
	}
	return h.s.Await(ctx, "the login host's sshd answers", func() error {
		conn, err := h.Host.Dial(ctx, "tcp", LoginHostAddr+":22")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// StopSSH ends the host's sshd and all its connections.
func (h *LoginHost) StopSSH() error {
	if h.sshd == nil {
		return errors.New("the login host's sshd does not run")
	}
	p := h.sshd
	h.sshd = nil
	return p.Kill9()
}

// AddUser makes an account with a home and a password.
func (h *LoginHost) AddUser(ctx context.Context, name, password string) error {
	if _, err := h.Run(ctx, "useradd", "--create-home", "--shell", "/bin/bash", name); err != nil {
		return err
	}
	_, err := h.Run(ctx, "sh", "-c", `echo "$0:$1" | chpasswd -c SHA256`, name, password)
	return err
}

// HostKeys are the public host keys without their comments, as known_hosts has them.
func (h *LoginHost) HostKeys() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(h.Root, "etc/ssh/ssh_host_*_key.pub"))
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		words := strings.Fields(string(text))
		if len(words) < 2 {
			return nil, fmt.Errorf("%s is no public key", file)
		}
		keys = append(keys, words[0]+" "+words[1])
	}
	if len(keys) == 0 {
		return nil, errors.New("the login host has no host keys")
	}
	return keys, nil
}

// ChangeHostKeys gives the host other keys, as somebody in its place would have.
func (h *LoginHost) ChangeHostKeys(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(h.Root, "etc/ssh/ssh_host_*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	_, err = h.Run(ctx, "ssh-keygen", "-A")
	return err
}

// Authorize lets the holder of a key (authorized_keys format) in as user.
func (h *LoginHost) Authorize(ctx context.Context, user, line string) error {
	_, err := h.Run(ctx, "sh", "-c", `set -e
home=$(getent passwd "$0" | cut -d: -f6)
mkdir -p "$home/.ssh"
printf '%s\n' "$1" >>"$home/.ssh/authorized_keys"
chown -R "$0:" "$home/.ssh"
chmod 700 "$home/.ssh"`, user, line)
	return err
}

// StartNFS exports the host's /home by nfs-ganesha, a server in user space, and waits until it listens.
func (h *LoginHost) StartNFS(ctx context.Context) (err error) {
	conf, pid := h.s.path("ganesha.conf"), h.s.path("ganesha.pid")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(ganesha, filepath.Join(h.Root, "home"))), 0o644); err != nil {
		return err
	}
	h.nfs, err = h.Host.Start(h.s.life, testnet.Proc{Path: "unshare", LogFile: h.s.path("ganesha.out"), Args: []string{
		// Its state would lie in /var/lib of this machine, and D-Bus in /run.
		"--mount", "--propagation", "private", "sh", "-c",
		`mkdir -p /var/lib/nfs/ganesha /run/dbus && mount -t tmpfs tmpfs /var/lib/nfs/ganesha && mount -t tmpfs tmpfs /run && mkdir -p /run/ganesha && exec "$@"`,
		"sh", "ganesha.nfsd", "-F", "-f", conf, "-p", pid, "-L", h.s.path("ganesha.log"), "-N", "NIV_EVENT"}})
	if err != nil {
		return err
	}
	return h.s.Await(ctx, "the login host's NFS server answers", func() error {
		conn, err := h.Host.Dial(ctx, "tcp", LoginHostAddr+":2049")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// ganesha is the server's configuration: one export, of the directory that is put in, over TCP, with plain numbers for owners as LTSP's own exports have.
const ganesha = `NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSV4 { Grace_Period = 5; Lease_Lifetime = 10; Only_Numeric_Owners = true; Minor_Versions = 0, 1, 2; }
EXPORT {
  Export_Id = 1;
  Path = %q;
  Pseudo = /home;
  Access_Type = RW;
  Squash = No_Root_Squash;
  SecType = sys;
  Protocols = 4;
  Transports = TCP;
  FSAL { Name = VFS; }
}
`

// LDAPBase is the suffix of the login host's directory.
const LDAPBase = "dc=school,dc=example"

// StartLDAP serves a directory with one person by OpenLDAP's slapd, and waits until it answers. The person has an account on the host too, with
// the same number and password, and a home.
func (h *LoginHost) StartLDAP(ctx context.Context, person, password string) error {
	if err := h.AddUser(ctx, person, password); err != nil {
		return err
	}
	numbers, err := h.Run(ctx, "id", "-u", person)
	if err != nil {
		return err
	}
	dir := h.s.path("ldap")
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	conf, entries := filepath.Join(dir, "slapd.conf"), filepath.Join(dir, "entries.ldif")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(slapdConf, LDAPBase, filepath.Join(dir, "data"), LDAPBase)), 0o600); err != nil {
		return err
	}
	text := strings.NewReplacer("BASE", LDAPBase, "PERSON", person, "PASSWORD", password, "NUMBER", strings.TrimSpace(numbers)).Replace(ldapEntries)
	if err := os.WriteFile(entries, []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := h.s.Run(ctx, h.Host, "slapadd", "-f", conf, "-l", entries); err != nil {
		return err
	}
	url := "ldap://" + LoginHostAddr + ":389"
	if _, err := h.Host.Start(h.s.life, testnet.Proc{Path: "slapd", Args: []string{"-f", conf, "-h", url, "-d", "0"}, LogFile: h.s.path("slapd.log")}); err != nil {
		return err
	}
	return h.s.Await(ctx, "the directory answers", func() error {
		_, err := h.s.Run(ctx, h.Host, "ldapwhoami", "-x", "-H", url, "-D", "uid="+person+",ou=people,"+LDAPBase, "-w", password)
		return err
	})
}

const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix %q
directory %q
maxsize 16777216
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree=%q by * read
`

const ldapEntries = `dn: BASE
objectClass: dcObject
objectClass: organization
o: school
dc: school

dn: ou=people,BASE
objectClass: organizationalUnit
ou: people

dn: uid=PERSON,ou=people,BASE
objectClass: account
objectClass: posixAccount
uid: PERSON
cn: PERSON
uidNumber: NUMBER
gidNumber: NUMBER
homeDirectory: /home/PERSON
loginShell: /bin/bash
userPassword: PASSWORD

dn: cn=PERSON,BASE
objectClass: posixGroup
cn: PERSON
gidNumber: NUMBER
`
