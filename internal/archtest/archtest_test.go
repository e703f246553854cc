// Package archtest keeps the arrows of docs/architecture.md one-way: each rule forbids imports and says why. It has tests only.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ltsp-fleet/ltsp-fleet/"

// A rule forbids packages under From to import packages under any of Forbidden, except from packages under Except. With Deep the whole
// dependency tree counts, else direct imports only. Paths without a dot in the first element are within the module.
type rule struct {
	from      string
	forbidden []string
	except    []string
	deep      bool
	why       string
}

var rules = []rule{
	{from: "internal", forbidden: []string{"controller", "satellite", "client-agent", "ctl", "integration", "proto"}, deep: true,
		why: "what parts share knows no part and no generated code"},
	{from: "internal", forbidden: []string{"github.com/DataDog/zstd"}, except: []string{"internal/encoder"}, why: "one door to C code"},
	{from: "controller", forbidden: []string{"github.com/DataDog/zstd"}, why: "one door to C code"},
	{from: "satellite", forbidden: []string{"github.com/DataDog/zstd"}, why: "one door to C code"},
	{from: "ctl", forbidden: []string{"github.com/DataDog/zstd"}, why: "one door to C code"},
	{from: "client-agent", forbidden: []string{"github.com/DataDog/zstd", "internal/encoder", "internal/delta"}, deep: true, why: "the agent is pure Go"},
	{from: "internal/delta", forbidden: []string{"net", "net/http", "google.golang.org/grpc"}, why: "the delta engine knows no network"},
	{from: "controller/internal/syncplan", forbidden: []string{"net/http", "controller/internal/store", "controller/internal/api"}, deep: true, why: "a decision room"},
	{from: "controller", forbidden: []string{"satellite", "client-agent", "ctl", "integration"}, deep: true, why: "parts meet on the wire only"},
	{from: "satellite", forbidden: []string{"controller", "client-agent", "ctl", "integration"}, deep: true, why: "parts meet on the wire only"},
	{from: "client-agent", forbidden: []string{"controller", "satellite", "ctl", "integration"}, deep: true, why: "parts meet on the wire only"},
	{from: "ctl", forbidden: []string{"controller", "satellite", "client-agent", "integration"}, deep: true, why: "parts meet on the wire only"},
	{from: "client-agent", forbidden: []string{"net/http", "google.golang.org/grpc", "google.golang.org/protobuf", "go.etcd.io/bbolt",
		"github.com/spf13", "github.com/prometheus", "proto"}, deep: true, why: "the agent rides in every initrd"},
	{from: "client-agent/internal/follower", forbidden: []string{"net", "client-agent/internal/uplink", "client-agent/internal/policy", "client-agent/internal/applet"}, deep: true,
		why: "a decision room"},
	{from: "client-agent/internal/step", forbidden: []string{"net/http", "os/exec", "client-agent/internal/shell", "client-agent/internal/applet", "client-agent/internal/uplink"}, deep: true,
		why: "steps change files; the shell is the applet's, processes are System's"},
	{from: "client-agent/internal/shell", forbidden: []string{"client-agent/internal/step", "internal/policy", "internal/ltspconf"}, deep: true, why: "it runs scripts and knows nothing of them"},
	{from: "internal/accounts", forbidden: []string{"net", "os/exec"}, deep: true, why: "bytes in, bytes out"},
	{from: "client-agent/internal/policy", forbidden: []string{"client-agent/internal/applet", "client-agent/internal/uplink", "client-agent/internal/shell"}, deep: true,
		why: "it brings and keeps files, others run them"},
	{from: "client-agent", forbidden: []string{"mvdan.cc/sh/v3", "internal/ltspeval", "internal/ltsplint"}, deep: true, why: "a client evaluates ltsp.conf with its own shell"},
	{from: "internal/ltspeval", forbidden: []string{"net", "net/http", "os/exec", "mvdan.cc/sh/v3/interp", "mvdan.cc/sh/v3/expand"}, deep: true,
		why: "evaluating ltsp.conf starts no process and reaches no network"},
	{from: "internal/remoteapp", forbidden: []string{"net", "os/exec", "internal", "golang.org/x"}, deep: true, why: "pure text, standard library only"},
	{from: "internal/ltspconf", forbidden: []string{"net", "os/exec", "mvdan.cc/sh/v3", "internal/policy"}, deep: true, why: "pure text, standard library only"},
	{from: "internal", forbidden: []string{"mvdan.cc/sh/v3"}, except: []string{"internal/ltspeval", "internal/ltsplint"}, why: "one door to the shell's grammar"},
	{from: "client-agent", forbidden: []string{"golang.org/x/crypto"}, deep: true, why: "the agent rides in every initrd"},
	{from: "client-agent/internal/pam", forbidden: []string{"net", "client-agent/internal/login"}, deep: true, why: "files only"},
	{from: "client-agent/internal/spool", forbidden: []string{"net", "client-agent/internal/login", "client-agent/internal/remoteapps"}, deep: true, why: "records only"},
	{from: "client-agent/internal/resident", forbidden: []string{"client-agent/internal/login", "client-agent/internal/home"}, deep: true,
		why: "logins are other processes; the spool is how they tell"},
	{from: "controller", forbidden: []string{"go.etcd.io/bbolt"}, except: []string{"controller/internal/store"}, why: "one door to the database"},
	{from: "satellite", forbidden: []string{"go.etcd.io/bbolt"}, except: []string{"satellite/internal/state"}, why: "one door to the database"},
	{from: "satellite", forbidden: []string{"github.com/hashicorp/memberlist"}, except: []string{"satellite/internal/gossip"}, why: "one door to memberlist"},
	{from: "satellite", forbidden: []string{"github.com/insomniacslk/dhcp"}, except: []string{"satellite/internal/dhcp"}, why: "one door to the DHCP codec"},
	{from: "satellite", forbidden: []string{"github.com/pin/tftp"}, except: []string{"satellite/internal/tftp"}, why: "one door to the TFTP library"},
	{from: "satellite", forbidden: []string{"golang.org/x/crypto/ssh"}, except: []string{"satellite/internal/accounts"}, why: "one door to SSH"},
	{from: "satellite", forbidden: []string{"proto", "google.golang.org/grpc"}, except: []string{"satellite/internal/upstream"}, why: "generated types stop at upstream"},
	{from: "controller", forbidden: []string{"proto", "google.golang.org/grpc"}, except: []string{"controller/internal/api"}, why: "generated types stop at api"},
	{from: "satellite/internal/lease", forbidden: []string{"net/http", "satellite/internal/state", "satellite/internal/dhcp"}, deep: true, why: "a decision room"},
	{from: "satellite/internal/bootmenu", forbidden: []string{"net/http", "satellite/internal/state"}, deep: true, why: "a decision room"},
	{from: "controller/internal/fleet", forbidden: []string{"net/http", "controller/internal/store", "controller/internal/api"}, deep: true, why: "a decision room"},
	{from: "controller/internal/policyview", forbidden: []string{"net/http", "controller/internal/store", "controller/internal/api"}, deep: true, why: "a decision room"},
	{from: "ctl/internal/ltspimport", forbidden: []string{"net", "os/exec", "google.golang.org/grpc"}, deep: true, why: "a decision room"},
	{from: "ctl", forbidden: []string{"golang.org/x/crypto/ssh"}, except: []string{"ctl/internal/hostkeys"}, why: "one door to the SSH library"},
	{from: "controller/internal/enroll", forbidden: []string{"net/http", "controller/internal/store", "controller/internal/api"}, deep: true, why: "a decision room"},
}

type pkg struct {
	ImportPath   string
	Imports      []string
	Deps         []string
	TestImports  []string
	Standard     bool
	DepsErrors   []struct{ Err string }
	ForTest      string
	XTestImports []string
}

// under tells whether an import path lies in the given tree.
func under(path, tree string) bool {
	if !strings.Contains(strings.SplitN(tree, "/", 2)[0], ".") && tree != "net/http" && tree != "net" && tree != "os/exec" {
		tree = module + tree
	}
	return path == tree || tree != "net" && strings.HasPrefix(path, tree+"/")
}

func underAny(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(t string) bool { return under(path, t) })
}

func load(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestArrowsPointDownwards(t *testing.T) {
	all := load(t)
	for _, r := range rules {
		matched := false
		for _, p := range all {
			if !under(p.ImportPath, r.from) || underAny(p.ImportPath, r.except) {
				continue
			}
			matched = true
			imports := p.Imports
			if r.deep {
				imports = p.Deps
			}
			for _, i := range imports {
				if underAny(i, r.forbidden) {
					t.Errorf("%s imports %s: %s", strings.TrimPrefix(p.ImportPath, module), strings.TrimPrefix(i, module), r.why)
				}
			}
		}
		if !matched {
			t.Errorf("rule for %q matches no package: mend or remove it", r.from)
		}
	}
}

// TestPackagesAreDocumented wants a package comment in each package.
func TestPackagesAreDocumented(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{if not .Doc}}{{.ImportPath}}{{end}}", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for p := range strings.FieldsSeq(string(out)) {
		if !strings.Contains(p, "/proto/") && !strings.HasSuffix(p, "/archtest") {
			t.Errorf("package %s has no package comment", p)
		}
	}
}
