package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// What to do about a mistake, where the mistake alone does not say it.

// String lists the keys.
func (f fields) String() string {
	return strings.Join(slices.Sorted(maps.Keys(f)), ", ")
}

// longestHint bounds what is compared with all keys.
const longestHint = 100

// instead names the key that was probably meant, else all that there are.
func (f fields) instead(key string) string {
	if len(key) > longestHint {
		return ""
	}
	best, least := "", max(1, len(key)/3)+1
	for _, k := range slices.Sorted(maps.Keys(f)) {
		if n := distance(key, k); n < least {
			best, least = k, n
		}
	}
	if best != "" {
		return ": is " + best + " meant?"
	}
	return ": one of " + f.String()
}

// distance is how many bytes must be changed, added or taken out to make one
// word of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := diagonal
			if a[i] != b[j] {
				n = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], n
		}
	}
	return row[len(b)]
}

// syntax is what the YAML parser says, and what mostly causes it.
func syntax(message string) string {
	switch {
	case strings.Contains(message, "'\t'"):
		return "a tab: indent with spaces"
	case strings.Contains(message, "value is not allowed in this context"):
		return oneLine(message) + `: quote what has a colon in it, as in prefix: "product:", and indent as the lines around it`
	}
	return oneLine(message)
}

// joined undoes what the YAML parser does to [127.0.0.1:6380] inside braces: it
// takes the address for a key and a value, though no space follows the colon.
func joined(n *ast.MappingNode) (string, bool) {
	if len(n.Values) != 1 {
		return "", false
	}
	key, value := n.Values[0].Key.GetToken(), n.Values[0].Value.GetToken()
	if key == nil || value == nil || key.Position.Line != value.Position.Line ||
		key.Position.Column+len(key.Value)+len(":") != value.Position.Column {
		return "", false
	}
	return key.Value + ":" + value.Value, true
}
