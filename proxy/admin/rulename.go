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

// RuleNames are the names of several rules. Where RuleName would not tell two of them apart,
// "a" and "a:" say, they go by their prefixes as they are.
func RuleNames(prefixes []string) []string {
	taken := make(map[string]int, 2*len(prefixes))
	for _, prefix := range prefixes {
		taken[prefix]++
		if name := RuleName(prefix); name != prefix {
			taken[name]++
		}
	}
	names := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		if names[i] = RuleName(prefix); taken[names[i]] > 1 {
			names[i] = prefix
		}
	}
	return names
}

// HitRate is the share of hits in percent.
func HitRate(hits, misses uint64) float64 {
	if hits+misses == 0 {
		return 0
	}
	return 100 * float64(hits) / float64(hits+misses)
}
