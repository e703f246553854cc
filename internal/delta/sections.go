package delta

import "maps"

// Sections names the parts of the delta and their bytes on the wire, for people; parts that it does not have are left out.
func (s *Stats) Sections() map[string]int64 {
	all := map[string]int64{
		"index: metadata": s.ColumnBytes, "index: copy runs": s.RunBytes, "index: groups": s.GroupTableBytes, "index: proof": s.ProofBytes,
		"index: nested streams": s.ExpansionBytes, "operations": s.OpBytes, "differences": s.PatchBytes, "new content (mixed)": s.LiteralMixBytes,
		"new content (LZMA)": s.LiteralLZMABytes, "new content (stored)": s.LiteralStoredBytes, "stored blocks": s.VerbatimBytes,
	}
	maps.DeleteFunc(all, func(_ string, n int64) bool { return n == 0 })
	return all
}
