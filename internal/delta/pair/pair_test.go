package pair

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBases(t *testing.T) {
	old := []File{
		{[]string{"lib/modules/6.1.0-37/kernel/fs/ext4/ext4.ko"}, 1000},
		{[]string{"lib/modules/6.1.0-37/kernel/fs/xfs/xfs.ko"}, 2000},
		{[]string{"usr/lib/libfoo.so.1.2.3", "usr/lib/libfoo-hard.so"}, 500},
		{[]string{"usr/share/doc/a/changelog.gz"}, 100},
		{[]string{"usr/share/doc/b/changelog.gz"}, 300},
		{[]string{"etc/empty"}, 0},
		{[]string{"usr/lib/firefox-140/libxul.so"}, 9000},
	}
	tab := New(old)
	for _, tc := range []struct {
		name  string
		paths []string
		size  int64
		limit int
		want  []int32
	}{
		{"same path first", []string{"usr/share/doc/b/changelog.gz"}, 120, 2, []int32{4, 3}},
		{"version in a directory", []string{"lib/modules/6.1.0-38/kernel/fs/ext4/ext4.ko"}, 1010, 1, []int32{0}},
		{"library version", []string{"usr/lib/libfoo.so.1.3"}, 510, 1, []int32{2}},
		{"moved", []string{"opt/libxul.so"}, 9100, 3, []int32{6}},
		{"second name", []string{"x/y", "usr/lib/libfoo-hard.so"}, 500, 1, []int32{2}},
		{"size decides", []string{"usr/share/doc/c/changelog.gz"}, 290, 1, []int32{4}},
		{"empty is no base", []string{"etc/empty"}, 10, 1, nil},
		{"nothing", []string{"something/else"}, 10, 1, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, tab.Bases(tc.paths, tc.size, tc.limit)); d != "" {
				t.Errorf("bases (-want +got):\n%s", d)
			}
		})
	}
}
