package netlink

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	var a Attrs
	a.Uint32(1, 7)
	a.Uint64(2, 1<<40)
	a.String(3, "abc")
	a.Nested(4, func(inner *Attrs) { inner.Nested(1, func(item *Attrs) { item.Uint32(1, 9) }) })
	first := Message{Type: 20, Flags: 5, Seq: 3, Data: a.Bytes()}
	second := Message{Type: 21, Seq: 4, Data: []byte{1, 2, 3}}
	got, err := Parse(append(first.encode(), second.encode()...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Message{first, second}, got); diff != "" {
		t.Fatal(diff)
	}
	attrs, err := ParseAttrs(got[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := attrs[0].Uint32(); v != 7 || !ok || attrs[0].Type != 1 {
		t.Errorf("first attribute %+v", attrs[0])
	}
	if attrs[2].String() != "abc" || len(attrs[1].Data) != 8 {
		t.Errorf("attributes %+v", attrs)
	}
	items, err := ParseAttrs(attrs[3].Data)
	if err != nil || attrs[3].Type != 4 || len(items) != 1 || items[0].Type != 1 {
		t.Errorf("nested %+v, %v", items, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	whole := Message{Type: 1, Data: []byte{1, 2, 3, 4}}.encode()
	short, long, rest := append([]byte(nil), whole...), append([]byte(nil), whole...), append([]byte(nil), whole...)
	native.PutUint32(short, 15)
	native.PutUint32(long, 21)
	rest = append(rest, 1, 2)
	for name, data := range map[string][]byte{"short": short, "long": long, "rest": rest, "cut": whole[:12]} {
		if got, err := Parse(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	for name, data := range map[string][]byte{"short": {3, 0, 1, 0}, "long": {9, 0, 1, 0}, "rest": {4, 0, 1, 0, 7}} {
		if got, err := ParseAttrs(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("attribute %s: got %v, %v", name, got, err)
		}
	}
}

func TestMessageErr(t *testing.T) {
	t.Parallel()
	refused := -int32(unix.EINVAL)
	tests := []struct {
		m    Message
		want error
	}{
		{Message{Type: unix.NLMSG_ERROR, Data: native.AppendUint32(nil, uint32(refused))}, unix.EINVAL},
		{Message{Type: unix.NLMSG_ERROR, Data: make([]byte, 20)}, nil},
		{Message{Type: unix.NLMSG_ERROR, Data: []byte{1}}, ErrMalformed},
		{Message{Type: 30}, nil},
	}
	for _, tt := range tests {
		if err := tt.m.Err(); !errors.Is(err, tt.want) {
			t.Errorf("%+v: got %v, want %v", tt.m, err, tt.want)
		}
	}
}

// replier answers every request with the same messages.
type replier struct {
	replies []Message
	err     error
}

func (r replier) Execute(uint16, uint16, []byte) ([]Message, error) { return r.replies, r.err }

func family(t testing.TB) []byte {
	t.Helper()
	var a Attrs
	a.String(unix.CTRL_ATTR_FAMILY_NAME, "nbd")
	a.Raw(unix.CTRL_ATTR_FAMILY_ID, native.AppendUint16(nil, 27))
	a.Nested(unix.CTRL_ATTR_MCAST_GROUPS, func(groups *Attrs) {
		groups.Nested(1, func(g *Attrs) {
			g.Uint32(unix.CTRL_ATTR_MCAST_GRP_ID, 9)
			g.String(unix.CTRL_ATTR_MCAST_GRP_NAME, "nbd_mc_group")
		})
	})
	return Generic(1, 2, a.Bytes())
}

func TestLookupFamily(t *testing.T) {
	t.Parallel()
	got, err := LookupFamily(replier{replies: []Message{{Type: unix.GENL_ID_CTRL, Data: family(t)}}}, "nbd")
	if err != nil {
		t.Fatal(err)
	}
	want := Family{ID: 27, Groups: map[string]uint32{"nbd_mc_group": 9}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := LookupFamily(replier{err: unix.ENOENT}, "nbd"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
	if _, err := LookupFamily(replier{}, "nbd"); !errors.Is(err, ErrMalformed) {
		t.Errorf("no reply: got %v", err)
	}
	if _, err := LookupFamily(replier{replies: []Message{{Data: []byte{1, 1}}}}, "nbd"); !errors.Is(err, ErrMalformed) {
		t.Errorf("short reply: got %v", err)
	}
}

// TestKernel talks to the real kernel; looking families and links up needs no privilege.
func TestKernel(t *testing.T) {
	t.Parallel()
	c, err := Dial(unix.NETLINK_GENERIC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := LookupFamily(c, "nlctrl")
	if err != nil || f.ID != unix.GENL_ID_CTRL || f.Groups["notify"] == 0 {
		t.Errorf("got %+v, %v", f, err)
	}
	if _, err := LookupFamily(c, "no such family"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
	if _, err := c.Receive(time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want a timeout", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Message{Type: unix.GENL_ID_CTRL, Data: family(f)}.encode())
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(data)
		if err != nil {
			return
		}
		var again []byte
		for _, m := range list {
			_ = m.Err()
			_, _ = parseFamily(m.Data)
			again = append(again, m.encode()...)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(list, back); diff != "" {
			t.Fatal(diff)
		}
	})
}
