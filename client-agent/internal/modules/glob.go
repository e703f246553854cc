package modules

// match tells whether s matches the pattern as fnmatch(3) with no flags does for the patterns that occur in modules.alias: "*", "?", "[a-z]",
// "[!a-z]" and "\" escapes. "*" matches "/" too. A "[" without its "]" stands for itself. Named classes ([:alpha:]) do not occur there.
// The time is bounded by len(pattern) * len(s).
func match(pattern, s string) bool {
	p, i := 0, 0
	starP, starI := -1, 0 // where to go on when the text behind the last "*" did not match
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			starP, starI = p, i
			continue
		}
		if p < len(pattern) {
			if ok, width := matchOne(pattern[p:], s[i]); ok {
				p += width
				i++
				continue
			}
		}
		if starP < 0 {
			return false
		}
		starI++
		p, i = starP, starI
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne compares the first element of a non-empty pattern that does not begin with "*" with c. Width is the element's length.
func matchOne(pattern string, c byte) (ok bool, width int) {
	switch pattern[0] {
	case '?':
		return true, 1
	case '\\':
		if len(pattern) > 1 {
			return pattern[1] == c, 2
		}
		return false, 1 // fnmatch: a trailing backslash matches nothing
	case '[':
		if ok, width := matchClass(pattern, c); width > 0 {
			return ok, width
		}
	}
	return pattern[0] == c, 1
}

// matchClass compares a bracket expression with c. Width is 0 if the bracket is never closed.
func matchClass(pattern string, c byte) (ok bool, width int) {
	i := 1
	negated := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negated {
		i++
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return ok != negated, i + 1
		}
		low, n := classByte(pattern[i:])
		i += n
		high := low
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			high, n = classByte(pattern[i+1:])
			i += 1 + n
		}
		if low <= c && c <= high {
			ok = true
		}
	}
	return false, 0
}

// classByte reads one possibly escaped byte of a bracket expression.
func classByte(s string) (c byte, width int) {
	if s[0] == '\\' && len(s) > 1 {
		return s[1], 2
	}
	return s[0], 1
}

// normalize makes "-" and "_" equal outside of brackets, as kmod does with module names and aliases.
func normalize(s string) string {
	var out []byte
	depth := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '[':
			depth = true
		case c == ']':
			depth = false
		case c == '-' && !depth:
			if out == nil {
				out = []byte(s)
			}
			out[i] = '_'
		}
	}
	if out == nil {
		return s
	}
	return string(out)
}
