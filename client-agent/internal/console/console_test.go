package console

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogger(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	log := NewLogger(Config{Writer: &buf, Prefix: "ltsp-agent"})
	log.Debug("not seen")
	log.Info("root mounted", "image", "lab", "size", 7)
	log.With("stage", "nbd").WithGroup("g").Warn("cannot\nconnect", "err", errors.New(`dial "x": refused`), "empty", "")
	want := "ltsp-agent: root mounted image=lab size=7\n" +
		`ltsp-agent: cannot connect stage=nbd err="dial \"x\": refused" empty=""` + "\n"
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Error(diff)
	}
}

func TestKernelPriority(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	log := NewLogger(Config{Writer: &buf, Prefix: "k", Kernel: true, Level: slog.LevelDebug})
	log.Debug("d")
	log.Info("i")
	log.Warn("w")
	log.Error("e")
	if diff := cmp.Diff("<31>k: d\n<30>k: i\n<28>k: w\n<27>k: e\n", buf.String()); diff != "" {
		t.Error(diff)
	}
}
