package proxy

import (
	"nearside/proxy/l1"
	"nearside/proxy/link"
)

// Where an invalidation came from, as the near cache remembers it for
// NEARSIDE EXPLAIN: the link's causes, in their order, and these.
const (
	fromLink     = l1.FirstSource
	fromOperator = fromLink + 8 + iota // the link may come to have two causes more
	fromRights                         // what Redis users may do has changed
	fromAudit                          // the auditor has taken the rule out
	fromRead                           // a read that went past the near cache
	fromReload                         // the rules have changed
)

// sourceOf is the link's cause as a source.
func sourceOf(c link.Cause) l1.Source {
	by := fromLink + l1.Source(c)
	if c == link.Tracking || c == link.Keyspace || c == link.Flush || c == link.Silent {
		by |= l1.Echo // Redis reports nearside's own writes, too
	}
	return by
}

// sourceName is a source's name: the metrics' source label, where there is one.
func sourceName(by l1.Source) string {
	switch by {
	case l1.NoSource:
		return "none"
	case l1.Written:
		return "write"
	case fromOperator:
		return sourceOperator
	case fromRights:
		return sourceRights
	case fromAudit:
		return "audit"
	case fromRead:
		return "read"
	case fromReload:
		return sourceReload
	}
	return link.Cause(by - fromLink).String()
}

// Where an invalidation came from, beside the causes that the link knows.
const (
	sourceOperator = "operator"
	sourceRights   = "acl"
	sourceReload   = "reload"
)
