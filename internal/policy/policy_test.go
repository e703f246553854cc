package policy_test

import (
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

func file(path, content string) policy.File {
	return policy.File{Path: path, Kind: policy.Regular, Mode: 0o644, Content: []byte(content)}
}

func link(path, target string) policy.File {
	return policy.File{Path: path, Kind: policy.Symlink, Content: []byte(target)}
}

func dir(path string) policy.File { return policy.File{Path: path, Kind: policy.Dir, Mode: 0o700} }

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	tree := policy.Tree{dir("client"), file("client/init/60-x.sh", "x_main() { :; }\n"), file("ltsp.conf", ""), link("xorg.conf", "x/y.conf"), link("z", "/etc/passwd")}
	archive, err := tree.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := policy.Decode(archive)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree, back); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	for i := range archive {
		if _, err := policy.Decode(archive[:i]); !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
	}
	if _, err := policy.Decode(append(archive, 0)); !errors.Is(err, policy.ErrInvalid) {
		t.Errorf("with a byte more: %v", err)
	}
}

// TestFormatExample holds the code to the example in FORMAT.md.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "a line end:\n")
	want, err := hex.DecodeString(strings.Join(strings.Fields(example), ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.Tree{file("ltsp.conf", "[clients]\n")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-documented +written):\n%s", diff)
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("d/", 40) + "f"
	for name, tree := range map[string]policy.Tree{
		"order":           {file("b", ""), file("a", "")},
		"twice":           {file("a", ""), file("a", "")},
		"absolute":        {file("/a", "")},
		"dot dot":         {file("../a", "")},
		"dot dot inside":  {file("a/../../b", "")},
		"not clean":       {file("a//b", "")},
		"empty":           {file("", "")},
		"dot":             {dir(".")},
		"newline":         {file("a\nb", "")},
		"deep":            {file(long, "")},
		"device":          {{Path: "null", Kind: 'c', Mode: 0o666}},
		"set-user-ID":     {{Path: "a", Kind: policy.Regular, Mode: 0o4755}},
		"below a file":    {file("a", ""), file("a/b", "")},
		"below a link":    {link("a", "b"), file("a/b", "")},
		"leaving link":    {link("a/b", "../../c")},
		"leaving link 2":  {link("a", "..")},
		"empty link":      {link("a", "")},
		"directory bytes": {{Path: "a", Kind: policy.Dir, Mode: 0o755, Content: []byte("x")}},
		"long conf":       {file("ltsp.conf", strings.Repeat("#", policy.MaxConfBytes+1))},
		"long file":       {{Path: "a", Kind: policy.Regular, Content: make([]byte, policy.MaxFileBytes+1)}},
		"many files":      make(policy.Tree, policy.MaxFiles+1),
	} {
		if err := tree.Check(); !errors.Is(err, policy.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tree := range map[string]policy.Tree{
		"link inside": {link("a/b", "../c"), file("c", "")},
		"names":       {file("a b", ""), file("\xff\xfe", ""), file("..a", "")},
	} {
		tree.Sort()
		if err := tree.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	got := policy.Merge(
		policy.Tree{file("a", "1"), file("b/c", "1"), file("ltsp.conf", "A=1"), file("x", "1")},
		policy.Tree{file("b", "2"), file("x/y", "2")},
		policy.Tree{file("a", "3"), file("b/d", "3")},
	)
	want := policy.Tree{file("a", "3"), file("b/d", "3"), file("x/y", "2")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
}

func TestPutAndRemove(t *testing.T) {
	t.Parallel()
	tree := policy.Tree{file("a", "1"), file("b/c", "1"), file("bb", "1")}
	changed := tree.Put(file("a", "2")).Put(file("0", "")).Remove("b")
	want := policy.Tree{file("0", ""), file("a", "2"), file("bb", "1")}
	if diff := cmp.Diff(want, changed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if f, ok := tree.Find("a"); !ok || string(f.Content) != "1" {
		t.Error("the tree from before has changed")
	}
}

func FuzzDecode(f *testing.F) {
	archive, err := policy.Tree{dir("a"), file("a/b", "c"), link("d", "a/b")}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(archive)
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := policy.Decode(b)
		if err != nil {
			return
		}
		again, err := tree.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := policy.Decode(again)
		if diff := cmp.Diff(tree, back); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}
