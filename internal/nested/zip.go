package nested

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// Lengths and signatures of the records of a zip archive (PKWARE APPNOTE.TXT 4.3).
const (
	zipLocal, zipLocalLen     = "PK\x03\x04", 30
	zipCentral, zipCentralLen = "PK\x01\x02", 46
	zipEnd, zipEndLen         = "PK\x05\x06", 22
	zipMaxComment             = 1<<16 - 1

	zipDeflated  = 8
	zipEncrypted = 1
)

// giveUp is how many members in a row may be of an unknown encoder before the archive is left alone.
const giveUp = 12

// zipMember is a deflated member by its central directory entry, with the place of its data.
type zipMember struct {
	offset, length int
	plain          int64
	crc            uint32
}

// isZip tells whether b is likely to be an archive: by its first bytes, or, as in omni.ja, by those behind a length.
func isZip(b []byte) bool {
	if len(b) < zipEndLen {
		return false
	}
	return string(b[:4]) == zipLocal || string(b[4:8]) == zipCentral || string(b[len(b)-zipEndLen:][:4]) == zipEnd
}

// zip collects the members of an archive. Where its directory lies does not matter: Mozilla's omni.ja has it first.
func (f *finder) zip() {
	members := zipMembers(f.data, f.limit.MaxStreams)
	end, failed := 0, 0
	hint := zipCandidates()
	for _, m := range members {
		if m.offset < end {
			continue // shares bytes with another member
		}
		end = m.offset + m.length
		if m.plain > f.limit.MaxPlain || m.plain > ratio*int64(m.length) {
			continue
		}
		stored := f.data[m.offset:end]
		plain, n, err := f.in.inflate(stored, m.plain)
		if err != nil || n != m.length || int64(len(plain)) != m.plain || crc32.ChecksumIEEE(plain) != m.crc {
			continue
		}
		p, ok := f.prove(stored, plain, hint)
		if !ok {
			if failed++; failed == giveUp {
				return
			}
			continue
		}
		failed = 0
		f.streams = append(f.streams, Stream{
			Offset: int64(m.offset), Length: int64(m.length), Codec: Zip, Params: EncodeParams(p), PlainLength: m.plain,
		})
	}
}

// zipCandidates lists the encoders that archives are made with: zlib at its default or best level, rarely others.
func zipCandidates() []deflate.Params {
	return append(candidates([]int{6, 9}, []deflate.Params{zlib8(), zlib9(), gnu()}),
		candidates([]int{5, 8, 7, 1, 4, 3, 2}, []deflate.Params{zlib8(), zlib9(), gnu()})...)
}

// zipMembers returns the deflated members of an archive, at most limit, by offset. What is no archive has none.
func zipMembers(data []byte, limit int) []zipMember {
	dir, ok := zipDirectory(data)
	if !ok {
		return nil
	}
	var members []zipMember
	for len(dir) >= zipCentralLen && string(dir[:4]) == zipCentral && len(members) < limit {
		next := zipCentralLen + le16(dir[28:]) + le16(dir[30:]) + le16(dir[32:])
		if m, ok := zipMemberOf(data, dir); ok {
			members = append(members, m)
		}
		if next > len(dir) {
			break
		}
		dir = dir[next:]
	}
	slices.SortFunc(members, func(a, b zipMember) int { return cmp.Compare(a.offset, b.offset) })
	return members
}

// zipDirectory returns the archive from its central directory on.
func zipDirectory(data []byte) ([]byte, bool) {
	tail := data[max(0, len(data)-zipEndLen-zipMaxComment):]
	at := bytes.LastIndex(tail, []byte(zipEnd))
	if at < 0 || len(tail)-at < zipEndLen {
		return nil, false
	}
	end := len(data) - len(tail) + at
	size, offset := le32(data[end+12:]), le32(data[end+16:])
	for _, start := range []int{offset, end - size} {
		if start >= 0 && start <= len(data)-4 && string(data[start:start+4]) == zipCentral {
			return data[start:], true
		}
	}
	return nil, false
}

// zipMemberOf finds the data of the member that the directory entry describes. Encrypted members and those with 64-bit sizes have none.
func zipMemberOf(data, entry []byte) (zipMember, bool) {
	m := zipMember{length: le32(entry[20:]), plain: int64(le32(entry[24:])), crc: binary.LittleEndian.Uint32(entry[16:])}
	local := le32(entry[42:])
	if le16(entry[10:]) != zipDeflated || le16(entry[8:])&zipEncrypted != 0 || m.length == 0 || m.plain == 0 {
		return m, false
	}
	if local > len(data)-zipLocalLen || string(data[local:local+4]) != zipLocal {
		return m, false
	}
	m.offset = local + zipLocalLen + le16(data[local+26:]) + le16(data[local+28:])
	return m, m.offset <= len(data) && m.length <= len(data)-m.offset
}

func le16(b []byte) int { return int(binary.LittleEndian.Uint16(b)) }
func le32(b []byte) int { return int(binary.LittleEndian.Uint32(b)) }

func be16(b []byte) int { return int(binary.BigEndian.Uint16(b)) }
