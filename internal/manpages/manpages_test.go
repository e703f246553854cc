package manpages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	var pages [2]string
	for i := range pages {
		root := &cobra.Command{Use: "tool", Short: "A tool"}
		root.AddCommand(&cobra.Command{Use: "work", Short: "Do the work", Run: func(*cobra.Command, []string) {}}, Command("8"))
		root.SetArgs([]string{"man", dir})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "tool-work.8"))
		if err != nil {
			t.Fatal(err)
		}
		pages[i] = string(data)
	}
	if !strings.Contains(pages[0], "Do the work") || pages[0] != pages[1] {
		t.Errorf("page %q", pages[0])
	}
}
