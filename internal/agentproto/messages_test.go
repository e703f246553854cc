package agentproto

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	someDigest = "4f1c3a6de8b095724f1c3a6de8b095724f1c3a6de8b095724f1c3a6de8b09572"
	someID     = "00112233445566778899aabbccddeeff"
)

type validator interface{ Validate() error }

func TestMessagesValidate(t *testing.T) {
	t.Parallel()
	args := func(n, size int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = strings.Repeat("x", size)
		}
		return out
	}
	tests := []struct {
		name string
		m    validator
		ok   bool
	}{
		{"fetch policy", &Fetch{PolicyName}, true},
		{"fetch digest", &Fetch{someDigest}, true},
		{"fetch nothing", &Fetch{}, false},
		{"fetch path", &Fetch{"../policy"}, false},
		{"fetch upper case", &Fetch{strings.ToUpper(someDigest)}, false},
		{"fetch short", &Fetch{someDigest[1:]}, false},
		{"blob", &Blob{MaxBlob, someDigest}, true},
		{"empty blob", &Blob{0, someDigest}, true},
		{"blob too large", &Blob{MaxBlob + 1, someDigest}, false},
		{"blob without digest", &Blob{Size: 1}, false},
		{"notice", &Notice{someDigest}, true},
		{"empty notice", &Notice{}, true},
		{"odd notice", &Notice{"x"}, false},
		{"ack", &Ack{Policy: someDigest, Error: "x"}, true},
		{"odd ack", &Ack{Policy: someDigest + "0"}, false},
		{"command", &Command{ID: someID, Kind: CommandReboot}, true},
		{"full command", &Command{ID: someID, Kind: CommandRun, Args: args(64, 128), Text: strings.Repeat("x", MaxCommandText), Timeout: Duration(MaxCommandTimeout)}, true},
		{"unknown command", &Command{ID: someID, Kind: "self-destruct"}, true},
		{"command without an ID", &Command{Kind: CommandReboot}, false},
		{"command with an upper case ID", &Command{ID: strings.ToUpper(someID), Kind: CommandReboot}, false},
		{"command without a kind", &Command{ID: someID}, false},
		{"command with an odd kind", &Command{ID: someID, Kind: "re boot"}, false},
		{"command with a kind of hyphens", &Command{ID: someID, Kind: "-"}, false},
		{"many arguments", &Command{ID: someID, Kind: CommandRun, Args: args(65, 1)}, false},
		{"long arguments", &Command{ID: someID, Kind: CommandRun, Args: args(1, MaxCommandArgBytes+1)}, false},
		{"zero byte", &Command{ID: someID, Kind: CommandRun, Args: []string{"a\x00b"}}, false},
		{"long text", &Command{ID: someID, Kind: CommandMessage, Text: strings.Repeat("x", MaxCommandText+1)}, false},
		{"long command", &Command{ID: someID, Kind: CommandRun, Timeout: Duration(MaxCommandTimeout + 1)}, false},
		{"negative time", &Command{ID: someID, Kind: CommandRun, Timeout: -1}, false},
		{"result", &Result{ID: someID, Output: strings.Repeat("x", MaxOutput), Exit: 255}, true},
		{"result by a signal", &Result{ID: someID, Exit: -1}, true},
		{"result without an ID", &Result{}, false},
		{"long output", &Result{ID: someID, Output: strings.Repeat("x", MaxOutput+1)}, false},
		{"long error", &Result{ID: someID, Error: strings.Repeat("x", MaxResultError+1)}, false},
		{"exit code", &Result{ID: someID, Exit: 256}, false},
		{"event", &Event{Kind: EventLoginHost, Text: strings.Repeat("x", MaxEventText)}, true},
		{"unknown event", &Event{Kind: "printer", Text: "x"}, true},
		{"event without a text", &Event{Kind: EventPolicy}, false},
		{"event without a kind", &Event{Text: "x"}, false},
		{"event of two lines", &Event{Kind: EventPolicy, Text: "a\nb"}, false},
		{"long event", &Event{Kind: EventPolicy, Text: strings.Repeat("x", MaxEventText+1)}, false},
	}
	for _, tt := range tests {
		if err := tt.m.Validate(); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrBadMessage) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestCommandLimit(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]time.Duration{0: DefaultCommandTimeout, time.Second: time.Second, time.Hour: MaxCommandTimeout, -1: DefaultCommandTimeout} {
		if got := (&Command{Timeout: Duration(in)}).Limit(); got != want {
			t.Errorf("%v: got %v, want %v", in, got, want)
		}
	}
}

// TestClipOutput sends what comes out of ClipOutput: it must fit whatever the program printed.
func TestClipOutput(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 3*MaxOutput)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "short": []byte("a\tb\n"), "noise": noise,
		"line ends": bytes.Repeat([]byte("\n"), 3*MaxOutput), "quotes": bytes.Repeat([]byte(`"`), 3*MaxOutput), "zeros": make([]byte, 3*MaxOutput),
		"separators": bytes.Repeat([]byte("\u2028"), MaxOutput), "tags": bytes.Repeat([]byte("<"), 3*MaxOutput), "letters": bytes.Repeat([]byte("ü"), MaxOutput),
		"broken": bytes.Repeat([]byte("\xff"), 3*MaxOutput),
	} {
		out := ClipOutput(in)
		m := Message{Result: &Result{ID: someID, Output: out, Error: strings.Repeat("\n", MaxResultError)}}
		if err := m.Result.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := NewWriter(io.Discard).Write(m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !utf8.ValidString(out) || len(in) > 0 && len(out) < min(len(in), MaxOutput/3) {
			t.Errorf("%s: %d bytes left of %d", name, len(out), len(in))
		}
	}
	if got := ClipOutput([]byte("the end is what counts\x1b[31m\n")); got != "the end is what counts [31m\n" {
		t.Errorf("got %q", got)
	}
	if got := ClipOutput(append(bytes.Repeat([]byte("x"), MaxOutput), "end"...)); !strings.HasSuffix(got, "xend") || len(got) != MaxOutput {
		t.Errorf("%d bytes, not the end", len(got))
	}
}

func TestBlobsFollowTheirLines(t *testing.T) {
	t.Parallel()
	first, second := bytes.Repeat([]byte("{\"ack\":{}}\n"), 20_000), []byte{}
	var wire bytes.Buffer
	w := NewWriter(&wire)
	for _, data := range [][]byte{first, second} {
		if err := w.Write(Message{Blob: &Blob{uint64(len(data)), Digest(data)}}); err != nil {
			t.Fatal(err)
		}
		wire.Write(data)
	}
	if err := w.Write(Message{Ack: &Ack{Error: "end"}}); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&wire)
	for i, want := range [][]byte{first, second} {
		m, err := r.Read()
		if err != nil || m.Blob == nil {
			t.Fatalf("line %d: %+v, %v", i, m, err)
		}
		var got bytes.Buffer
		if err := r.ReadBlob(*m.Blob, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("blob %d: %d bytes, %v", i, got.Len(), err)
		}
	}
	if m, err := r.Read(); err != nil || m.Ack == nil {
		t.Errorf("line behind the blobs: %+v, %v", m, err)
	}
}

func TestReadBlobErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		blob Blob
		in   string
		want error
	}{
		{"cut", Blob{4, Digest([]byte("abcd"))}, "abc", io.ErrUnexpectedEOF},
		{"other bytes", Blob{4, Digest([]byte("abcd"))}, "abce", ErrBlob},
		{"too large", Blob{MaxBlob + 1, someDigest}, "", ErrBadMessage},
		{"no digest", Blob{Size: 4}, "abcd", ErrBadMessage},
	}
	for _, tt := range tests {
		if err := NewReader(strings.NewReader(tt.in)).ReadBlob(tt.blob, io.Discard); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func FuzzClipOutput(f *testing.F) {
	f.Add([]byte("plain\n"), 1)
	f.Add([]byte("\xff\xfe\x00\u2028\""), 20_000)
	f.Fuzz(func(t *testing.T, b []byte, times int) {
		if times < 0 || times > 100_000 || len(b)*times > 1<<20 {
			return
		}
		m := Message{Result: &Result{ID: someID, Output: ClipOutput(bytes.Repeat(b, times))}}
		if err := m.Result.Validate(); err != nil {
			t.Error(err)
		}
		if err := NewWriter(io.Discard).Write(m); err != nil {
			t.Error(err)
		}
	})
}
