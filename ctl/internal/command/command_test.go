package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	args = append([]string{"--contexts", filepath.Join(t.TempDir(), "none.yaml")}, args...)
	code = Main(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want int
		says string
	}{
		{"help", []string{"--help"}, ExitOK, ""},
		{"no context", []string{"site", "list"}, ExitDenied, "ltspctl context enrol"},
		{"unknown command", []string{"frobnicate"}, ExitUsage, "unknown command"},
		{"unknown flag", []string{"site", "list", "--colour"}, ExitUsage, "unknown flag"},
		{"missing argument", []string{"site", "create"}, ExitUsage, "accepts 1 arg"},
		{"missing flag", []string{"subnet", "create", "x"}, ExitUsage, "required flag"},
		{"wrong format", []string{"site", "list", "-o", "xml"}, ExitUsage, "table, json or yaml"},
		{"wrong version number", []string{"image", "promote", "lab", "new"}, ExitUsage, "no number"},
		{"token without site", []string{"token", "create"}, ExitUsage, "--site"},
		{"no join token", []string{"context", "enrol", "x", "--controller", "h:1", "--token", "abc"}, ExitUsage, "no join token"},
		{"source is nothing", []string{"image", "build", "/dev/null", "--name", "x", "--to", filepath.Join(t.TempDir(), "x")}, ExitInvalid, "no directory, tar file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := run(t, tt.args...)
			if code != tt.want || !strings.Contains(stderr, tt.says) {
				t.Errorf("exit code %d, want %d; said %q, want %q in it", code, tt.want, stderr, tt.says)
			}
		})
	}
}

func TestExitCodeOfStatus(t *testing.T) {
	wrapped := fmt.Errorf("upload: %w", status.Error(codes.PermissionDenied, "admins only"))
	if code := exitCode(t.Context(), wrapped); code != ExitDenied {
		t.Errorf("exit code %d, want %d", code, ExitDenied)
	}
	if got := message(status.Error(codes.NotFound, "site x does not exist")); got != "site x does not exist" {
		t.Errorf("message %q", got)
	}
	hinted := fmt.Errorf("upload chunks: %w (run it again)", status.Error(codes.ResourceExhausted, "no space left"))
	if got := message(hinted); got != "upload chunks: no space left (run it again)" {
		t.Errorf("message %q", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if code := exitCode(ended, errors.New("x")); code != ExitInterrupted {
		t.Errorf("exit code %d after Ctrl-C, want %d", code, ExitInterrupted)
	}
}

// TestExitCodesAreDocumented compares the table in docs/ltspctl.md with the code's.
func TestExitCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/ltspctl.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1])
	}
	var want []string
	for _, code := range []int{ExitOK, ExitFailed, ExitUsage, ExitNotFound, ExitDenied, ExitConflict, ExitUnavailable, ExitInvalid, ExitInterrupted} {
		want = append(want, fmt.Sprint(code))
	}
	if d := cmp.Diff(want, documented); d != "" {
		t.Error(d)
	}
}

// TestEveryCommandHelps wants a short text for each command, and arguments checked.
func TestEveryCommandHelps(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%q has no short description", c.CommandPath())
		}
		if c.Args == nil && c.Name() != "help" && c.Name() != "completion" && c.Parent() != nil && c.Parent().Name() != "completion" {
			t.Errorf("%q takes any arguments", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(New(&strings.Builder{}, &strings.Builder{}))
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := run(t, "man", dir); code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "ltspctl-image-publish.1")); err != nil {
		t.Error(err)
	}
}

func TestSatelliteRow(t *testing.T) {
	v := viewSatellite(&adminv1.Satellite{Name: "sat1", Site: "school1", State: "connected", Status: &satellitev1.StatusReport{
		Versions: []*satellitev1.VersionStatus{
			{Image: "lab", Number: 3, State: satellitev1.VersionState_VERSION_STATE_VERIFIED},
			{Image: "exam", Number: 1, State: satellitev1.VersionState_VERSION_STATE_FETCHING, BytesDone: 25, BytesTotal: 100},
			{Image: "old", Number: 9, State: satellitev1.VersionState_VERSION_STATE_FAILED},
		},
		Members:       []*satellitev1.Member{{Name: "sat1", State: "alive"}, {Name: "sat2", State: "dead"}},
		DiskFreeBytes: 12_300_000_000, NbdConnections: 28, Problems: []string{"disk nearly full"},
	}})
	want := []string{"sat1", "school1", "connected", "never", "lab@3,exam@1(25%),old@9(failed)", "28", "12.3 GB", "1/2", "1"}
	if d := cmp.Diff(want, v.row()); d != "" {
		t.Error(d)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{5 * time.Second: "5s", 3 * time.Minute: "3m", 5 * time.Hour: "5h", 72 * time.Hour: "3d"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}
