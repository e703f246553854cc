package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// FuzzInForce has what may lie on the disk after a restart. Whatever is believed of it, clients get a state that they can read, of levels of the site.
func FuzzInForce(f *testing.F) {
	sum := func(b byte) string { return strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d,", b), 32), ",") }
	level := func(scope string, number, size int) string {
		return fmt.Sprintf(`{"Scope":%q,"Number":%d,"SHA256":[%s],"Size":%d}`, scope, number, sum(byte(number)), size)
	}
	whole := `{"revision":7,"site":"hill","layers":[` + level("organisation", 1, 9) + "," + level("site/hill", 2, 5) + "," + level("room/hill/r1", 3, 1<<20) +
		`],"rooms":{"` + pc1 + `":"r1"},"subnets":[{"cidr":"10.0.0.0/24","room":"r2"},{"cidr":"fd00::/64","room":"r1"}]}`
	for _, text := range []string{whole, `{}`, `null`, `{"site":"hill","layers":null,"rooms":null,"subnets":[{"cidr":"","room":"r1"}]}`,
		`{"site":"hill","layers":[` + level("organisation", 0, 1) + `]}`, `{"site":"hill","layers":[` + level("organisation", 1, -1) + `]}`,
		`{"site":"a/b","layers":[` + level("room/a/b", 1, 1) + `],"rooms":{"` + pc1 + `":""}}`} {
		f.Add([]byte(text), pc1, "10.0.0.20", "ipxe")
	}
	f.Add([]byte(whole), pc2, "::ffff:10.0.0.1", "../x")
	f.Fuzz(func(t *testing.T, text []byte, mac, addr, applet string) {
		s, err := parseSet(text)
		if err != nil {
			return
		}
		stored, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseSet(stored); err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("stored again as %s: %v", stored, err)
		}
		k := &Keeper{log: slog.New(slog.DiscardHandler), inForce: s, have: make(map[policy.Digest]map[string][]byte)}
		for d := range s.digests() {
			k.have[d] = map[string][]byte{policy.ConfName: []byte("A=1"), "ltsp-ipxe.conf": nil}
		}
		client, _ := netip.ParseAddr(addr) // the zero Addr is one that is not known
		state, err := k.State(mac, client, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := agentproto.ParsePolicyState(state.Text)
		if err != nil {
			t.Fatalf("state %s: %v", state.Text, err)
		}
		for _, l := range p.Layers {
			if l.Scope != "organisation" && l.Scope != "site/"+s.Site && !strings.HasPrefix(l.Scope, "room/"+s.Site+"/") {
				t.Errorf("a client of the site %q got %s", s.Site, l.Scope)
			}
		}
		for _, c := range k.Confs(k.Room(mac, client), applet) {
			if c.File != policy.ConfName && c.File != "ltsp-"+applet+".conf" {
				t.Errorf("applet %q got %s", applet, c.File)
			}
		}
	})
}

// FuzzArchive has archives as a controller may send them.
func FuzzArchive(f *testing.F) {
	for _, tree := range []policy.Tree{nil,
		{{Path: "etc", Kind: policy.Dir, Mode: 0o755}, {Path: "ltsp-ipxe.conf", Kind: policy.Regular, Mode: 0o644, Content: []byte("A=1")},
			{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o600}},
		{{Path: "ltsp.conf", Kind: policy.Symlink, Content: []byte("x")}}} {
		archive, err := tree.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		gone := bytes.Clone(archive)
		confs, err := configurations(gone)
		if err != nil {
			return
		}
		clear(gone) // what was taken out does not hang on it
		tree, err := policy.Decode(archive)
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string]string)
		for _, f := range tree {
			if policy.IsConf(f.Path) && f.Kind == policy.Regular {
				want[f.Path] = string(f.Content)
			}
		}
		for path, text := range confs {
			if got, ok := want[path]; !ok || got != string(text) {
				t.Errorf("%s: %q, in the archive %q", path, text, got)
			}
		}
		if len(confs) != len(want) {
			t.Errorf("%d configurations, the archive has %d", len(confs), len(want))
		}
	})
}

// FuzzOpen has names as clients ask for them, and as they lie in the directory: what opens has the digest that the name says.
func FuzzOpen(f *testing.F) {
	k, err := Open(Config{Dir: f.TempDir(), Source: new(shop)})
	if err != nil {
		f.Fatal(err)
	}
	users := []byte(`{"passwd":"anna:x:1000:1000::/home/anna:/bin/sh\n","group":"anna:x:1000:\n"}`)
	archive, err := policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o644}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	layer := new(shop).put("organisation", 1, archive)
	if err := k.store(layer, archive, nil); err != nil {
		f.Fatal(err)
	}
	d := desired(1, layer)
	d.Login.Address, d.Login.Port = "10.0.0.5", 22
	k.Want(d)
	k.SetAccounts("10.0.0.5", Accounts{Users: users})
	state, err := k.State(pc1, addr1, own)
	if err != nil {
		f.Fatal(err)
	}
	names := []string{agentproto.Digest(archive), agentproto.Digest(users)}
	for _, name := range append(names, "", inForceName, "../x", strings.ToUpper(names[0]), strings.Repeat("0", 64), names[0]+"/") {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if d, ok := parseDigest(name); ok && fmt.Sprintf("%x", d) != name {
			t.Errorf("%q is taken for %x", name, d)
		}
		r, size, err := state.Open(name)
		if known := slices.Contains(names, name); known != (err == nil) || !known && !errors.Is(err, ErrGone) {
			t.Fatalf("%q: error %v", name, err)
		}
		if err != nil {
			return
		}
		defer r.Close()
		if text, err := io.ReadAll(r); err != nil || int64(len(text)) != size || agentproto.Digest(text) != name {
			t.Errorf("%s gave %d bytes, told %d: %v", name, len(text), size, err)
		}
	})
}

// TestDamagedInForce has notes that are JSON, but nothing that was in force: clients must not be told that there is no policy.
func TestDamagedInForce(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"nothing": `null`, "empty": `{}`, "no site": `{"revision":3,"layers":[]}`, "no level": `{"site":"hill","layers":[{"Scope":"school","Number":1}]}`,
		"twice": `{"site":"hill","layers":[{"Scope":"organisation","Number":1,"Size":1},{"Scope":"organisation","Number":1,"Size":1}]}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, inForceName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			k, err := Open(Config{Dir: dir, Source: new(shop)})
			if err != nil {
				t.Fatal(err)
			}
			if s, err := k.State(pc1, addr1, own); !errors.Is(err, ErrUnknown) {
				t.Errorf("state %+v, error %v", s, err)
			}
		})
	}
}
