package reports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Policy is the policy state of one client and the bytes that it names.
type Policy struct {
	// Text is the JSON text of the state, SHA256 its digest in hex.
	Text   []byte
	SHA256 string
	// Open returns the bytes that the state names by their SHA-256 in hex, and how many there are. An error's text goes to the client.
	Open func(name string) (io.ReadCloser, int64, error)
}

// pieceBytes is how much of a blob is written at once; each piece has the time of a line.
const pieceBytes = 64 << 10

// errNotNamed is for what a client may not have, which includes what there is not.
var errNotNamed = errors.New("nothing of that name belongs to this client")

// beginFetch counts a fetch stream; false: there are too many.
func (s *Server) beginFetch() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching >= s.cfg.MaxFetches {
		return false
	}
	s.fetching++
	s.metrics.fetching.Inc()
	return true
}

func (s *Server) endFetch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetching--
	s.metrics.fetching.Dec()
}

// serveFetch answers a fetch line. An error ends the stream; what can't be had is an answer and no error.
func (st *stream) serveFetch(name string) error {
	s := st.server
	r, blob, err := st.open(name)
	if err != nil {
		s.metrics.fetched("refused")
		s.log.Debug("fetch refused", "client", st.mac, "addr", st.addr, "err", err)
		return st.send(agentproto.Message{Ack: &agentproto.Ack{Next: s.next(), Error: err.Error()}})
	}
	defer r.Close()
	if err := st.sendBlob(blob, r); err != nil {
		s.metrics.fetched("error")
		return err
	}
	s.metrics.fetched("ok")
	s.metrics.lines["fetch"].Inc()
	return nil
}

// open finds what the client asks for. Only what the last policy state on this stream names can be had.
func (st *stream) open(name string) (io.ReadCloser, agentproto.Blob, error) {
	cfg := st.server.cfg
	if st.fetches++; st.fetches > cfg.MaxStreamFetches {
		return nil, agentproto.Blob{}, fmt.Errorf("more than %d fetches on one stream", cfg.MaxStreamFetches)
	}
	blob := agentproto.Blob{SHA256: name}
	var r io.ReadCloser
	if name == agentproto.PolicyName {
		p, err := cfg.Policy(st.mac, st.addr, st.local)
		if err != nil {
			return nil, blob, err
		}
		st.policy = &p
		blob = agentproto.Blob{Size: uint64(len(p.Text)), SHA256: p.SHA256}
		r = io.NopCloser(bytes.NewReader(p.Text))
	} else {
		if st.policy == nil {
			return nil, blob, errNotNamed
		}
		var size int64
		var err error
		if r, size, err = st.policy.Open(name); err != nil {
			return nil, blob, err
		}
		blob.Size = uint64(size)
	}
	if st.bytes += blob.Size; st.bytes > cfg.MaxStreamBytes {
		_ = r.Close() // only opened
		return nil, blob, fmt.Errorf("more than %d bytes on one stream", cfg.MaxStreamBytes)
	}
	return r, blob, nil
}

// sendBlob writes the line and exactly the bytes that it announces.
func (st *stream) sendBlob(b agentproto.Blob, r io.Reader) error {
	if err := b.Validate(); err != nil {
		return err
	}
	st.write.Lock()
	defer st.write.Unlock()
	if err := st.writeLocked(agentproto.Message{Blob: &b}); err != nil {
		return err
	}
	buf := make([]byte, min(pieceBytes, b.Size))
	for left := b.Size; left > 0; {
		piece := buf[:min(uint64(len(buf)), left)]
		if _, err := io.ReadFull(r, piece); err != nil {
			return fmt.Errorf("read what the client fetches: %w", err)
		}
		if err := st.conn.SetWriteDeadline(time.Now().Add(st.server.cfg.WriteTimeout)); err != nil {
			return err
		}
		if _, err := st.conn.Write(piece); err != nil {
			return err
		}
		left -= uint64(len(piece))
		st.server.metrics.bytes.Add(float64(len(piece)))
	}
	return nil
}
