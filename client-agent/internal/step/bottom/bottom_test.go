package bottom

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/steptest"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

func TestReadAhead(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"": "128", "4": "4", "0": "0", "x": "128", "-1": "128", "99999999999": "128"} {
		root := testtree.New(t, map[string]string{
			"sys/block/nbd0/size": "100\n", "sys/block/nbd0/queue/read_ahead_kb": "1", "sys/block/nbd1/size": "0\n", "sys/block/nbd1/queue/read_ahead_kb": "1",
			"sys/block/dm-0/size": "100\n", "sys/block/dm-0/queue/read_ahead_kb": "1", "sys/block/dm-0/slaves/nbd0": "",
			"sys/block/dm-1/size": "100\n", "sys/block/dm-1/queue/read_ahead_kb": "1", "sys/block/dm-1/slaves/sda1": "",
			"sys/block/sda/size": "100\n", "sys/block/sda/queue/read_ahead_kb": "1",
		})
		c := steptest.New(t, root, step.Values{"READ_AHEAD_KB": value})
		steptest.Do(t, c, Step())
		got := map[string]string{}
		for _, d := range []string{"nbd0", "nbd1", "dm-0", "dm-1", "sda"} {
			got[d] = testtree.Read(t, root, "sys/block/"+d+"/queue/read_ahead_kb")
		}
		if diff := cmp.Diff(map[string]string{"nbd0": want, "nbd1": "1", "dm-0": want, "dm-1": "1", "sda": "1"}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
		if said := len(c.Remarks) > 0; said != (want == "128" && value != "") {
			t.Errorf("%q: remarks %q", value, c.Remarks)
		}
	}
}

func TestBlacklist(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		values step.Values
		want   string
	}{
		{step.Values{}, "blacklist floppy\n"},
		{step.Values{"BLACKLIST_MODULES": "floppy pcspkr a/b"}, "blacklist floppy\nblacklist pcspkr\n"},
		{step.Values{"BLACKLIST_MODULES": ""}, ""},
	} {
		root := testtree.New(t, map[string]string{"etc/modprobe.d/": ""})
		steptest.Do(t, steptest.New(t, root, tt.values), Step())
		_, got, _ := strings.Cut(testtree.Show(t, root)["etc/modprobe.d/ltsp.conf"], "\n")
		if got != tt.want {
			t.Errorf("%v: got %q", tt.values, got)
		}
	}
}
