//go:build component

package dhcp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// vmPatience bounds a boot in a virtual machine; one takes 5 to 25 s on a quiet machine.
const vmPatience = 240 * time.Second

const vmUUID = "67000000-1234-5678-8000-0000000000ab"

// bootServices starts HTTP and TFTP on the satellite. Requests for the script are sent to the channel.
func (l *lab) bootServices() <-chan string {
	l.t.Helper()
	loader, err := os.ReadFile("/usr/lib/ipxe/snponly.efi")
	if err != nil {
		l.t.Fatal(err)
	}
	root := l.t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "ltsp"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "ltsp/snponly.efi"), loader, 0o644); err != nil {
		l.t.Fatal(err)
	}
	_, tftp := start(l.t, l.sat, testnet.Proc{Path: "sh", Args: []string{"-c",
		"exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan --bind-interfaces --user=root --enable-tftp --tftp-root=" +
			root + " --log-facility=- 2>&1"}})
	tftp.expect("TFTP root")
	scripts := make(chan string, 10)
	mux := http.NewServeMux()
	mux.HandleFunc("/boot.ipxe", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "#!ipxe\necho SCRIPT RUNS ${net0/ip}\nsleep 3600\n")
		query, err := url.QueryUnescape(r.URL.RawQuery) // iPXE escapes the colons
		if err != nil {
			query = err.Error()
		}
		scripts <- query
	})
	mux.HandleFunc("/boot/loader/snponly.efi", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "snponly.efi", time.Time{}, strings.NewReader(string(loader)))
	})
	web, err := l.sat.Listen(l.t.Context(), "tcp", ":80")
	if err != nil {
		l.t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go srv.Serve(web)
	l.t.Cleanup(func() { srv.Close() })
	return scripts
}

// foreignDHCP starts a router that gives addresses and nothing else.
func (l *lab) foreignDHCP() {
	_, out := start(l.t, l.host("rt", "192.168.67.254/24"), testnet.Proc{Path: "sh", Args: []string{"-c",
		"exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan --bind-interfaces --user=root --no-ping " +
			"--leasefile-ro --dhcp-range=192.168.67.180,192.168.67.190,12h --log-facility=- 2>&1"}})
	out.expect("DHCP, IP range")
}

// boot switches a machine on and waits until its iPXE runs the script.
func (l *lab) boot(firmware testvm.Firmware, scripts <-chan string) (query string, wait time.Duration) {
	l.t.Helper()
	rack, err := testvm.New(l.t.Context(), testvm.Config{Dir: l.t.TempDir(), Log: l.t.Logf})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { rack.Close() })
	tap, err := l.lan.Tap("vm0")
	if err != nil {
		l.t.Fatal(err)
	}
	vm, err := rack.Start(l.t.Context(), testvm.Machine{
		Name: "pc", Firmware: firmware, Tap: tap, MAC: "52:54:00:67:00:10", UUID: vmUUID, SkipBanner: true,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), vmPatience)
	defer cancel()
	expect := func(pattern string) testvm.Match {
		m, err := vm.Expect(ctx, pattern)
		if err != nil {
			l.t.Fatalf("%v; console:\n%s", err, vm.Console())
		}
		return m
	}
	if firmware != testvm.BIOS {
		m := expect(`iPXE initialising devices`)
		l.t.Logf("firmware has loaded iPXE %s after power on", m.At)
	}
	banner := expect(`Configuring \(net`)
	next := expect(`Next server|Filename: `)
	expect(`SCRIPT RUNS 192\.168\.67\.`)
	return <-scripts, next.At - banner.At
}

func TestFirmwareBoots(t *testing.T) {
	for _, tc := range []struct {
		name     string
		firmware testvm.Firmware
		mode     Mode
		want     []string // events in this order
		query    string
	}{
		{"BIOS iPXE", testvm.BIOS, Authoritative, []string{"discover ipxe", "offer ipxe", "ack ipxe"}, "&arch=i386&platform=pcbios"},
		{"BIOS iPXE proxy", testvm.BIOS, Proxy, []string{"discover ipxe", "proxy-offer ipxe"}, "&arch=i386&platform=pcbios"},
		{"UEFI PXE", testvm.UEFI, Authoritative, []string{
			"discover firmware", "offer firmware", "ack firmware", "discover ipxe", "offer ipxe", "ack ipxe",
		}, "&arch=x86_64&platform=efi"},
		{"UEFI PXE proxy", testvm.UEFI, Proxy, []string{
			"discover firmware", "proxy-offer firmware", "boot-ack firmware", "discover ipxe", "proxy-offer ipxe",
		}, "&arch=x86_64&platform=efi"},
		{"UEFI HTTP", testvm.UEFIHTTP, Authoritative, []string{
			"discover firmware", "offer firmware", "ack firmware", "discover ipxe", "offer ipxe", "ack ipxe",
		}, "&arch=x86_64&platform=efi"},
		{"UEFI HTTP proxy", testvm.UEFIHTTP, Proxy, []string{
			"discover firmware", "proxy-offer firmware", "discover ipxe", "proxy-offer ipxe",
		}, "&arch=x86_64&platform=efi"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, tc.mode)
			scripts := l.bootServices()
			if tc.mode == Proxy {
				l.foreignDHCP()
			}
			srv, events := l.serve()
			query, wait := l.boot(tc.firmware, scripts)
			t.Logf("iPXE: %s from its DHCP to the next server", wait)
			if want := "mac=52:54:00:67:00:10&uuid=" + vmUUID + tc.query; query != want {
				t.Errorf("script was asked for with %q, want %q", query, want)
			}
			said := l.stop(srv, events)
			rest := said
			for _, step := range tc.want {
				i := strings.Index(rest, "event "+step)
				if i < 0 {
					t.Fatalf("no %q in its place; events:\n%s", step, said)
				}
				rest = rest[i+1:]
			}
			for line := range strings.Lines(said) {
				if strings.HasPrefix(line, "event") && !strings.Contains(line, " "+vmUUID+" ") {
					t.Errorf("firmware and iPXE don't name one UUID: %s", line)
				}
			}
		})
	}
}
