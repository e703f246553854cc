//go:build component

package cpio_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestCpioListsIt has GNU cpio read the archive.
func TestCpioListsIt(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cpio", "-itv", "--quiet", "--numeric-uid-gid")
	cmd.Stdin = bytes.NewReader(sample(t))
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+strings.Join(f[2:4], ":")+" "+f[len(f)-1])
	}
	want := "drwxr-xr-x 0:0 dev|crw------- 0:0 dev/console|-rwxr-xr-x 0:0 init|-rw-r--r-- 0:0 empty|lrwxrwxrwx 0:0 bin/busybox"
	if strings.Join(got, "|") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, "|"), want)
	}
}
