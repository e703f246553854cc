package bootmenu

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commands of iPXE 1.0.0+git-20190125 that scripts may use, with the least number of words after each.
var commands = map[string]int{
	"echo": 0, "set": 2, "goto": 1, "kernel": 3, "initrd": 3, "boot": 0, "chain": 1, "sleep": 1, "imgfree": 0, "prompt": 1, "shell": 0,
	"menu": 0, "item": 1, "choose": 1, "config": 0, "sanboot": 0, "exit": 0,
}

var settingRule = regexp.MustCompile(`^\$\{(net[0-9X](\.dhcp)?/)?[a-z0-9-]+(:[a-z0-9]+)?\}$`)

// checkScript reads a script as iPXE does (lines, labels, words, operators) and reports what iPXE would stumble over: unknown commands, labels that
// are missing or stand twice, settings that do not end, words that are operators by accident, characters beyond ASCII, a line that fails
// and so would end the script.
func checkScript(t *testing.T, script []byte) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(string(script), "\n"), "\n")
	if lines[0] != "#!ipxe" {
		t.Errorf("the first line is %q", lines[0])
	}
	labels := make(map[string]bool)
	for _, l := range lines[1:] {
		if name, ok := strings.CutPrefix(l, ":"); ok {
			if labels[name] || strings.ContainsAny(name, " \t") || name == "" {
				t.Errorf("label %q is bad or stands twice", name)
			}
			labels[name] = true
		}
	}
	values := map[string][]string{}
	for _, l := range lines[1:] {
		if w := strings.Fields(l); len(w) == 3 && w[0] == "set" {
			values[w[1]] = append(values[w[1]], w[2])
		}
		if w := strings.Fields(l); len(w) > 1 && w[0] == "item" && w[1] != "--gap" {
			name := w[1]
			if name == "--key" {
				name = w[3]
			}
			values["choice"] = append(values["choice"], name)
		}
	}
	for i, l := range lines[1:] {
		checkLine(t, i+2, l, i == len(lines)-2, labels, values)
	}
}

func checkLine(t *testing.T, n int, line string, last bool, labels map[string]bool, values map[string][]string) {
	t.Helper()
	if len(line) > 4096 || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) || strings.HasSuffix(line, `\`) {
		t.Errorf("line %d is too long or has odd characters: %q", n, line)
	}
	for rest := line; strings.Contains(rest, "${"); {
		rest = rest[strings.Index(rest, "${"):]
		end := strings.IndexByte(rest, '}')
		if end < 0 || !settingRule.MatchString(rest[:end+1]) {
			t.Errorf("line %d: bad setting in %q", n, line)
			return
		}
		rest = rest[end+1:]
	}
	if strings.HasPrefix(line, ":") {
		return
	}
	for cmd := range splitCommands(line) {
		if len(cmd) == 0 {
			continue
		}
		least, ok := commands[cmd[0]]
		if !ok || len(cmd)-1 < least {
			t.Errorf("line %d: command %q", n, cmd)
		}
		if cmd[0] == "echo" && len(cmd) > 1 && cmd[1][0] == '-' {
			t.Errorf("line %d: echo takes %q for an option", n, cmd[1])
		}
		if cmd[0] == "goto" {
			targets := []string{cmd[1]}
			if name, isVar := strings.CutPrefix(cmd[1], "${"); isVar {
				targets = values[strings.TrimSuffix(name, "}")]
			}
			for _, target := range targets {
				if !labels[target] {
					t.Errorf("line %d: goto %s, which is no label", n, target)
				}
			}
			if len(targets) == 0 {
				t.Errorf("line %d: %q has no value", n, cmd[1])
			}
		}
	}
	words := strings.Fields(line)
	mayFail := slices.ContainsFunc([]string{"kernel", "initrd", "boot", "chain", "sleep", "imgfree", "prompt", "config", "shell", "sanboot"}, func(c string) bool { return words[0] == c })
	if mayFail && !last && words[len(words)-1] != "||" {
		t.Errorf("line %d ends the script when it fails: %q", n, line)
	}
}

// splitCommands splits a line at the operators, as iPXE does: only words that consist of an operator are one.
func splitCommands(line string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		var cmd []string
		for w := range strings.FieldsSeq(line) {
			if w[0] == '#' {
				break
			}
			if w == "||" || w == "&&" || w == ";" {
				if !yield(cmd) {
					return
				}
				cmd = nil
				continue
			}
			cmd = append(cmd, w)
		}
		yield(cmd)
	}
}
