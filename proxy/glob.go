package proxy

// Patterns as Redis's stringmatchlen reads them: * ? [a-z] [^a] and \ before
// any byte. What is odd there is odd here: a class that does not end takes the
// rest of the pattern, a backslash at the end stands for itself.

// globStep reads the element of a pattern that begins at i and takes one byte
// of the text. It returns where the next one begins, and whether c fits.
// Asterisks are the caller's.
func globStep(pattern string, i int, c byte) (next int, fits bool) {
	switch pattern[i] {
	case '?':
		return i + 1, true
	case '\\':
		if i+1 < len(pattern) {
			i++
		}
	case '[':
		return globClass(pattern, i+1, c)
	}
	return i + 1, pattern[i] == c
}

// globClass is globStep for a class; i is behind its bracket.
func globClass(pattern string, i int, c byte) (next int, fits bool) {
	not := i < len(pattern) && pattern[i] == '^'
	if not {
		i++
	}
	for ; ; i++ {
		switch {
		case i >= len(pattern):
			return i, fits != not
		case pattern[i] == '\\' && i+1 < len(pattern):
			i++
			fits = fits || pattern[i] == c
		case pattern[i] == ']':
			return i + 1, fits != not
		case i+2 < len(pattern) && pattern[i+1] == '-':
			low, high := min(pattern[i], pattern[i+2]), max(pattern[i], pattern[i+2])
			fits = fits || low <= c && c <= high
			i += 2
		default:
			fits = fits || pattern[i] == c
		}
	}
}

// globMatch tells whether a text fits a pattern. It takes at most the product of
// their lengths, and no memory.
func globMatch[T string | []byte](pattern string, text T) bool {
	i, j := 0, 0
	star, from := -1, 0 // the last asterisk, and where the text behind what it takes begins
	for {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			i++
			star, from = i, j
			continue
		case i < len(pattern) && j < len(text):
			if next, fits := globStep(pattern, i, text[j]); fits {
				i, j = next, j+1
				continue
			}
		case i == len(pattern) && j == len(text):
			return true
		}
		if star < 0 || from >= len(text) {
			return false
		}
		from++
		i, j = star, from
	}
}

// globRest returns what is left of a pattern behind a text that begins with
// prefix: such a text fits the pattern if and only if its rest fits one of these
// patterns, which are ends of the given one, by where they begin. None: no such
// text fits.
func globRest(pattern, prefix string) []int {
	at := []int{0}
	for k := range len(prefix) {
		var next []int
		add := func(i int) {
			for _, have := range next {
				if have == i {
					return
				}
			}
			next = append(next, i)
		}
		for _, i := range at {
			// An asterisk stays where it is, or what stands behind it takes the byte.
			for ; i < len(pattern) && pattern[i] == '*'; i++ {
				add(i)
			}
			if i < len(pattern) {
				if n, fits := globStep(pattern, i, prefix[k]); fits {
					add(n)
				}
			}
		}
		at = next
	}
	// An end that is only asterisks fits whatever the others fit.
	for _, i := range at {
		if i < len(pattern) && onlyStars(pattern[i:]) {
			return []int{i}
		}
	}
	return at
}

func onlyStars(pattern string) bool {
	for i := range len(pattern) {
		if pattern[i] != '*' {
			return false
		}
	}
	return true
}
