package main

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// A file that is no configuration must be told so soon and in little memory,
// whatever is in it. The YAML parser cannot do that by itself: it calls itself
// for each level, takes seconds and gigabytes for 30,000 brackets, and reads
// bytes that are no text as if they were.

// Bounds of what the parser is given.
const (
	mostLevels = 32  // of mappings and lists in each other; the deepest needs 5
	mostKeys   = 256 // of one mapping, for which the parser's time grows by the square
	mostMarks  = 64  // anchors, aliases and tags, none of which may be there
)

// tokens cuts a file into what the parser works on, unless it has none of the
// form of a configuration.
func (d *decoder) tokens(data []byte) (token.Tokens, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // which YAML allows there
	if err := d.isText(data); err != nil {
		return nil, err
	}
	list := lexer.Tokenize(string(data))
	return list, d.flat(list)
}

// isText finds what YAML forbids: bytes that are not UTF-8, and control characters.
func (d *decoder) isText(data []byte) error {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return d.errorAt(nil, "the file is in UTF-16: write it in UTF-8")
	}
	line, col := 1, 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		reason := ""
		switch {
		case r == utf8.RuneError && n == 1:
			reason = fmt.Sprintf("the byte 0x%02X is not UTF-8", data[i])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			reason = fmt.Sprintf(`a control character: write "\x%02X" in double quotes`, r)
		}
		if reason != "" {
			return &configError{place{d.file, line, col}, reason}
		}
		// A line ends with LF, CR or both.
		if i += n; r == '\n' || r == '\r' && (i == len(data) || data[i] != '\n') {
			line, col = line+1, 1
		} else {
			col++
		}
	}
	return nil
}

// level is a mapping or list that is open.
type level struct {
	column int // of its keys or dashes; 0: it is in brackets
	keys   int
}

// flat refuses what is nested deeper than any configuration, or has more keys.
func (d *decoder) flat(list token.Tokens) error {
	var levels []level
	marks, flow := 0, 0
	open := func(column int) *level {
		for n := len(levels); n > 0 && levels[n-1].column > column; n-- {
			levels = levels[:n-1]
		}
		if n := len(levels); n == 0 || levels[n-1].column != column {
			levels = append(levels, level{column: column})
		}
		return &levels[len(levels)-1]
	}
	for i, t := range list {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
			levels = append(levels, level{})
		case token.SequenceEndType, token.MappingEndType:
			if flow > 0 { // of what is open behind the last bracket nothing goes on
				flow--
				for levels[len(levels)-1].column != 0 {
					levels = levels[:len(levels)-1]
				}
				levels = levels[:len(levels)-1]
			}
		case token.SequenceEntryType, token.MappingKeyType:
			if flow == 0 {
				open(t.Position.Column)
			}
		case token.MappingValueType:
			switch {
			case flow > 0:
				levels[len(levels)-1].keys++
			case i > 0:
				open(list[i-1].Position.Column).keys++
			}
			if n := len(levels); n > 0 && levels[n-1].keys > mostKeys {
				return d.errorAt(t, "more than %d keys beside each other", mostKeys)
			}
		case token.AnchorType, token.AliasType, token.TagType:
			marks++
			if marks > mostMarks {
				return d.errorAt(t, "anchors, aliases and tags are not supported")
			}
		}
		if len(levels) > mostLevels {
			return d.errorAt(t, "nested too deeply: no key has more than %d levels above it", mostLevels)
		}
	}
	return nil
}
