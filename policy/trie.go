package policy

import "strings"

// node is one node of a byte trie over the rules' prefixes. A walk costs one
// step per branching of prefixes that share a beginning, however many rules there are.
type node struct {
	label string // what this node adds to its parent
	rule  *Rule  // the rule whose prefix ends here, or nil
	first string // the first byte of each child's label, in order …
	kids  []node
	wide  *[256]uint16 // … or, with many children, index+1 by first byte
}

// wideFrom is the number of children from which a table beats searching.
const wideFrom = 12

// newNode builds the trie of rules, which are sorted by prefix and agree in
// their first depth bytes. label is what leads from the parent to that depth.
func newNode(label string, rules []*Rule, depth int) node {
	n := node{label: label}
	if len(rules) > 0 && len(rules[0].Prefix) == depth {
		n.rule, rules = rules[0], rules[1:]
	}
	for len(rules) > 0 {
		b := rules[0].Prefix[depth]
		group := 1
		for group < len(rules) && rules[group].Prefix[depth] == b {
			group++
		}
		// Sorted, what the first and the last share is shared by all between.
		end := shared(rules[0].Prefix, rules[group-1].Prefix)
		n.first += string([]byte{b})
		n.kids = append(n.kids, newNode(rules[0].Prefix[depth:end], rules[:group], end))
		rules = rules[group:]
	}
	if len(n.kids) >= wideFrom {
		n.wide = new([256]uint16)
		for i := range n.kids {
			n.wide[n.first[i]] = uint16(i + 1)
		}
	}
	return n
}

// shared is the length of the longest common beginning.
func shared(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

func (n *node) child(b byte) *node {
	var i int
	if n.wide != nil {
		i = int(n.wide[b]) - 1
	} else {
		i = strings.IndexByte(n.first, b)
	}
	if i < 0 {
		return nil
	}
	return &n.kids[i]
}

// Match returns the rule with the longest prefix of key, or nil, wherever the
// key may live. It does not allocate.
func (r *Rules) Match(key []byte) *Rule {
	n := &r.root
	best := n.rule
	for len(key) > 0 {
		n = n.child(key[0])
		if n == nil || len(key) < len(n.label) || string(key[:len(n.label)]) != n.label {
			break
		}
		key = key[len(n.label):]
		if n.rule != nil {
			best = n.rule
		}
	}
	return best
}
