package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// peerCache keeps what tools that this repository does not make have measured, by image and by tool.
type peerCache struct {
	dir  string
	read bool // else it is only written
}

// entry is one file of the cache. Only Result is read; the rest is for people.
type entry struct {
	Tool   string `json:"tool"`
	Old    string `json:"old_sha256"`
	New    string `json:"new_sha256"`
	Result result `json:"result"`
}

// path is empty for a tool that has no identity.
func (c peerCache) path(ctx context.Context, t tool, old, new fileID) (string, error) {
	identity, err := t.Identity(ctx)
	if err != nil || identity == "" {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n", t.Name(), identity, old.SHA256, new.SHA256))
	return filepath.Join(c.dir, t.Name()+"-"+hex.EncodeToString(key[:8])+".json"), nil
}

// load returns an earlier result, or false.
func (c peerCache) load(path string) (result, bool, error) {
	if !c.read || path == "" {
		return result{}, false, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return result{}, false, nil
	}
	if err != nil {
		return result{}, false, err
	}
	var e entry
	if err := json.Unmarshal(content, &e); err != nil {
		return result{}, false, fmt.Errorf("%s: %w", path, err)
	}
	e.Result.Reused = true
	return e.Result, true, nil
}

// save keeps a result for load.
func (c peerCache) save(path string, t tool, old, new fileID, r result) error {
	if path == "" {
		return nil
	}
	content, err := json.MarshalIndent(entry{Tool: t.Name(), Old: old.SHA256, New: new.SHA256, Result: r}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
