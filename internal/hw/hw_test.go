package hw

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestParseMAC(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{"52:54:00:67:00:10", "52:54:00:67:00:10"},
		{"52-54-00-67-00-1A", "52:54:00:67:00:1a"},
		{"5254.0067.0010", "52:54:00:67:00:10"},
		{"ff:ff:ff:ff:ff:ff", ""},
		{"01:00:5e:00:00:01", ""},
		{"00:00:00:00:00:00", ""},
		{"52:54:00:67:00", ""},
		{"52:54:00:67:00:10:11:12", ""},
		{"", ""},
	}
	for _, tt := range tests {
		got, err := ParseMAC(tt.in)
		if tt.want == "" {
			if !errors.Is(err, ErrNoMAC) {
				t.Errorf("%q: got %v, %v, want ErrNoMAC", tt.in, got, err)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%q: got %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestParseBOOTIF(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in string
		ok bool
	}{
		{"01-52-54-00-67-00-10", true},
		{"52-54-00-67-00-10", false},
		{"20-52-54-00-67-00-10", false},
		{"01-52-54-00-67-00", false},
	}
	for _, tt := range tests {
		got, err := ParseBOOTIF(tt.in)
		if (err == nil) != tt.ok || tt.ok && got.String() != "52:54:00:67:00:10" {
			t.Errorf("%q: got %v, %v", tt.in, got, err)
		}
	}
}

func TestUUID(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"upper case", "67000000-0000-4000-8000-00000000001A\n", "67000000-0000-4000-8000-00000000001a"},
		{"zeros", "00000000-0000-0000-0000-000000000000\n", ""},
		{"all F", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n", ""},
		{"text", "Not Settable\n", ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := UUID(fstest.MapFS{UUIDPath: {Data: []byte(tt.text)}})
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	if got, err := UUID(fstest.MapFS{}); err != nil || got != "" {
		t.Errorf("no file: got %q, %v", got, err)
	}
	if _, err := UUID(fstest.MapFS{UUIDPath: {Mode: fs.ModeDir}}); err == nil {
		t.Error("an unreadable file gave no error")
	}
}
