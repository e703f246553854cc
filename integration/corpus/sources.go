package corpus

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// release is the Debian release that the corpus is made of. The corpus of another release would be another corpus.
const release = "bookworm"

// archive is one suite of a package archive.
type archive struct{ uri, suite string }

// archives asks apt which archives of the release this machine uses: the release itself, its updates, its security updates.
func archives(ctx context.Context) ([]archive, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Created-By: Packages")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get indextargets: %w", err)
	}
	all := parseTargets(string(out))
	for _, suite := range []string{release, release + "-security"} {
		if !slices.ContainsFunc(all, func(a archive) bool { return a.suite == suite }) {
			return nil, fmt.Errorf("apt sources of this machine have no %s main: add it and run apt-get update", suite)
		}
	}
	return all, nil
}

// parseTargets reads lines "URI SUITE COMPONENT ORIGIN" and keeps Debian's component main of the release, each once.
func parseTargets(out string) []archive {
	var all []archive
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[2] != "main" || fields[3] != "Debian" {
			continue
		}
		switch fields[1] {
		case release, release + "-updates", release + "-security":
		default:
			continue
		}
		if a := (archive{uri: fields[0], suite: fields[1]}); !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// writeSources writes the archives in apt's one-line format. With onlyRelease the updates are left out, so that packages come
// in the versions of the last point release.
func writeSources(path string, all []archive, onlyRelease bool) error {
	var list strings.Builder
	for _, a := range all {
		if !onlyRelease || a.suite == release {
			fmt.Fprintf(&list, "deb %s %s main\n", a.uri, a.suite)
		}
	}
	return os.WriteFile(path, []byte(list.String()), 0o644)
}

// collectKeys links the archive keys that this machine has into one directory, for apt's Dir::Etc::TrustedParts.
func collectKeys(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	n := 0
	for _, pattern := range []string{"/etc/apt/trusted.gpg.d/*", "/etc/apt/keyrings/*", "/usr/share/keyrings/*"} {
		keys, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, key := range keys {
			ext := filepath.Ext(key)
			if ext != ".gpg" && ext != ".asc" || strings.Contains(key, "removed") {
				continue
			}
			n++
			if err := os.Symlink(key, filepath.Join(dir, fmt.Sprintf("%d%s", n, ext))); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		return fmt.Errorf("no archive keys on this machine: install debian-archive-keyring")
	}
	return nil
}

// fetchOptions returns the settings of this machine that decide how packages are fetched: proxies, retries, checks of dates.
func fetchOptions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--empty=no").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	options := selectOptions(string(out))
	for name, path := range map[string]string{"Dir::Etc::netrc": "/etc/apt/auth.conf", "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d"} {
		if _, err := os.Stat(path); err == nil {
			options = append(options, fmt.Sprintf("%s %q;", name, path))
		}
	}
	slices.Sort(options)
	return options, nil
}

// selectOptions picks lines of `apt-config dump`, which are `Name "value";`.
func selectOptions(dump string) []string {
	prefixes := []string{"Acquire::http::", "Acquire::https::", "Acquire::ftp::", "Acquire::Retries ", "Acquire::ForceIPv", "Acquire::Check-", "Acquire::Allow", "Acquire::By-Hash "}
	var options []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			options = append(options, line)
		}
	}
	return options
}
