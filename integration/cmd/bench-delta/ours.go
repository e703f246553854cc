package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Framing of the transport: gRPC messages of 256 KiB with 5 bytes each, cut into HTTP/2 DATA frames of 16 KiB with 9 bytes each
// (RFC 9113 section 4.1), each in a TLS 1.3 record with 5 bytes of header, 1 of type and 16 of tag (RFC 8446 section 5.2). The
// connection exists; its handshake is not counted, and neither is TCP/IP, for no tool.
const (
	messageBytes    = 256 << 10
	messageOverhead = 5
	frameBytes      = 16 << 10
	frameOverhead   = 9 + 22
)

// framed is what n bytes of payload cost on top when they are sent.
func framed(n int64) int64 {
	return ceil(n, messageBytes)*messageOverhead + ceil(n, frameBytes)*frameOverhead
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

// ours makes and applies a delta with ltspctl.
type ours struct {
	ltspctl  string
	manifest string // a signed manifest without lists, as a satellite gets it before anything else; empty: a usual one is made up
}

func (ours) Name() string { return "ltsp" }

// Identity is empty: what this repository makes is measured each time.
func (ours) Identity(context.Context) (string, error) { return "", nil }

func (o ours) Run(ctx context.Context, p pair, dir string) (result, error) {
	path := filepath.Join(dir, "delta")
	var r result
	var err error
	if r.Sender, _, err = measure(ctx, dir, o.ltspctl, "delta", "make", p.old, p.new, "-o", path); err != nil {
		return r, fmt.Errorf("make delta: %w", err)
	}
	if r.Receiver, _, err = measure(ctx, dir, o.ltspctl, "delta", "apply", p.old, path, "-o", filepath.Join(dir, output)); err != nil {
		return r, fmt.Errorf("apply delta: %w", err)
	}
	size, err := fileSize(path)
	if err != nil {
		return r, err
	}
	index, err := indexLength(path)
	if err != nil {
		return r, err
	}
	head, err := o.headBytes()
	if err != nil {
		return r, err
	}
	r.Overhead = head + framed(head) + framed(size)
	r.Wire = size + r.Overhead
	r.FirstRead = head + framed(head) + index + framed(index)
	return r, nil
}

// indexLength reads how many bytes of a delta come before the first group: with them a satellite can export the new version.
func indexLength(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	prefix := make([]byte, delta.PrefixBytes)
	if _, err := io.ReadFull(file, prefix); err != nil {
		return 0, fmt.Errorf("index of delta: %w", err)
	}
	return delta.IndexLength(prefix)
}

// headBytes is the size of the signed manifest that precedes a delta.
func (o ours) headBytes() (int64, error) {
	if o.manifest != "" {
		return fileSize(o.manifest)
	}
	m := &manifest.Manifest{
		Kind: manifest.Image, Name: "bookworm-desktop", Number: 12, Created: time.Unix(1<<30, 0).UTC(), Arch: "amd64",
		Release: "6.1.0-50-amd64", OS: "Debian GNU/Linux 12 (bookworm)", Note: "weekly security updates",
		Source: "/srv/ltsp/bookworm-desktop", Publisher: "admin@build-host", Digest: [32]byte{1},
	}
	for _, name := range []string{manifest.Squashfs, manifest.Kernel, manifest.InitrdFull, manifest.InitrdSchool} {
		ref := chunk.Ref{ID: chunk.ID{1}, Size: 1}
		m.Artifacts = append(m.Artifacts, manifest.Artifact{Name: name, Path: "boot/initrd.img-6.1.0-50-amd64", Size: 1, Chunks: []chunk.Ref{ref}})
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	signed, err := manifest.Sign(m, key)
	if err != nil {
		return 0, err
	}
	head, err := manifest.WithLists(signed, m, func(string) bool { return false })
	return int64(len(head)), err
}
