package store

import (
	"encoding/json"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
)

// Policies returns the table of the present versions of all levels of policy, by scope.
func (tx *Tx) Policies() Table[fleet.PolicyVersion] {
	return Table[fleet.PolicyVersion]{tx: tx, kind: KindPolicy, what: "policy of", site: policySite}
}

// policyVersions returns the table of all versions that are kept, the present ones too, by policyKey. What becomes of the present ones is in the
// audit log, so this table is not.
func (tx *Tx) policyVersions() Table[fleet.PolicyVersion] {
	return Table[fleet.PolicyVersion]{tx: tx, kind: KindPolicyVersion, what: "policy version", site: policySite, silent: true}
}

// policySite is the site that a version belongs to; empty for the organisation's, which all sites have.
func policySite(v *fleet.PolicyVersion) string {
	scope, _ := fleet.ParseScope(v.Scope) // it was checked on its way in
	return scope.Site
}

func policyKey(scope string, number uint64) string { return fmt.Sprintf("%s@%020d", scope, number) }

// PolicyVersion returns a version of a level. fleet.ErrNotFound if it is not kept.
func (tx *Tx) PolicyVersion(scope string, number uint64) (fleet.PolicyVersion, error) {
	v, ok, err := tx.policyVersions().Find(policyKey(scope, number))
	if err == nil && !ok {
		err = fleet.Errorf(fleet.ErrNotFound, "there is no policy %s", fleet.PolicyName(scope, number))
	}
	return v, err
}

// PolicyVersions lists the versions of a level that are kept, the oldest first.
func (tx *Tx) PolicyVersions(scope string) ([]fleet.PolicyVersion, error) {
	return tx.policyVersions().List(scope + "@")
}

// PutPolicy makes a new version the present one of its level, with the next number, and drops the versions beyond fleet.MaxPolicyVersions. A room
// too many for its site is fleet.ErrState.
func (tx *Tx) PutPolicy(v fleet.PolicyVersion) (fleet.PolicyVersion, error) {
	old, ok, err := tx.Policies().Find(v.Scope)
	if err != nil {
		return v, err
	}
	if scope, err := fleet.ParseScope(v.Scope); err != nil {
		return v, err
	} else if n := tx.Policies().Count("room/" + scope.Site + "/"); !ok && scope.Room != "" && n >= fleet.MaxRooms {
		return v, fleet.Errorf(fleet.ErrState, "%d rooms of site %s have a policy, no more are allowed", n, scope.Site)
	}
	v.Number = old.Number + 1
	if err := tx.policyVersions().Insert(policyKey(v.Scope, v.Number), v); err != nil {
		return v, err
	}
	if v.Number > fleet.MaxPolicyVersions {
		if err := tx.policyVersions().Delete(policyKey(v.Scope, v.Number-fleet.MaxPolicyVersions)); err != nil {
			return v, err
		}
	}
	return v, tx.Policies().Put(v.Scope, v)
}

// DeletePoliciesOf removes the policies of a site and its rooms, with all versions.
func (tx *Tx) DeletePoliciesOf(site string) error {
	for prefix, end := range map[string]string{"site/" + site: "@", "room/" + site: "/"} {
		if err := tx.policyVersions().DeleteAll(prefix + end); err != nil {
			return err
		}
	}
	if err := tx.Policies().DeleteAll("room/" + site + "/"); err != nil {
		return err
	}
	return tx.Policies().Delete("site/" + site)
}

// PoliciesOf lists the present versions of all levels that apply somewhere at a site; without a site that of the organisation.
func (tx *Tx) PoliciesOf(site string) ([]fleet.PolicyVersion, error) {
	scopes := []fleet.Scope{{}}
	var list []fleet.PolicyVersion
	if site != "" {
		scopes = append(scopes, fleet.Scope{Site: site})
		var err error
		if list, err = tx.Policies().List("room/" + site + "/"); err != nil {
			return nil, err
		}
	}
	for _, scope := range scopes {
		v, ok, err := tx.Policies().Find(scope.String())
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, v)
		}
	}
	return list, nil
}

// PolicyArchives lists the archives that any version names.
func (tx *Tx) PolicyArchives() (map[fleet.Hash]bool, error) {
	named := make(map[fleet.Hash]bool)
	err := tx.policyVersions().each("", func(_ string, v fleet.PolicyVersion) error {
		named[v.SHA256] = true
		return nil
	})
	return named, err
}

// clientEvents returns the table of events, by SITE/SEQUENCE.
func (tx *Tx) clientEvents() Table[fleet.ClientEvent] {
	return Table[fleet.ClientEvent]{tx: tx, kind: KindClientEvent, what: "client event", site: func(e *fleet.ClientEvent) string { return e.Site }}
}

func eventKey(site string, sequence uint64) string { return fmt.Sprintf("%s/%020d", site, sequence) }

// ClientEvents lists the events of all sites, those of a site in the order of their sequence.
func (tx *Tx) ClientEvents() ([]fleet.ClientEvent, error) { return tx.clientEvents().List("") }

// PutClientEvent keeps an event. With the newest of a site those go that are fleet.MaxClientEvents older, or more.
func (tx *Tx) PutClientEvent(e fleet.ClientEvent, newest bool) error {
	if err := tx.clientEvents().Put(eventKey(e.Site, e.Sequence), e); err != nil {
		return err
	}
	if !newest || e.Sequence <= fleet.MaxClientEvents {
		return nil
	}
	return tx.clientEvents().deleteRange(eventKey(e.Site, 0), eventKey(e.Site, e.Sequence-fleet.MaxClientEvents+1))
}

// DeleteClientEvents drops the events of a site.
func (tx *Tx) DeleteClientEvents(site string) error { return tx.clientEvents().DeleteAll(site + "/") }

// Note makes something that changes no record part of the audit entry, under the name KIND/KEY. It must not hold secrets.
func (tx *Tx) Note(kind Kind, key string, what any) error {
	if tx.mode != modeUpdate {
		return fmt.Errorf("%w: note", errReadOnly)
	}
	raw, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind, key, err)
	}
	name := string(kind) + "/" + key
	tx.kinds[kind] = true
	tx.touched = append(tx.touched, name)
	tx.after[name] = raw
	return nil
}
