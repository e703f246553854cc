//go:build component

package integration

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestStrangers: other people's programs in the classroom of a running site with two satellites.
func TestStrangers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "fastr")
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"})
	f.joined(school.Joining{Name: "sat2", WAN: "10.77.0.12/24", LAN: "192.168.67.2/24"})
	file := f.image(1, 20*megabyte)
	published := f.publish(school.Publishing{File: file})
	for _, name := range []string{"sat1", "sat2"} {
		f.awaitVersion(name, published.Version.ID)
	}
	c := &classroom{fleet: f, pc: f.pc("pc1", "192.168.67.201/24"), file: file, published: published}
	for _, sub := range []struct {
		name string
		do   func(*classroom)
	}{
		{"curl", (*classroom).curl}, {"TFTP clients", (*classroom).tftp}, {"NBD clients", (*classroom).nbd},
		{"udhcpc", (*classroom).udhcpc}, {"dhclient", (*classroom).dhclient}, {"members", (*classroom).members},
	} {
		t.Run(sub.name, func(t *testing.T) {
			in := *c
			in.fleet = f.in(t)
			sub.do(&in)
		})
	}
	for _, name := range []string{"sat1", "sat2"} {
		if f.logHas(name, "level=ERROR") {
			t.Errorf("strangers made errors in the log of %s", name)
		}
	}
}

// classroom is a site whose satellites serve one version, and a PC with an address.
type classroom struct {
	*fleet
	pc        *testnet.Host
	file      string
	published *school.Published
}

// say runs a program on the PC and returns what it printed; the error text follows if it fails.
func (c *classroom) say(program string, args ...string) string {
	c.t.Helper()
	out, err := c.Run(c.ctx(), c.pc, program, args...)
	if err != nil {
		out += err.Error()
	}
	return out
}

// onDisk reads a file of the version in the satellite's data directory.
func (c *classroom) onDisk(name string) []byte {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.DataDir("sat1"), "images", c.published.Version.ID, name))
	c.must(err)
	return data
}

// fetched wants the file that a client made to be equal to want, and removes it.
func (c *classroom) fetched(what, path string, want []byte) {
	c.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
		c.t.Errorf("%s: %d bytes (%v), want %d others", what, len(got), err, len(want))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Error(err)
	}
}

func (c *classroom) curl() {
	const base = "http://" + satellite
	got := filepath.Join(c.Dir, "curled")
	script := c.say("curl", "-sSf", base+"/boot.ipxe?mac=52:54:00:67:00:01")
	if !strings.HasPrefix(script, "#!ipxe\n") || !strings.Contains(script, c.published.Version.ID) {
		c.t.Errorf("boot script:\n%s", script)
	}
	for _, name := range []string{"kernel", "initrd-full", "initrd-school"} {
		want := c.onDisk(name)
		url := base + "/boot/v/" + c.published.Version.ID + "/" + name
		c.say("curl", "-sSf", "-o", got, url)
		c.fetched(name, got, want)
		from, to := len(want)/3, len(want)/2
		if out := c.say("curl", "-sSf", "-o", got, "-w", "%{http_code}", "-r", fmt.Sprintf("%d-%d", from, to), url); out != "206" {
			c.t.Errorf("range of %s: %s", name, out)
		}
		c.fetched("range of "+name, got, want[from:to+1])
		c.must(os.WriteFile(got, want[:from], 0o644))
		c.say("curl", "-sSf", "-o", got, "-C", "-", url)
		c.fetched(name+" resumed", got, want)
		head := c.say("curl", "-sSI", url)
		if !strings.HasPrefix(head, "HTTP/1.1 200") || !strings.Contains(head, fmt.Sprintf("Content-Length: %d\r\n", len(want))) || !strings.Contains(head, "Accept-Ranges: bytes") {
			c.t.Errorf("HEAD of %s:\n%s", name, head)
		}
	}
	c.say("curl", "-sSf", "--path-as-is", "-o", got, base+"//boot//v///"+c.published.Version.ID+"//kernel")
	c.fetched("kernel with doubled slashes", got, c.onDisk("kernel"))
	c.say("curl", "-sSf", "--path-as-is", "-o", got, base+"//ltsp//"+school.ImageName+"//initrd.img")
	c.fetched("initrd by LTSP's name", got, c.onDisk("initrd-full"))
	for path, want := range map[string]string{
		"/../../etc/passwd": "404", "/boot/v/" + c.published.Version.ID + "/disk": "404", "/boot/v/" + c.published.Version.ID + "/squashfs": "404",
		"/boot/v/" + c.published.Version.ID + "/../../../identity.json": "404", "/boot/v/" + strings.Repeat("0", 64) + "/kernel": "404", "/": "404",
		"/%00": "404", "/boot.ipxe?mac=nonsense": "400",
	} {
		if out := c.say("curl", "-s", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", base+path); out != want {
			c.t.Errorf("%s: %s, want %s", path, out, want)
		}
	}
	if out := c.say("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-T", c.file, base+"/boot.ipxe"); out != "405" {
		c.t.Errorf("PUT: %s", out)
	}
}

func (c *classroom) tftp() {
	want, err := os.ReadFile("/usr/lib/ipxe/undionly.kpxe")
	c.must(err)
	got := filepath.Join(c.Dir, "tftped")
	for _, name := range []string{"ltsp/undionly.kpxe", "undionly.kpxe", "/ltsp/undionly.kpxe"} {
		c.say("tftp", "-m", "binary", satellite, "-c", "get", name, got)
		c.fetched("tftp-hpa "+name, got, want)
	}
	c.say("atftp", "-g", "-r", "ltsp/undionly.kpxe", "-l", got, satellite)
	c.fetched("atftp", got, want)
	c.say("atftp", "--option", "blksize 1428", "--option", "tsize 0", "-g", "-r", "ltsp/undionly.kpxe", "-l", got, satellite)
	c.fetched("atftp with blksize", got, want)
	if out := c.say("tftp", "-m", "binary", satellite, "-c", "get", "../identity.json", got); !strings.Contains(out, "Error code 1") {
		c.t.Errorf("out of the tree: %s", out)
	}
	if out := c.say("tftp", "-m", "binary", satellite, "-c", "put", c.file, "undionly.kpxe"); !strings.Contains(out, "Error code 2") {
		c.t.Errorf("put: %s", out)
	}
}

func (c *classroom) nbd() {
	sum, size := c.disk(c.file, c.published)
	for _, server := range []string{satellite, "192.168.67.2"} {
		list, err := c.exports(c.pc, server)
		c.must(err)
		if want := []export{{Name: c.published.ExportName(), Size: size, ReadOnly: true, Multi: true}}; !slices.Equal(list, want) {
			c.t.Errorf("%s exports %+v, want %+v", server, list, want)
		}
		copied, err := c.copyExport(c.pc, server, c.published.ExportName())
		c.must(err)
		if got, n := c.sum(copied); got != sum || n != size {
			c.t.Errorf("nbdcopy from %s: SHA-256 %s in %d bytes, want %s in %d", server, got, n, sum, size)
		}
		c.must(c.samePrefix(copied))
		uri := "nbd://" + server + "/" + c.published.ExportName()
		if out := c.say("qemu-img", "compare", "-f", "raw", "-F", "raw", copied, uri); !strings.Contains(out, "identical") {
			c.t.Errorf("qemu-img compare with %s: %s", server, out)
		}
	}
	if out := c.say("unsquashfs", "-s", filepath.Join(c.Dir, "copied")); !strings.Contains(out, "SQUASHFS 4") {
		c.t.Errorf("unsquashfs: %s", out)
	}
	if _, err := c.copyExport(c.pc, satellite, school.ImageName+"@"+strings.Repeat("0", 64)); err == nil {
		c.t.Error("an export that nobody published can be copied")
	}
}

// samePrefix compares the published file's SHA-256 with that of as many bytes of a copied export.
func (c *classroom) samePrefix(copied string) error {
	data, err := os.ReadFile(copied)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data[:min(len(data), int(c.published.Version.SizeBytes))])
	if got := hex.EncodeToString(sum[:]); got != c.published.Version.SHA256 {
		return fmt.Errorf("the export begins with SHA-256 %s, published is %s", got, c.published.Version.SHA256)
	}
	return nil
}

// Both scripts set no route and no resolver: those are files of the machine that runs the test.
const (
	udhcpcScript = `#!/bin/sh
case "$1" in
deconfig) ip addr flush dev $interface; ip link set $interface up;;
bound|renew) ip addr replace $ip/$mask dev $interface;;
esac
echo "$1 ip=$ip router=$router dns=$dns server=$serverid"
`
	dhclientScript = `#!/bin/sh
case "$reason" in
PREINIT) ip link set $interface up;;
BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface;;
esac
echo "$reason ip=$new_ip_address router=$new_routers dns=$new_domain_name_servers server=$new_dhcp_server_identifier"
`
)

// dhcpClient runs a client in a host without an address; its script's words come as lines.
func (c *classroom) dhcpClient(host, script, program string, args ...string) (*testnet.Process, <-chan string) {
	c.t.Helper()
	hook := filepath.Join(c.Dir, host+".sh")
	c.must(os.WriteFile(hook, []byte(script), 0o755))
	read, write, err := os.Pipe()
	c.must(err)
	p, err := c.fleet.pc(host).Start(c.t.Context(), testnet.Proc{Path: program, Args: args, Stdout: write, LogFile: filepath.Join(c.Dir, host+".log")})
	write.Close()
	c.must(err)
	said := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(said)
		for s := bufio.NewScanner(read); s.Scan(); {
			said <- s.Text()
		}
	}()
	c.t.Cleanup(func() {
		if err := p.Kill9(); err != nil {
			c.t.Error(err)
		}
		read.Close()
		<-done
	})
	return p, said
}

// hears waits for a line that begins with a word and returns the address in it, which must be of the range and from the satellite.
func (c *classroom) hears(said <-chan string, word string) netip.Addr {
	c.t.Helper()
	timeout := time.After(patience)
	var all []string
	for {
		select {
		case line, ok := <-said:
			if !ok {
				c.t.Fatalf("the client ended before it said %q: %q", word, all)
			}
			all = append(all, line)
			if !strings.HasPrefix(line, word+" ") {
				continue
			}
			for _, want := range []string{" router=192.168.67.1 ", " dns=192.168.67.1 ", " server=" + satellite} {
				if !strings.Contains(line+" ", want) {
					c.t.Errorf("%q lacks %q", line, want)
				}
			}
			_, rest, _ := strings.Cut(line, "ip=")
			addr, err := netip.ParseAddr(strings.Fields(rest)[0])
			if err != nil || addr.Less(netip.MustParseAddr("192.168.67.20")) || netip.MustParseAddr("192.168.67.150").Less(addr) {
				c.t.Errorf("%q: the address is not of the range", line)
			}
			return addr
		case <-timeout:
			c.t.Fatalf("the client never said %q: %q", word, all)
		}
	}
}

func (c *classroom) udhcpc() {
	p, said := c.dhcpClient("dh1", udhcpcScript, "udhcpc", "-f", "-i", "lan", "-s", filepath.Join(c.Dir, "dh1.sh"), "-T", "1", "-t", "10")
	bound := c.hears(said, "bound")
	c.must(p.Signal(syscall.SIGUSR1))
	if renewed := c.hears(said, "renew"); renewed != bound {
		c.t.Errorf("renewal gave %s instead of %s", renewed, bound)
	}
	// A satellite that loses its power has not forgotten the lease.
	c.must(c.Kill9("sat1"))
	c.start("sat1")
	c.awaitLog("sat1", 2, "interface served")
	c.must(p.Signal(syscall.SIGUSR1))
	if renewed := c.hears(said, "renew"); renewed != bound {
		c.t.Errorf("renewal after a crash gave %s instead of %s", renewed, bound)
	}
	_, other := c.dhcpClient("dh2", udhcpcScript, "udhcpc", "-f", "-i", "lan", "-s", filepath.Join(c.Dir, "dh2.sh"), "-T", "1", "-t", "10", "-r", bound.String())
	if addr := c.hears(other, "bound"); addr == bound {
		c.t.Errorf("%s was given to two", addr)
	}
}

// dhclient renews by itself after two seconds, because its configuration says so.
func (c *classroom) dhclient() {
	conf := filepath.Join(c.Dir, "dhclient.conf")
	c.must(os.WriteFile(conf, []byte("timeout 60;\ninitial-interval 1;\nsupersede dhcp-renewal-time 2;\n"), 0o600))
	_, said := c.dhcpClient("dh3", dhclientScript, "dhclient", "-4", "-d", "-v", "-cf", conf, "-sf", filepath.Join(c.Dir, "dh3.sh"),
		"-lf", filepath.Join(c.Dir, "dh3.leases"), "-pf", filepath.Join(c.Dir, "dh3.pid"), "lan")
	bound := c.hears(said, "BOUND")
	if renewed := c.hears(said, "RENEW"); renewed != bound {
		c.t.Errorf("renewal gave %s instead of %s", renewed, bound)
	}
}

// awaitLog waits until so many lines of a daemon's log have the text.
func (c *classroom) awaitLog(daemon string, times int, text string) {
	c.t.Helper()
	c.must(c.Await(c.ctx(), fmt.Sprintf("%q in the log of %s", text, daemon), func() error {
		data, err := os.ReadFile(c.LogFile(daemon))
		if n := strings.Count(string(data), text); err == nil && n < times {
			err = fmt.Errorf("it is there %d times", n)
		}
		return err
	}))
}

// members: satellites of a site know each other, what each has, and that one is gone.
func (c *classroom) members() {
	want := func(asked, other, state string) {
		c.t.Helper()
		c.must(c.Await(c.ctx(), fmt.Sprintf("%s sees %s as %s", asked, other, state), func() error {
			info, err := c.SatelliteInfo(c.ctx(), asked)
			if err != nil {
				return err
			}
			for _, m := range info.Members {
				if m.Name == other && m.State == state && (state != "alive" || slices.Contains(m.Versions, c.published.ExportName())) {
					return nil
				}
			}
			return fmt.Errorf("members are %+v", info.Members)
		}))
	}
	want("sat1", "sat2", "alive")
	want("sat2", "sat1", "alive")
	want("sat1", "sat1", "alive")
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	c.must(c.Stop(ctx, "sat2"))
	c.must(c.Await(ctx, "sat1 notices that sat2 has left", func() error {
		info, err := c.SatelliteInfo(ctx, "sat1")
		if err != nil {
			return err
		}
		for _, m := range info.Members {
			if m.Name == "sat2" && m.State == "alive" {
				return fmt.Errorf("members are %+v", info.Members)
			}
		}
		return nil
	}))
	c.start("sat2")
	want("sat1", "sat2", "alive")
}
