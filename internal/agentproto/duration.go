package agentproto

import (
	"encoding/json"
	"fmt"
	"time"
)

// MarshalJSON writes d as time.Duration.String does, for example "1m30s".
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads a string that time.ParseDuration understands. A bare number is refused: its unit would be a guess.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("duration %.32q is not a string such as \"5s\"", data)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %.32q: want a string such as \"5s\"", s)
	}
	*d = Duration(v)
	return nil
}

// String returns d as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }
