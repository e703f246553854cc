package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// schemaVersion is what this program writes. Each step of migrate leads from one version to the next.
const schemaVersion = 1

// migrate makes the buckets and takes an older file to the present schema, in one transaction.
func (s *Store) migrate() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte(bucketMeta))
		if err != nil {
			return err
		}
		if raw := meta.Get([]byte(metaSchema)); raw != nil {
			version, n := binary.Uvarint(raw)
			if n <= 0 || version > schemaVersion {
				return fmt.Errorf("%w: its schema is %d, this program knows %d", ErrSchema, version, schemaVersion)
			}
		}
		for _, name := range buckets() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return fmt.Errorf("make bucket %s: %w", name, err)
			}
		}
		return meta.Put([]byte(metaSchema), binary.AppendUvarint(nil, schemaVersion))
	})
}

func buckets() []string {
	names := []string{bucketManifest, bucketSecret, bucketClientSite, bucketVersionID, bucketAudit}
	for _, k := range []Kind{
		KindImage, KindVersion, KindSite, KindSubnet, KindSatellite, KindClient, KindToken, KindAdmin, KindPolicy, KindPolicyVersion, KindStatus, KindClientReport,
		KindPlan, KindTrace, KindClientEvent,
	} {
		names = append(names, string(k))
	}
	return names
}
