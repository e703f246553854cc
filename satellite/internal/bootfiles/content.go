package bootfiles

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
)

// content is what ServeContent reads: the file itself, for net/http uses sendfile only if it finds an *os.File.
func content(f *File) io.ReadSeeker { return f.ReadSeeker }

// Status is the body of /status.
type Status struct {
	Satellite string                `json:"satellite"`
	Site      string                `json:"site"`
	Revision  uint64                `json:"revision"` // of the configuration
	Versions  []VersionStatus       `json:"versions"`
	Clients   map[clients.State]int `json:"clients,omitempty"` // by state
}

// VersionStatus is one version in Status.
type VersionStatus struct {
	Image      string        `json:"image"`
	Number     uint64        `json:"number"`
	Kind       manifest.Kind `json:"kind"`
	ID         string        `json:"id"`
	Verified   bool          `json:"verified"` // it is served
	BytesDone  uint64        `json:"bytes_done"`
	BytesTotal uint64        `json:"bytes_total"`
}

func (s *Server) serveHealth(w http.ResponseWriter) {
	s.metrics.requests[kindStatus].Inc()
	w.Header().Set("Cache-Control", "no-store")
	if s.cfg.Tree.Menu() == nil {
		http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok\n") // the client may be gone
}

func (s *Server) serveStatus(w http.ResponseWriter) {
	s.metrics.requests[kindStatus].Inc()
	st := Status{Versions: []VersionStatus{}}
	if m := s.cfg.Tree.Menu(); m != nil {
		st.Satellite, st.Site, st.Revision = m.Satellite(), m.Site(), m.Revision()
		for _, v := range m.Versions() {
			st.Versions = append(st.Versions, VersionStatus{
				Image: v.Image, Number: v.Number, Kind: v.Kind, ID: v.ID.String(), Verified: v.Verified, BytesDone: v.BytesDone, BytesTotal: v.BytesTotal,
			})
		}
	}
	if s.cfg.Clients != nil {
		st.Clients = s.cfg.Clients()
	}
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		s.log.Error("status cannot be encoded", "err", err)
		http.Error(w, "status cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(text, '\n')) // the client may be gone
}
