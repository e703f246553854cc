package accounts

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
)

// maxHostKeys bounds the host keys of this machine.
const maxHostKeys = 16

// watchLocal calls found for each state of this machine's accounts until ctx ends. The error is a *failure.
func (w *Watcher) watchLocal(ctx context.Context, found func(texts, []string) error) error {
	tick := time.NewTicker(accountfeed.Poll)
	defer tick.Stop()
	before := ""
	for {
		now, err := w.stamp()
		if err == nil && now != before {
			var t texts
			var keys []string
			if t, keys, err = w.readLocal(); err == nil {
				err = found(t, keys)
			}
			before = now
		}
		if err != nil {
			return &failure{Failed, fmt.Errorf("read the accounts of this machine: %w", err)}
		}
		select {
		case <-ctx.Done():
			return &failure{Failed, ctx.Err()}
		case <-tick.C:
		}
	}
}

// stamp changes when one of the files does.
func (w *Watcher) stamp() (string, error) {
	var out strings.Builder
	for _, path := range append([]string{w.path("passwd"), w.path("group")}, w.hostKeyFiles()...) {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&out, path, info.Size(), info.ModTime().UnixNano())
	}
	return out.String(), nil
}

func (w *Watcher) path(name string) string { return filepath.Join(w.cfg.Etc, name) }

func (w *Watcher) hostKeyFiles() []string {
	files, err := filepath.Glob(w.path("ssh/ssh_host_*_key.pub"))
	if err != nil {
		return nil // the pattern is good
	}
	slices.Sort(files)
	return files[:min(len(files), maxHostKeys)]
}

func (w *Watcher) readLocal() (texts, []string, error) {
	passwd, err := readBounded(w.path("passwd"))
	if err != nil {
		return texts{}, nil, err
	}
	group, err := readBounded(w.path("group"))
	if err != nil {
		return texts{}, nil, err
	}
	var keys []string
	for _, file := range w.hostKeyFiles() {
		text, err := readBounded(file)
		if err != nil {
			return texts{}, nil, err
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
		if err != nil {
			w.log.Warn("host key is unusable", "file", file, "err", err)
			continue
		}
		keys = append(keys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	}
	return texts{passwd, group}, keys, nil
}

// readBounded reads a file of at most maxText bytes.
func readBounded(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("%s has more than %d bytes", path, maxText)
	}
	return string(text), err
}
