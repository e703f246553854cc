//go:build component

package accounts

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pwmerge is LTSP's own tool, of the package ltsp.
const pwmerge = "/usr/share/ltsp/client/login/pwmerge"

// rounds are how many pairs of systems are compared. Each takes a Python start of about 50 ms.
const rounds = 100

// TestMergeAsPwmerge merges generated systems with LTSP's tool and with ours. Where its tool breaks off, which happens with some collisions, ours has its own
// rules and there is nothing to compare; most rounds must be compared.
func TestMergeAsPwmerge(t *testing.T) {
	t.Parallel()
	compared := 0
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		source, dest := system(r, 1000), system(r, 3000)
		expressions := [4]string{}
		for i := range expressions {
			if r.IntN(2) == 0 {
				expressions[i] = choices[r.IntN(len(choices))]
			}
		}
		want, err := runPwmerge(t, source, dest, expressions)
		if err != nil || len(ParseGroup(want.Group).Reasons) > 0 {
			continue // it can also write a letter of a group's name for its ID
		}
		compared++
		rules, err := NewRules(expressions[0], expressions[1], expressions[2], expressions[3], DefaultRange)
		if err != nil {
			t.Fatal(err)
		}
		got := Merge(source, dest, rules.KeepsLocal(), rules)
		if diff := cmp.Diff(sortedMembers(want), sortedMembers(got.Files)); diff != "" {
			t.Fatalf("seed %d, %q (-LTSP +ours):\n%s\nreasons: %s\nsource %s%s\ndest %s%s", seed, expressions, diff, strings.Join(got.Reasons, "\n"),
				source.Passwd, source.Group, dest.Passwd, dest.Group)
		}
	}
	if compared < rounds/2 {
		t.Errorf("only %d of %d rounds could be compared", compared, rounds)
	}
	t.Logf("%d of %d rounds compared", compared, rounds)
}

var choices = []string{
	".*", "u1.*", "(?!u1).*", "u[0-4]+|u7", "^u(1|2|3).*$", "nobody", `u\d{1,2}`, ":sudo", "g.*|:audio", "[[:alpha:]]+", `\w+`, "u1", "^(?!u2)(u1|u2|u3).*", `[^\d]\d*`, ":.*", "u{,1}5?",
}

// system makes the accounts of one machine. Ordinary users begin at an ID; both machines have the same system accounts, with other members.
func system(r *rand.Rand, first int) Files {
	var users, groups, shadows, groupShadows strings.Builder
	var names []string
	for i := range r.IntN(12) {
		name := fmt.Sprintf("u%d", r.IntN(40))
		if first == 3000 {
			name = fmt.Sprintf("v%d", r.IntN(40)) // a name on both sides is an error of LTSP's
		}
		if slices.Contains(names, name) {
			continue
		}
		names = append(names, name)
		gid := first + i
		if r.IntN(4) == 0 {
			gid = 100 // users
		} else {
			fmt.Fprintf(&groups, "%s:x:%d:%s\n", name, gid, []string{"", name}[r.IntN(2)])
			fmt.Fprintf(&groupShadows, "%s:!::\n", name)
		}
		fmt.Fprintf(&users, "%s:x:%d:%d:Name,,,:/home/%s:/bin/bash\n", name, first+i, gid, name)
		fmt.Fprintf(&shadows, "%s:$y$%d:19000:0:99999:7:::\n", name, i)
	}
	some := func(more ...string) string {
		var list []string
		for _, n := range append(slices.Clone(names), more...) {
			if r.IntN(3) == 0 {
				list = append(list, n)
			}
		}
		return strings.Join(list, ",")
	}
	for i, g := range []string{"sudo", "audio", "class", "gamma", "empty"} {
		gid := []int{27, 29, first + 500, first + 501, first + 502}[i]
		if g == "audio" && r.IntN(4) == 0 {
			gid = 63 // a system group of another number
		}
		fmt.Fprintf(&groups, "%s:x:%d:%s\n", g, gid, some())
		fmt.Fprintf(&groupShadows, "%s:*::\n", g)
	}
	base := "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
	return Files{
		Passwd: []byte(base + users.String()), Group: []byte("root:x:0:\ndaemon:x:1:\nusers:x:100:\n" + groups.String()),
		Shadow: []byte("root:$y$r:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n" + shadows.String()), GroupShadow: []byte("root:*::\ndaemon:*::\nusers:*::\n" + groupShadows.String()),
	}
}

func runPwmerge(t *testing.T, source, dest Files, e [4]string) (Files, error) {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, f Files) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range show(f) {
			if err := os.WriteFile(filepath.Join(dir, name, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("s", source)
	put("d", dest)
	put("m", Files{})
	args := []string{pwmerge, "-lq"}
	for i, name := range []string{"--sur=", "--sgr=", "--dur=", "--dgr="} {
		if e[i] != "" {
			args = append(args, name+e[i])
		}
	}
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", append(args, dir+"/s", dir+"/d", dir+"/m")...).CombinedOutput()
	if err != nil {
		if text := string(out); !strings.Contains(text, "KeyError") && !strings.Contains(text, "TypeError") && !strings.Contains(text, "exists in destination") {
			t.Fatalf("pwmerge: %v\n%s", err, out)
		}
		return Files{}, err
	}
	var f Files
	for name, to := range map[string]*[]byte{"passwd": &f.Passwd, "group": &f.Group, "shadow": &f.Shadow, "gshadow": &f.GroupShadow} {
		if *to, err = os.ReadFile(filepath.Join(dir, "m", name)); err != nil {
			t.Fatal(err)
		}
	}
	return f, nil
}

// sortedMembers shows files with the members of groups in order: LTSP's tool writes them in none.
func sortedMembers(f Files) map[string]string {
	all := show(f)
	for _, name := range []string{"group", "gshadow"} {
		lines := strings.Split(all[name], "\n")
		for i, line := range lines {
			if at := strings.LastIndexByte(line, ':'); at >= 0 {
				members := strings.Split(line[at+1:], ",")
				slices.Sort(members)
				lines[i] = line[:at+1] + strings.Join(members, ",")
			}
		}
		all[name] = strings.Join(lines, "\n")
	}
	return all
}
