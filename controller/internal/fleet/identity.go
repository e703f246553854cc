package fleet

import (
	"slices"
	"time"
)

// Certificate is one that the CA issued and that counts until it is taken off its owner's list.
type Certificate struct {
	Serial  string    `json:"serial"` // lower-case hex
	Expires time.Time `json:"expires"`
}

// maxCertificates bounds an owner's list: who renews again and again without ever using what it got loses the older ones.
const maxCertificates = 8

// Satellite is an enrolled satellite. Key: Name. A revoked one stays in the list, and its name stays taken, until it is deleted.
type Satellite struct {
	Name         string        `json:"name"`
	Site         string        `json:"site"`
	Enrolled     time.Time     `json:"enrolled"`
	Revoked      bool          `json:"revoked,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"` // the newest last
}

// Admin is an identity of an admin. Key: Name.
type Admin struct {
	Name         string        `json:"name"`
	Enrolled     time.Time     `json:"enrolled"`
	Revoked      bool          `json:"revoked,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"` // the newest last
}

// Accepts tells whether a list holds the serial. Only certificates on their owner's list count, so one that was issued to an earlier
// owner of the name does not.
func Accepts(list []Certificate, serial string) bool {
	return slices.ContainsFunc(list, func(c Certificate) bool { return c.Serial == serial })
}

// Renewed returns the list after its certificate used was exchanged for next. What is older than used goes (used has been seen in use), used itself
// stays until next is seen in use. An empty used stands for a repeated enrolment: nothing but next is known to be in anybody's hands.
func Renewed(list []Certificate, used string, next Certificate) []Certificate {
	i := slices.IndexFunc(list, func(c Certificate) bool { return c.Serial == used })
	kept := slices.Clone(list[max(i, 0):])
	if len(kept) >= maxCertificates {
		kept = append(kept[:1:1], kept[len(kept)-maxCertificates+2:]...)
	}
	return append(kept, next)
}

// Expires is when the newest certificate of a list ends; zero for an empty list.
func Expires(list []Certificate) time.Time {
	if len(list) == 0 {
		return time.Time{}
	}
	return list[len(list)-1].Expires
}

// Role says what a join token makes of its user.
type Role string

// Roles.
const (
	RoleSatellite Role = "satellite"
	RoleAdmin     Role = "admin"
)

// Token is a join token without its secret. Key: ID.
type Token struct {
	ID        string    `json:"id"`
	Role      Role      `json:"role"`
	Site      string    `json:"site,omitempty"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	CreatedBy string    `json:"created_by"`
	Revoked   bool      `json:"revoked,omitempty"`
	UsedBy    string    `json:"used_by,omitempty"`
	Used      time.Time `json:"used,omitzero"`
	// UsedKey is the SHA-256 of the public key that was certified: who lost the answer may ask again with that key.
	UsedKey Hash `json:"used_key"`
}

// State is "open", "used", "expired" or "revoked".
func (t *Token) State(now time.Time) string {
	switch {
	case t.UsedBy != "":
		return "used"
	case t.Revoked:
		return "revoked"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "open"
}

// Lifetimes of join tokens.
const (
	DefaultTokenLifetime = 24 * time.Hour
	MinTokenLifetime     = time.Minute
	MaxTokenLifetime     = 30 * 24 * time.Hour
)

// TokenLifetime checks a wish; 0 means the default.
func TokenLifetime(wish time.Duration) (time.Duration, error) {
	if wish == 0 {
		return DefaultTokenLifetime, nil
	}
	if wish < MinTokenLifetime || wish > MaxTokenLifetime {
		return 0, invalid("token lifetime %s: want %s to %s", wish, MinTokenLifetime, MaxTokenLifetime)
	}
	return wish, nil
}
