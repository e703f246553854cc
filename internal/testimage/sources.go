package testimage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxSourcesFile bounds one file of apt sources; real ones are a few hundred bytes, with inline keys a few thousand.
const maxSourcesFile = 1 << 20

// source is one suite of one package archive (sources.list(5)).
type source struct {
	uri, suite string
	components []string
	signedBy   string // path of a keyring, or fingerprints; empty: apt's trusted keys
	key        string // an armoured key given inline
	trusted    bool   // packages need no signature
}

// debianSources reads the package archives that this machine uses and keeps those of Debian's release codename: the release
// itself, its updates and its security updates, component main.
func debianSources(aptDir, codename string) ([]source, error) {
	all, err := readSources(aptDir)
	if err != nil {
		return nil, err
	}
	wanted := []string{codename, codename + "-updates", codename + "-security"}
	var matching, official []source
	for _, s := range all {
		if !slices.Contains(wanted, s.suite) || !slices.Contains(s.components, "main") {
			continue
		}
		s.components = []string{"main"}
		matching = append(matching, s)
		if isDebian(s) {
			official = append(official, s)
		}
	}
	if len(official) == 0 {
		official = matching // a mirror under a name of its own
	}
	if !slices.ContainsFunc(official, func(s source) bool { return s.suite == codename }) {
		return nil, fmt.Errorf("apt sources in %s: no archive with suite %s and component main", aptDir, codename)
	}
	return official, nil
}

// isDebian tells Debian's own archives from others that use its suite names: by keyring, or by the folder that all mirrors
// keep, which a snapshot follows with its date.
func isDebian(s source) bool {
	if strings.Contains(filepath.Base(s.signedBy), "debian-archive") {
		return true
	}
	path := strings.Split(strings.TrimRight(s.uri, "/"), "/")
	for _, folder := range path[max(0, len(path)-2):] {
		if folder == "debian" || folder == "debian-security" {
			return true
		}
	}
	return false
}

// readSources reads sources.list and what lies in sources.list.d, in apt's order. Missing files are no error.
func readSources(aptDir string) ([]source, error) {
	files := []string{filepath.Join(aptDir, "sources.list")}
	entries, err := os.ReadDir(filepath.Join(aptDir, "sources.list.d"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("apt sources: %w", err)
	}
	for _, entry := range entries {
		files = append(files, filepath.Join(aptDir, "sources.list.d", entry.Name()))
	}
	var all []source
	for _, file := range files {
		parse := parseList
		switch filepath.Ext(file) {
		case ".list":
		case ".sources":
			parse = parseDeb822
		default:
			continue
		}
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("apt sources: %w", err)
		}
		if len(content) > maxSourcesFile {
			return nil, fmt.Errorf("apt sources: %s has %d bytes, more than %d", file, len(content), maxSourcesFile)
		}
		all = append(all, parse(content)...)
	}
	return all, nil
}

// parseList reads the one-line format: deb [ option=value ... ] uri suite component... Lines that it does not understand are
// not for us and are skipped, as are flat archives (suite ends in "/").
func parseList(content []byte) []source {
	var all []source
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || !strings.ContainsAny(rest[:1], " \t[") {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if options, after, found := strings.Cut(rest, "]"); found && strings.HasPrefix(options, "[") {
			for option := range strings.FieldsSeq(options[1:]) {
				s.option(option)
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 3 {
			continue
		}
		s.uri, s.suite, s.components = fields[0], fields[1], fields[2:]
		if s.usable() {
			all = append(all, s)
		}
	}
	return all
}

func (s *source) option(option string) {
	key, value, _ := strings.Cut(option, "=")
	switch strings.ToLower(key) {
	case "signed-by":
		s.signedBy = strings.Trim(value, `"`)
	case "trusted":
		s.trusted = isYes(value)
	}
}

func (s *source) usable() bool {
	return strings.Contains(s.uri, ":/") && !strings.HasPrefix(s.uri, "cdrom:") && !strings.HasSuffix(s.suite, "/")
}

// parseDeb822 reads stanzas of "Field: value" lines with continuation lines. A stanza stands for every combination of its
// URIs and Suites.
func parseDeb822(content []byte) []source {
	var all []source
	for _, stanza := range stanzas(content) {
		if enabled, set := stanza["enabled"]; set && !isYes(enabled) {
			continue
		}
		if !slices.Contains(strings.Fields(stanza["types"]), "deb") {
			continue
		}
		s := source{components: strings.Fields(stanza["components"]), trusted: isYes(stanza["trusted"])}
		if signed := stanza["signed-by"]; strings.Contains(signed, "BEGIN PGP") {
			s.key = armour(signed)
		} else {
			s.signedBy = strings.Join(strings.Fields(signed), ",")
		}
		for uri := range strings.FieldsSeq(stanza["uris"]) {
			for suite := range strings.FieldsSeq(stanza["suites"]) {
				one := s
				one.uri, one.suite = uri, suite
				if one.usable() && len(one.components) > 0 {
					all = append(all, one)
				}
			}
		}
	}
	return all
}

// stanzas splits deb822 text (deb822(5)): field names in lower case, continuation lines joined with newlines.
func stanzas(content []byte) []map[string]string {
	var all []map[string]string
	current, field := map[string]string{}, ""
	flush := func() {
		if len(current) > 0 {
			all = append(all, current)
		}
		current, field = map[string]string{}, ""
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxSourcesFile+1)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				current[field] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if field = strings.ToLower(strings.TrimSpace(name)); ok && field != "" {
				current[field] = strings.TrimSpace(value)
			} else {
				field = ""
			}
		}
	}
	flush()
	return all
}

// armour restores a key that a deb822 field holds: an empty line is written as a dot there.
func armour(field string) string {
	lines := strings.Split(strings.TrimSpace(field), "\n")
	for i := range lines {
		if lines[i] == "." {
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

func isYes(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "yes", "true", "1", "on", "with", "enable":
		return true
	}
	return false
}

// listLine is the source in the one-line format; keyFile is where an inline key was written.
func (s source) listLine(keyFile string) string {
	var options []string
	if s.key != "" {
		options = append(options, "signed-by="+keyFile)
	} else if s.signedBy != "" {
		options = append(options, "signed-by="+s.signedBy)
	}
	if s.trusted {
		options = append(options, "trusted=yes")
	}
	line := "deb "
	if len(options) > 0 {
		line += "[" + strings.Join(options, " ") + "] "
	}
	return line + s.uri + " " + s.suite + " " + strings.Join(s.components, " ")
}

// writeSources writes the sources as a one-line format file in dir, with inline keys beside it, and returns its path.
func writeSources(dir string, sources []source) (string, error) {
	var list strings.Builder
	for i, s := range sources {
		keyFile := filepath.Join(dir, fmt.Sprintf("key%d.asc", i))
		if s.key != "" {
			if err := os.WriteFile(keyFile, []byte(s.key), 0o644); err != nil {
				return "", fmt.Errorf("apt sources: %w", err)
			}
		}
		list.WriteString(s.listLine(keyFile) + "\n")
	}
	path := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(path, []byte(list.String()), 0o644); err != nil {
		return "", fmt.Errorf("apt sources: %w", err)
	}
	return path, nil
}
