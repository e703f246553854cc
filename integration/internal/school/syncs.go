package school

import (
	"context"
	"fmt"
)

// SyncInfo is what `ltspctl image sync-plan -o json` says of one version on one satellite, as far as tests look.
type SyncInfo struct {
	Satellite string  `json:"satellite"`
	Version   string  `json:"version"` // IMAGE@NUMBER
	State     string  `json:"state"`
	Done      uint64  `json:"done_bytes"`
	Total     uint64  `json:"total_bytes"`
	Fetched   uint64  `json:"fetched_bytes"`
	Method    string  `json:"method"`
	Base      string  `json:"base"` // IMAGE@NUMBER
	Reason    string  `json:"reason"`
	Wire      uint64  `json:"wire_bytes"`
	Expected  float64 `json:"expected_seconds"`
	Behind    string  `json:"behind"`
	Error     string  `json:"error"`
	Options   []struct {
		Method      string `json:"method"`
		Wire        uint64 `json:"wire_bytes"`
		Unavailable string `json:"unavailable"`
	} `json:"options"`
}

// Option is how many bytes a way would take over the line, as it was weighed; 0 if it was not.
func (i *SyncInfo) Option(method string) uint64 {
	for _, o := range i.Options {
		if o.Method == method {
			return o.Wire
		}
	}
	return 0
}

// Sync is what the controller knows of the way in which a version (IMAGE@NUMBER) comes to a satellite.
func (s *School) Sync(ctx context.Context, satellite, version string) (*SyncInfo, error) {
	var all []SyncInfo
	if err := s.CtlJSON(ctx, &all, "image", "sync-plan", version); err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Satellite == satellite {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("satellite %s has told nothing of %s", satellite, version)
}
