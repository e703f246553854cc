package agentproto

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestFormatExample reads the example lines of FORMAT.md and writes them again: the text must not change.
func TestFormatExample(t *testing.T) {
	t.Parallel()
	format, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(format))
	for lines.Scan() {
		if line, ok := strings.CutPrefix(lines.Text(), "    {"); ok {
			want.WriteString("{" + line + "\n")
		}
	}
	r := NewReader(bytes.NewReader(want.Bytes()))
	var got bytes.Buffer
	n := 0
	for {
		m, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Hello != nil {
			if err := m.Hello.Validate(); err != nil {
				t.Error(err)
			}
		}
		if err := NewWriter(&got).Write(m); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n < 4 {
		t.Errorf("FORMAT.md has %d example lines, want one of each kind", n)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestReaderErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, in string
		want     error
	}{
		{"end", "", io.EOF},
		{"cut", `{"ack":{`, io.ErrUnexpectedEOF},
		{"no JSON", "hello\n", ErrBadMessage},
		{"empty line", "\n", ErrBadMessage},
		{"no field", "{}\n", ErrBadMessage},
		{"unknown field only", `{"later":{}}` + "\n", ErrBadMessage},
		{"null field", `{"ack":null}` + "\n", ErrBadMessage},
		{"two fields", `{"ack":{"next":"1s"},"hello":{}}` + "\n", ErrBadMessage},
		{"number as duration", `{"ack":{"next":1}}` + "\n", ErrBadMessage},
		{"too long", `{"ack":{"error":"` + strings.Repeat("x", MaxLine) + `"}}` + "\n", ErrLineTooLong},
		{"endless", strings.Repeat("x", MaxLine), ErrLineTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewReader(strings.NewReader(tt.in)).Read()
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestLongestLine(t *testing.T) {
	t.Parallel()
	empty, err := json.Marshal(Message{Ack: &Ack{Error: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	room := MaxLine - 1 - len(empty) + 1 // newline off, the x on
	m := Message{Ack: &Ack{Error: strings.Repeat("y", room)}}
	var buf bytes.Buffer
	if err := NewWriter(&buf).Write(m); err != nil {
		t.Fatal(err)
	}
	if buf.Len() != MaxLine {
		t.Fatalf("line has %d bytes, want %d", buf.Len(), MaxLine)
	}
	got, err := NewReader(iotest.OneByteReader(&buf)).Read()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
	m.Ack.Error += "y"
	if err := NewWriter(&buf).Write(m); !errors.Is(err, ErrLineTooLong) {
		t.Errorf("one byte more: got %v, want ErrLineTooLong", err)
	}
	if buf.Len() != 0 {
		t.Errorf("a refused message left %d bytes on the wire", buf.Len())
	}
}

func TestWriterRefusesAmbiguous(t *testing.T) {
	t.Parallel()
	for _, m := range []Message{{}, {Hello: &Hello{}, Ack: &Ack{}}} {
		if err := NewWriter(io.Discard).Write(m); !errors.Is(err, ErrBadMessage) {
			t.Errorf("got %v, want ErrBadMessage", err)
		}
	}
}

func TestHelloValidate(t *testing.T) {
	t.Parallel()
	good := Hello{Version: 1, MAC: "52:54:00:67:00:10", UUID: "67000000-0000-4000-8000-000000000010",
		Token: "00112233445566778899aabbccddeeff", Agent: "v1", BootID: "b"}
	tests := []struct {
		name   string
		change func(*Hello)
		ok     bool
	}{
		{"good", func(*Hello) {}, true},
		{"no UUID", func(h *Hello) { h.UUID = "" }, true},
		{"version", func(h *Hello) { h.Version = 2 }, false},
		{"MAC with hyphens", func(h *Hello) { h.MAC = "52-54-00-67-00-10" }, false},
		{"MAC short", func(h *Hello) { h.MAC = "52:54:00:67:00:1" }, false},
		{"MAC long", func(h *Hello) { h.MAC += ":11" }, false},
		{"UUID upper case", func(h *Hello) { h.UUID = "67000000-0000-4000-8000-00000000001A" }, false},
		{"token", func(h *Hello) { h.Token = "" }, false},
		{"agent", func(h *Hello) { h.Agent = strings.Repeat("x", 129) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := good
			tt.change(&h)
			if err := h.Validate(); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(Duration(90 * time.Second))
	if err != nil || string(text) != `"1m30s"` {
		t.Errorf("got %s, %v", text, err)
	}
	for _, in := range []string{`5`, `"5"`, `""`, `null x`, `"5 s"`, `{}`} {
		var d Duration
		if err := json.Unmarshal([]byte(in), &d); err == nil {
			t.Errorf("%s was read as %v", in, d)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"ack":{"next":"10s"}}` + "\n"))
	f.Add([]byte(`{"failure":{"stage":"nbd","error":"x","advice":"y"}}` + "\n" + `{"hello":{"version":1}}` + "\n"))
	f.Add([]byte(`{"report":{"state":"healthy","timeline":[{"name":"kernel","at":"0s"}],"load1":0.5}}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for {
			m, err := r.Read()
			if err != nil {
				return
			}
			var buf bytes.Buffer
			if err := NewWriter(&buf).Write(m); errors.Is(err, ErrLineTooLong) {
				return // escapes can make a line longer than it was
			} else if err != nil {
				t.Fatal(err)
			}
			again, err := NewReader(&buf).Read()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, again, cmpopts.EquateEmpty()); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
