package bootmenu

import (
	"bytes"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// unpack reads a newc archive into name -> content; directories end in "/".
func unpack(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	field := func(i int) int {
		n, err := strconv.ParseUint(string(archive[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	pad := func(n int) int { return (n + 3) &^ 3 }
	for len(archive) >= 110 && bytes.HasPrefix(archive, []byte("070701")) {
		mode, size, nameLen := field(1), field(6), field(11)
		name := string(archive[110 : 110+nameLen-1])
		data := archive[pad(110+nameLen):][:size]
		archive = archive[pad(pad(110+nameLen)+size):]
		if name == "TRAILER!!!" {
			return out
		}
		if mode&0o170000 == 0o040000 {
			name += "/"
		}
		out[name] = data
	}
	t.Fatal("the archive has no end")
	return nil
}

func TestClientCPIO(t *testing.T) {
	t.Parallel()
	want, _, err := menu(t, nil).BootConfig(ask(pc01, "192.168.67.1"), token, noon)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := ClientCPIO(want)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, archive)
	if _, ok := files["ltsp/"]; !ok || len(files) != 2 || len(archive)%4 != 0 {
		t.Errorf("the archive of %d bytes holds %d entries", len(archive), len(files))
	}
	got, err := agentproto.ParseBootConfig(files["ltsp/boot.json"])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
