package proxy

// splitInline splits one inline command into its arguments as Redis's
// sdssplitargs does: blanks separate, "double" quotes know \n \r \t \b \a and
// \xHH, 'single' quotes know \'. ok is false for unbalanced quotes.
func splitInline(line []byte) (args [][]byte, ok bool) {
	i, n := 0, len(line)
	for {
		for i < n && isSpace(line[i]) {
			i++
		}
		if i == n {
			return args, true
		}
		arg := []byte{}
		var quote byte
	word:
		for {
			if i == n {
				if quote != 0 {
					return nil, false
				}
				break
			}
			c := line[i]
			switch {
			case quote == '"' && c == '\\' && i+3 < n && line[i+1] == 'x' && isHex(line[i+2]) && isHex(line[i+3]):
				arg = append(arg, unhex(line[i+2])<<4|unhex(line[i+3]))
				i += 4
				continue
			case quote == '"' && c == '\\' && i+1 < n:
				i++
				arg = append(arg, unescape(line[i]))
			case quote == '\'' && c == '\\' && i+1 < n && line[i+1] == '\'':
				i++
				arg = append(arg, '\'')
			case quote != 0 && c == quote:
				// A closing quote must be followed by a blank or nothing.
				if i+1 < n && !isSpace(line[i+1]) {
					return nil, false
				}
				i++
				break word
			case quote != 0:
				arg = append(arg, c)
			case c == ' ' || c == '\t' || c == '\r' || c == '\n': // \v and \f belong to the word
				break word
			case c == '"' || c == '\'':
				quote = c
			default:
				arg = append(arg, c)
			}
			i++
		}
		args = append(args, arg)
	}
}

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}
