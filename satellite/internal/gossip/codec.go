package gossip

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Bounds of a message. decode refuses what exceeds them.
const (
	maxMessageBytes = 1 << 20
	maxNodes        = 64
	maxVersions     = 256
	maxText         = 200
)

// messageVersion is the format that this program writes; it reads only this one.
const messageVersion = 1

// errMessage means bytes that are no message.
var errMessage = errors.New("malformed gossip message")

// message is a table of satellites, in JSON. A satellite's entry with a higher Sequence replaces one with a lower.
type message struct {
	Version int    `json:"v"`
	Nodes   []node `json:"nodes"`
}

// node is what one satellite says of itself. Sequence begins with the clock in nanoseconds, so that it grows over restarts.
type node struct {
	Name     string   `json:"name"`
	Sequence uint64   `json:"seq"`
	Versions []string `json:"versions,omitempty"`
	Left     bool     `json:"left,omitempty"` // it has left by intention
}

func encode(nodes []node) []byte {
	b, err := json.Marshal(message{Version: messageVersion, Nodes: nodes[:min(len(nodes), maxNodes)]})
	if err != nil {
		return nil // strings and numbers can always be encoded
	}
	return b
}

func decode(b []byte) ([]node, error) {
	if len(b) > maxMessageBytes {
		return nil, fmt.Errorf("%w: %d bytes", errMessage, len(b))
	}
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	if m.Version != messageVersion || len(m.Nodes) > maxNodes {
		return nil, fmt.Errorf("%w: version %d with %d nodes", errMessage, m.Version, len(m.Nodes))
	}
	for _, n := range m.Nodes {
		if n.Name == "" || len(n.Name) > maxText || len(n.Versions) > maxVersions {
			return nil, fmt.Errorf("%w: node %q with %d versions", errMessage, n.Name[:min(len(n.Name), maxText)], len(n.Versions))
		}
		for _, v := range n.Versions {
			if len(v) > maxText {
				return nil, fmt.Errorf("%w: version name of %d bytes", errMessage, len(v))
			}
		}
	}
	return m.Nodes, nil
}
