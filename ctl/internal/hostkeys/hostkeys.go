// Package hostkeys asks an SSH server for its host keys. Only ltspctl uses it, and it is the only importer of the SSH library there.
package hostkeys

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is a public host key.
type Key struct {
	Type        string // such as ssh-ed25519
	Line        string // TYPE BASE64, as in known_hosts behind the names
	Fingerprint string // SHA256:..., as ssh-keygen -l shows it
}

// handshakeTimeout bounds one handshake.
const handshakeTimeout = 10 * time.Second

// kinds are the sorts of keys that are asked for, one handshake each, and how signatures with them are called.
var kinds = [][]string{
	{ssh.KeyAlgoED25519},
	{ssh.KeyAlgoECDSA256}, {ssh.KeyAlgoECDSA384}, {ssh.KeyAlgoECDSA521},
	{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// errSeen ends a handshake when the key is known: nobody logs in.
var errSeen = errors.New("the key was seen")

// Scan returns the keys that the server at addr (HOST:PORT) has proven to hold, in the order of preference. An error means that it gave none.
func Scan(ctx context.Context, addr string) ([]Key, error) {
	var keys []Key
	var failed error
	for _, algorithms := range kinds {
		key, err := ask(ctx, addr, algorithms)
		if err != nil {
			if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || ctx.Err() != nil {
				return nil, fmt.Errorf("ask %s for its host key: %w", addr, err)
			}
			failed = err // it has no key of this sort
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("ask %s for its host key: %w", addr, failed)
	}
	return keys, nil
}

func ask(ctx context.Context, addr string, algorithms []string) (Key, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return Key{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // which ends what is under way
	defer stop()
	var seen ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "ltsp", HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errSeen
		},
	})
	if seen == nil {
		if err == nil {
			err = errors.New("a handshake without a key")
		}
		return Key{}, err
	}
	return newKey(seen), nil
}

func newKey(k ssh.PublicKey) Key {
	return Key{Type: k.Type(), Line: k.Type() + " " + base64.StdEncoding.EncodeToString(k.Marshal()), Fingerprint: ssh.FingerprintSHA256(k)}
}

// Parse reads a line of known_hosts or authorized_keys without names and options: TYPE BASE64, perhaps with a comment.
func Parse(line string) (Key, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Key{}, fmt.Errorf("host key %q: want a type such as ssh-ed25519 and the key in base64", line)
	}
	if len(options) > 0 || len(rest) > 0 {
		return Key{}, fmt.Errorf("host key %q: want one key without options", line)
	}
	return newKey(k), nil
}
