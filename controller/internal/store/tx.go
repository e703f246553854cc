package store

import (
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

// Kind names a sort of records; it is the name of their bucket too.
type Kind string

// Kinds of records. Those from KindStatus on are reports.
const (
	KindImage     Kind = "image"
	KindVersion   Kind = "version"
	KindSite      Kind = "site"
	KindSubnet    Kind = "subnet"
	KindSatellite Kind = "satellite"
	KindClient    Kind = "client"
	KindToken     Kind = "token"
	KindAdmin     Kind = "admin"
	KindPolicy    Kind = "policy"
	// KindPolicyVersion holds what KindPolicy holds and the versions before it.
	KindPolicyVersion Kind = "policy_version"
	KindStatus        Kind = "status"
	KindClientReport  Kind = "client_report"
	KindPlan          Kind = "plan"
	KindTrace         Kind = "trace"
	KindClientEvent   Kind = "client_event"
)

// KindCommand names what clients were told to do, in audit entries; there are no records of it.
const KindCommand Kind = "command"

// Buckets that hold no records.
const (
	bucketManifest   = "manifest"    // signed manifests by the version's key
	bucketSecret     = "secret"      // what no audit entry may show
	bucketClientSite = "client_site" // MAC -> site
	bucketVersionID  = "version_id"  // version ID -> the version's key
	bucketAudit      = "audit"
	bucketMeta       = "meta"
)

type mode int

const (
	modeView mode = iota
	modeUpdate
	modeRecord
)

// Tx is one transaction. It belongs to the goroutine that runs the function it was given to.
type Tx struct {
	bolt    *bolt.Tx
	mode    mode
	kinds   map[Kind]bool
	sites   map[string]bool
	before  map[string]json.RawMessage // by kind/key, the state before the transaction
	after   map[string]json.RawMessage
	touched []string // keys of before and after in the order of the first touch
}

func newTx(b *bolt.Tx, m mode) *Tx {
	return &Tx{bolt: b, mode: m, kinds: map[Kind]bool{}, sites: map[string]bool{}, before: map[string]json.RawMessage{}, after: map[string]json.RawMessage{}}
}

var errReadOnly = errors.New("write in a transaction that must not")

// mayWrite guards the line between decisions and reports.
func (tx *Tx) mayWrite(kind Kind) error {
	report := kind == KindStatus || kind == KindClientReport || kind == KindPlan || kind == KindTrace || kind == KindClientEvent
	switch tx.mode {
	case modeUpdate:
		return nil
	case modeRecord:
		if report {
			return nil
		}
	}
	return fmt.Errorf("%w: %s", errReadOnly, kind)
}

func (tx *Tx) commit() Commit {
	c := Commit{Audited: tx.mode == modeUpdate}
	for k := range tx.kinds {
		c.Kinds = append(c.Kinds, k)
	}
	for s := range tx.sites {
		c.Sites = append(c.Sites, s)
	}
	return c
}

// Images returns the table of images, by name.
func (tx *Tx) Images() Table[fleet.Image] {
	return Table[fleet.Image]{tx: tx, kind: KindImage, what: "image"}
}

// Versions returns the table of versions, by VersionKey.
func (tx *Tx) Versions() Table[fleet.Version] {
	return Table[fleet.Version]{tx: tx, kind: KindVersion, what: "version"}
}

// Sites returns the table of sites, by name.
func (tx *Tx) Sites() Table[fleet.Site] {
	return Table[fleet.Site]{tx: tx, kind: KindSite, what: "site", site: func(s *fleet.Site) string { return s.Name }}
}

// Subnets returns the table of subnets, by SITE/NAME.
func (tx *Tx) Subnets() Table[fleet.Subnet] {
	return Table[fleet.Subnet]{tx: tx, kind: KindSubnet, what: "subnet", site: func(s *fleet.Subnet) string { return s.Site }}
}

// Satellites returns the table of satellites, by name.
func (tx *Tx) Satellites() Table[fleet.Satellite] {
	return Table[fleet.Satellite]{tx: tx, kind: KindSatellite, what: "satellite", site: func(s *fleet.Satellite) string { return s.Site }}
}

// Tokens returns the table of join tokens, by ID.
func (tx *Tx) Tokens() Table[fleet.Token] {
	return Table[fleet.Token]{tx: tx, kind: KindToken, what: "token"}
}

// Admins returns the table of admins, by name.
func (tx *Tx) Admins() Table[fleet.Admin] {
	return Table[fleet.Admin]{tx: tx, kind: KindAdmin, what: "admin"}
}

// Statuses returns the table of satellites' last reports, by name.
func (tx *Tx) Statuses() Table[fleet.Status] {
	return Table[fleet.Status]{tx: tx, kind: KindStatus, what: "status"}
}

// ClientReports returns the table of clients' last reports, by SITE/MAC.
func (tx *Tx) ClientReports() Table[fleet.ClientReport] {
	return Table[fleet.ClientReport]{tx: tx, kind: KindClientReport, what: "client report", site: func(r *fleet.ClientReport) string { return r.Site }}
}

// Plans returns the table of the revisions of desired states, by site.
func (tx *Tx) Plans() Table[Plan] { return Table[Plan]{tx: tx, kind: KindPlan, what: "plan"} }

// Traces returns the table of boot traces, by version ID.
func (tx *Tx) Traces() Table[fleet.Trace] {
	return Table[fleet.Trace]{tx: tx, kind: KindTrace, what: "trace"}
}

// Plan says which desired state has which revision.
type Plan struct {
	Revision uint64     `json:"revision"`
	Sum      fleet.Hash `json:"sum"`
}

// clients returns the table of configured clients, by SITE/MAC. Writing goes through PutClient and DeleteClient, which keep the index.
func (tx *Tx) clients() Table[fleet.Client] {
	return Table[fleet.Client]{tx: tx, kind: KindClient, what: "client", site: func(c *fleet.Client) string { return c.Site }}
}

// Client returns the configuration of a client, wherever its site is. fleet.ErrNotFound if nobody configured it.
func (tx *Tx) Client(mac fleet.MAC) (fleet.Client, error) {
	site := tx.bolt.Bucket([]byte(bucketClientSite)).Get([]byte(mac))
	if site == nil {
		return fleet.Client{}, fleet.Errorf(fleet.ErrNotFound, "client %s is not configured", mac)
	}
	return tx.clients().Get(string(site) + "/" + string(mac))
}

// Clients lists the configured clients of a site, or of all if site is empty.
func (tx *Tx) Clients(site string) ([]fleet.Client, error) { return tx.clients().List(prefix(site)) }

// PutClient writes a client's configuration and takes it away from another site.
func (tx *Tx) PutClient(c fleet.Client) error {
	if err := tx.DeleteClient(c.MAC, c.Site); err != nil {
		return err
	}
	if err := tx.clients().Put(c.Site+"/"+string(c.MAC), c); err != nil {
		return err
	}
	return tx.bolt.Bucket([]byte(bucketClientSite)).Put([]byte(c.MAC), []byte(c.Site))
}

// DeleteClient removes a client's configuration, unless it is that of site except.
func (tx *Tx) DeleteClient(mac fleet.MAC, except string) error {
	index := tx.bolt.Bucket([]byte(bucketClientSite))
	site := string(index.Get([]byte(mac)))
	if site == "" || site == except {
		return nil
	}
	if err := tx.clients().Delete(site + "/" + string(mac)); err != nil {
		return err
	}
	return index.Delete([]byte(mac))
}

// prefix makes the keys' prefix of one site; empty means all.
func prefix(site string) string {
	if site == "" {
		return ""
	}
	return site + "/"
}

// Secret returns what PutSecret wrote, or nil.
func (tx *Tx) Secret(name string) []byte {
	return append([]byte(nil), tx.bolt.Bucket([]byte(bucketSecret)).Get([]byte(name))...)
}

// PutSecret keeps bytes that neither lists nor audit entries show. nil removes them.
func (tx *Tx) PutSecret(name string, secret []byte) error {
	if tx.mode != modeUpdate {
		return fmt.Errorf("%w: secret", errReadOnly)
	}
	b := tx.bolt.Bucket([]byte(bucketSecret))
	if secret == nil {
		return b.Delete([]byte(name))
	}
	return b.Put([]byte(name), secret)
}

// TokenSecret is the name under which the hash of a join token's secret is kept.
func TokenSecret(id string) string { return "token/" + id }

// GossipKey is the name under which the key of a site's gossip cluster is kept.
func GossipKey(site string) string { return "gossip/" + site }
