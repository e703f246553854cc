package dhcp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

const script = "http://192.168.67.1/boot.ipxe?mac=52:54:00:67:00:10"

// bootParts is what a boot client looks at.
type bootParts struct {
	File, Bootfile, Server, Class, PXE, IPXE string
}

func partsOf(m *dhcpv4.DHCPv4) bootParts {
	p := bootParts{
		File: m.BootFileName, Bootfile: m.BootFileNameOption(), Class: m.ClassIdentifier(),
		PXE: string(m.Options[43]), IPXE: string(m.Options[175]),
	}
	if a := ip4(m.ServerIPAddr); a.IsValid() {
		p.Server = a.String()
	}
	return p
}

const useBootFile = "\x06\x01\x08\xff"

func TestAuthoritativeBootAnswers(t *testing.T) {
	const us, noWait = "192.168.67.1", "\xb0\x01\x01\xff"
	loader := "http://192.168.67.1/boot/loader/snponly.efi"
	for name, tc := range map[string]struct {
		mods []dhcpv4.Modifier
		want bootParts
	}{
		"plain client":        {nil, bootParts{}},
		"BIOS":                {pxe(0), bootParts{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", us, "PXEClient", useBootFile, ""}},
		"x86-64 EFI":          {pxe(7), bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", us, "", "", ""}},
		"EFI byte code":       {pxe(9), bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", us, "", "", ""}},
		"IA32 EFI":            {pxe(6), bootParts{}},
		"ARM64":               {pxe(11), bootParts{}},
		"HTTP 16":             {httpBoot(16), bootParts{loader, loader, us, "HTTPClient", "", ""}},
		"HTTP 15":             {httpBoot(15), bootParts{loader, loader, us, "HTTPClient", "", ""}},
		"HTTP ARM64":          {httpBoot(19), bootParts{}},
		"class without 93":    {[]dhcpv4.Modifier{generic(60, []byte("PXEClient:Arch:00007:UNDI:003000")...)}, bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", us, "", "", ""}},
		"iPXE BIOS":           {ipxe(0, 19, 39, 33, 24), bootParts{script + "&arch=i386&platform=pcbios", script + "&arch=i386&platform=pcbios", us, "", "", noWait}},
		"iPXE EFI":            {ipxe(7, 19, 39, 36), bootParts{script + "&arch=x86_64&platform=efi", script + "&arch=x86_64&platform=efi", us, "", "", noWait}},
		"iPXE without HTTP":   {ipxe(7, 39, 36), bootParts{"ltsp/ltsp.ipxe", "ltsp/ltsp.ipxe", us, "", "", noWait}},
		"iPXE without menu":   {ipxe(7, 19, 36), bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", us, "", "", noWait}},
		"iPXE without bzimg":  {ipxe(0, 19, 39, 33), bootParts{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", us, "", "", noWait}},
		"iPXE by raw class":   {append(pxe(0), generic(77, []byte("iPXE")...)), bootParts{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", us, "", "", noWait}},
		"iPXE by RFC 3004":    {append(pxe(0), generic(77, []byte("\x04iPXE")...)), bootParts{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", us, "", "", noWait}},
		"other user class":    {append(pxe(7), generic(77, []byte("\x03foo")...)), bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", us, "", "", ""}},
		"iPXE HTTP boot arch": {append(ipxe(16, 19, 39, 36), generic(60, []byte("HTTPClient:Arch:00016")...)), bootParts{script + "&arch=x86_64&platform=efi", script + "&arch=x86_64&platform=efi", us, "", "", noWait}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newBench(t, Authoritative).say(client(dhcpv4.MessageTypeDiscover, tc.mods...), 67).reply.msg
			if d := cmp.Diff(tc.want, partsOf(m)); d != "" {
				t.Errorf("boot answer (-want +got):\n%s", d)
			}
			if !ip4(m.YourIPAddr).IsValid() {
				t.Error("no address")
			}
		})
	}
}

func TestProxyBootAnswers(t *testing.T) {
	const us, pxeClient = "192.168.67.1", "PXEClient"
	loader := "http://192.168.67.1/boot/loader/snponly.efi"
	for name, tc := range map[string]struct {
		mods []dhcpv4.Modifier
		want bootParts
	}{
		"BIOS":       {pxe(0), bootParts{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", us, pxeClient, useBootFile, ""}},
		"x86-64 EFI": {pxe(7), bootParts{"", "", us, pxeClient, "", ""}},
		"HTTP":       {httpBoot(16), bootParts{loader, loader, us, "HTTPClient", "", ""}},
		"iPXE":       {ipxe(7, 19, 39, 36), bootParts{script + "&arch=x86_64&platform=efi", script + "&arch=x86_64&platform=efi", us, pxeClient, useBootFile, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			out := newBench(t, Proxy).say(client(dhcpv4.MessageTypeDiscover, append(tc.mods, generic(97, make([]byte, 17)...))...), 67)
			m := out.reply.msg
			if d := cmp.Diff(tc.want, partsOf(m)); d != "" {
				t.Errorf("boot answer (-want +got):\n%s", d)
			}
			if ip4(m.YourIPAddr).IsValid() || m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || m.Options.Has(dhcpv4.OptionSubnetMask) || m.Options.Has(dhcpv4.OptionRouter) {
				t.Errorf("a proxy gave an address:\n%s", m.Summary())
			}
			if m.MessageType() != dhcpv4.MessageTypeOffer || out.reply.to.addr.Addr() != broadcastAddr() || len(m.Options[97]) != 17 {
				t.Errorf("%s to %s", m.MessageType(), out.reply.to.addr)
			}
		})
	}
}

func TestProxyIsSilentForOthers(t *testing.T) {
	b := newBench(t, Proxy)
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"plain discover":         client(dhcpv4.MessageTypeDiscover),
		"other class":            client(dhcpv4.MessageTypeDiscover, generic(60, []byte("MSFT 5.0")...)),
		"nothing for this arch":  client(dhcpv4.MessageTypeDiscover, pxe(6)...),
		"PXE request on port 67": client(dhcpv4.MessageTypeRequest, append(pxe(0), requested("192.168.67.30"), serverID("192.168.67.1"))...),
		"release":                client(dhcpv4.MessageTypeRelease, append(pxe(0), dhcpv4.WithClientIP(ip("192.168.67.30")))...),
		"inform":                 client(dhcpv4.MessageTypeInform, append(pxe(0), dhcpv4.WithClientIP(ip("192.168.67.30")))...),
	} {
		t.Run(name, func(t *testing.T) {
			if out := b.say(m, 67); out.reply != nil || out.drop != dropNoBoot || len(out.records) > 0 {
				t.Errorf("got %+v", out)
			}
		})
	}
	if n := len(b.table.List()); n != 0 {
		t.Errorf("%d leases in proxy mode", n)
	}
}

func TestPort4011(t *testing.T) {
	const addr = "192.168.67.187"
	b := newBench(t, Proxy)
	from := func(mods []dhcpv4.Modifier, src string) outcome {
		m := client(dhcpv4.MessageTypeRequest, append(mods, dhcpv4.WithClientIP(ip(addr)), dhcpv4.WithBroadcast(true))...)
		return b.hear(m.ToBytes(), datagram{port: 4011, src: netip.MustParseAddrPort(src), dst: netip.MustParseAddr("192.168.67.1")})
	}
	for _, src := range []string{addr + ":4011", addr + ":68"} {
		out := from(pxe(7), src)
		want := bootParts{"ltsp/snponly.efi", "ltsp/snponly.efi", "192.168.67.1", "PXEClient", "", ""}
		if d := cmp.Diff(want, partsOf(out.reply.msg)); d != "" {
			t.Errorf("boot answer (-want +got):\n%s", d)
		}
		if out.reply.to.addr != netip.MustParseAddrPort(src) || !out.reply.msg.ClientIPAddr.Equal(ip(addr)) || out.reply.event.Kind != EventBootAck {
			t.Errorf("asked from %s, answered %+v", src, out.reply)
		}
	}
	if out := from(pxe(7), "10.6.6.6:53"); out.reply.to.addr != netip.MustParseAddrPort(addr+":68") {
		t.Errorf("forged source: answer goes to %s", out.reply.to.addr)
	}
	if out := from(append(pxe(7), serverID("192.168.67.2")), addr+":68"); out.drop != dropOtherServer {
		t.Errorf("for another server: %+v", out)
	}
	if out := from(nil, addr+":68"); out.drop != dropNoBoot {
		t.Errorf("plain client on 4011: %+v", out)
	}
	if out := from(pxe(6), addr+":68"); out.drop != dropNoBoot || !strings.Contains(out.note, "IA32") {
		t.Errorf("IA32: %+v", out)
	}
}

func TestLoaderConfig(t *testing.T) {
	l := NewLoaders(LoaderConfig{EFI64: "ltsp/ipxe.efi", ARM64: "ltsp/snponly-arm64.efi", HTTPPort: 8080})
	server := netip.MustParseAddr("10.0.0.1")
	for _, tc := range []struct {
		r    BootRequest
		want string
	}{
		{BootRequest{Arch: ArchEFI64}, "ltsp/ipxe.efi"},
		{BootRequest{Arch: ArchARM64}, "ltsp/snponly-arm64.efi"},
		{BootRequest{Arch: ArchARM64HTTP, HTTP: true}, "http://10.0.0.1:8080/boot/loader/snponly-arm64.efi"},
		{BootRequest{Arch: ArchEFI64HTTP, HTTP: true}, "http://10.0.0.1:8080/boot/loader/ipxe.efi"},
		{BootRequest{Arch: ArchARM64, IPXE: true, Features: 1<<FeatureHTTP | 1<<FeatureMenu | 1<<FeatureEFI, MAC: lease.MAC{2}, UUID: "u"},
			"http://10.0.0.1:8080/boot.ipxe?mac=02:00:00:00:00:00&uuid=u&arch=arm64&platform=efi"},
		{BootRequest{Arch: ArchNone}, ""},
		{BootRequest{Arch: 31}, ""},
	} {
		tc.r.Server = server
		if got := l.Loader(tc.r); got.File != tc.want || (got.File == "") == (got.Detail == "") {
			t.Errorf("%+v: got %+v, want %q", tc.r, got, tc.want)
		}
	}
}

func TestLoopGuard(t *testing.T) {
	now := time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)
	l := NewLoaders(LoaderConfig{Now: func() time.Time { return now }})
	round := func(mac, n byte) string {
		r := BootRequest{Arch: ArchBIOS, IPXE: true, MAC: lease.MAC{2, mac}, Transaction: [4]byte{n}, Server: netip.MustParseAddr("10.0.0.1")}
		first := l.Loader(r) // DISCOVER
		if again := l.Loader(r); again != first {
			t.Errorf("round %d: offer says %+v, ACK says %+v", n, first, again)
		}
		return first.File
	}
	got := []string{round(1, 1), round(1, 2), round(1, 3), round(2, 4)}
	now = now.Add(loopTime + time.Second)
	got = append(got, round(1, 5))
	want := []string{"ltsp/undionly.kpxe", "ltsp/undionly.kpxe", "ltsp/ltsp.ipxe", "ltsp/undionly.kpxe", "ltsp/undionly.kpxe"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("loaders (-want +got):\n%s", d)
	}
	for n := range 3 * maxGuarded {
		l.Loader(BootRequest{IPXE: true, MAC: lease.MAC{2, 0, byte(n >> 8), byte(n)}})
	}
	if n := len(l.guard.seen); n > maxGuarded {
		t.Errorf("guard remembers %d clients", n)
	}
}

func TestParseUUID(t *testing.T) {
	raw := []byte{0, 0x00, 0x00, 0x00, 0x67, 0x12, 0x34, 0x56, 0x78, 0x80, 0, 0, 0, 0, 0, 0, 0x10}
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"firmware":    {raw, "67000000-3412-7856-8000-000000000010"},
		"zero":        {make([]byte, 17), ""},
		"all ones":    {append([]byte{0}, []byte(strings.Repeat("\xff", 16))...), ""},
		"short":       {raw[:16], ""},
		"other type":  {append([]byte{1}, raw[1:]...), ""},
		"not present": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseUUID(tc.b); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestParseFeatures(t *testing.T) {
	for name, tc := range map[string]struct {
		b    []byte
		want Features
	}{
		"none":        {nil, 0},
		"some":        {[]byte{0, 19, 1, 1, 36, 1, 0, 39, 2, 1, 1, 255, 33, 1, 1}, 1<<19 | 1<<39},
		"truncated":   {[]byte{19, 1, 1, 39, 5, 1}, 1 << 19},
		"no length":   {[]byte{19, 1, 1, 39}, 1 << 19},
		"large codes": {[]byte{0xb1, 1, 1, 0xeb, 3, 1, 2, 3, 19, 1, 1}, 1 << 19},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseFeatures(tc.b); got != tc.want {
				t.Errorf("got %#x, want %#x", got, tc.want)
			}
		})
	}
	if Features(1).Has(64) || Features(1).Has(-1) || !Features(1).Has(0) {
		t.Error("Has is wrong at the ends")
	}
}
