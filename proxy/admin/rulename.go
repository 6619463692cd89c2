package admin

import "strings"

// RuleName is what a rule goes by in JSON: its prefix without the last colon,
// and "*" for the rule of every key.
func RuleName(prefix string) string {
	if prefix == "" {
		return "*"
	}
	if name := strings.TrimSuffix(prefix, ":"); name != "" {
		return name
	}
	return prefix // ":" itself
}

// HitRate is the share of hits in percent.
func HitRate(hits, misses uint64) float64 {
	if hits+misses == 0 {
		return 0
	}
	return 100 * float64(hits) / float64(hits+misses)
}
