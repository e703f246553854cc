package store

import (
	"bytes"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// VersionKey is the key of a version: such that keys sort by number.
func VersionKey(image string, number uint64) string { return fmt.Sprintf("%s@%020d", image, number) }

// Version returns a version. fleet.ErrNotFound if there is none.
func (tx *Tx) Version(image string, number uint64) (fleet.Version, error) {
	v, ok, err := tx.Versions().Find(VersionKey(image, number))
	if err == nil && !ok {
		err = fleet.Errorf(fleet.ErrNotFound, "there is no version %s", fleet.VersionName(image, number))
	}
	return v, err
}

// VersionsOf lists the versions of an image, the oldest first.
func (tx *Tx) VersionsOf(image string) ([]fleet.Version, error) {
	return tx.Versions().List(image + "@")
}

// VersionByID returns the version that consists of what id says, or false.
func (tx *Tx) VersionByID(id manifest.ID) (fleet.Version, bool, error) {
	key := tx.bolt.Bucket([]byte(bucketVersionID)).Get(id[:])
	if key == nil {
		return fleet.Version{}, false, nil
	}
	return tx.Versions().Find(string(key))
}

// PutVersion writes a new version and its signed manifest. fleet.ErrExists if its number or its ID is taken.
func (tx *Tx) PutVersion(v fleet.Version, signed []byte) error {
	ids := tx.bolt.Bucket([]byte(bucketVersionID))
	if ids.Get(v.ID[:]) != nil {
		return fleet.Errorf(fleet.ErrExists, "a version that consists of the same exists already")
	}
	key := VersionKey(v.Image, v.Number)
	if err := tx.Versions().Insert(key, v); err != nil {
		return err
	}
	if err := ids.Put(v.ID[:], []byte(key)); err != nil {
		return fmt.Errorf("write version ID of %s: %w", v.Name(), err)
	}
	if err := tx.bolt.Bucket([]byte(bucketManifest)).Put([]byte(key), signed); err != nil {
		return fmt.Errorf("write manifest of %s: %w", v.Name(), err)
	}
	return nil
}

// DeleteVersion removes a version and its manifest.
func (tx *Tx) DeleteVersion(v fleet.Version) error {
	key := VersionKey(v.Image, v.Number)
	if err := tx.Versions().Delete(key); err != nil {
		return err
	}
	if err := tx.Traces().Delete(v.ID.String()); err != nil {
		return err
	}
	if err := tx.bolt.Bucket([]byte(bucketVersionID)).Delete(v.ID[:]); err != nil {
		return fmt.Errorf("delete version ID of %s: %w", v.Name(), err)
	}
	if err := tx.bolt.Bucket([]byte(bucketManifest)).Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete manifest of %s: %w", v.Name(), err)
	}
	return nil
}

// Manifest returns a copy of the signed manifest of a version. fleet.ErrNotFound if there is none.
func (tx *Tx) Manifest(image string, number uint64) ([]byte, error) {
	raw := tx.bolt.Bucket([]byte(bucketManifest)).Get([]byte(VersionKey(image, number)))
	if raw == nil {
		return nil, fleet.Errorf(fleet.ErrNotFound, "there is no version %s", fleet.VersionName(image, number))
	}
	return bytes.Clone(raw), nil
}

// Library looks images and versions up within the transaction. A record that cannot be decoded counts as absent.
func (tx *Tx) Library() fleet.Library { return library{tx} }

type library struct{ tx *Tx }

func (l library) Image(name string) (fleet.Image, bool) {
	v, err := l.tx.Images().Get(name)
	return v, err == nil
}

func (l library) Version(image string, number uint64) (fleet.Version, bool) {
	v, err := l.tx.Version(image, number)
	return v, err == nil
}

// SatellitesOf lists the satellites of a site, revoked ones too; all if site is empty.
func (tx *Tx) SatellitesOf(site string) ([]fleet.Satellite, error) {
	all, err := tx.Satellites().List("")
	if err != nil || site == "" {
		return all, err
	}
	var list []fleet.Satellite
	for _, s := range all {
		if s.Site == site {
			list = append(list, s)
		}
	}
	return list, nil
}

// SubnetsOf lists the subnets of a site, or all if site is empty.
func (tx *Tx) SubnetsOf(site string) ([]fleet.Subnet, error) { return tx.Subnets().List(prefix(site)) }

// SiteView reads all from which a site's desired state is made.
func (tx *Tx) SiteView(name string) (fleet.SiteView, error) {
	v := fleet.SiteView{Library: tx.Library(), Addresses: map[string][]string{}, GossipKey: tx.Secret(GossipKey(name))}
	var err error
	if v.Site, err = tx.Sites().Get(name); err != nil {
		return v, err
	}
	if v.Subnets, err = tx.SubnetsOf(name); err != nil {
		return v, err
	}
	if v.Clients, err = tx.Clients(name); err != nil {
		return v, err
	}
	if v.Satellites, err = tx.SatellitesOf(name); err != nil {
		return v, err
	}
	if v.Policies, err = tx.PoliciesOf(name); err != nil {
		return v, err
	}
	for _, s := range v.Satellites {
		status, ok, err := tx.Statuses().Find(s.Name)
		if err != nil {
			return v, err
		}
		if ok {
			v.Addresses[s.Name] = status.Addresses
		}
	}
	return v, nil
}
