package policy

import (
	"bytes"
	"fmt"
)

// What is refused because its keys would live in two databases.

// crossed words the refusal of a command whose keys live in two databases.
func crossed(keys []Key, args [][]byte) string {
	a, b := keys[0], keys[0]
	for _, k := range keys {
		if k.DB != a.DB {
			b = k
		}
	}
	return fmt.Sprintf("CROSSDB Keys in request don't live in the same database (nearside keeps '%s' in database %d and '%s' in database %d)",
		printable(string(args[a.Pos])), a.DB, printable(string(args[b.Pos])), b.DB)
}

// checkPatterns refuses a SORT at database 0 whose BY or GET could name keys of
// the database it does not run in: it would sort by nothing, silently.
func (p *Policy) checkPatterns(d *Decision, args [][]byte) {
	for i := 2; i+1 < len(args); i++ {
		if Is(args[i], "limit") {
			i += 2
			continue
		}
		if Is(args[i], "store") {
			i++
			continue
		}
		if !Is(args[i], "by") && !Is(args[i], "get") {
			continue
		}
		i++
		// Only the first * is replaced; without one no key is read.
		literal, _, found := bytes.Cut(cString(args[i]), []byte("*"))
		if !found {
			continue
		}
		if dbs := p.rules.prefixDBs(literal, false); len(dbs) > 1 || dbs[0] != d.DB {
			d.refuse(fmt.Sprintf("CROSSDB Keys in request don't live in the same database (nearside keeps '%s' in database %d, "+
				"and keys like '%s' may live elsewhere)", printable(string(args[1])), d.DB, printable(string(args[i]))))
			return
		}
	}
}

// checkTarget refuses a COPY or MOVE to database 0 of a key that a session
// there would look for in another one.
func (p *Policy) checkTarget(d *Decision, args [][]byte) {
	var db int
	var ok bool
	key := args[1]
	if d.Cmd.quirk == quirkMove {
		db, ok = count(args[2])
	} else {
		db, ok = copyDB(args)
		key = args[2]
	}
	if !ok || db != 0 {
		return
	}
	if home := p.rules.DBOf(key, 0); home != 0 {
		d.refuse(fmt.Sprintf("CROSSDB Keys in request don't live in the same database (nearside keeps '%s' of database 0 in database %d)",
			printable(string(key)), home))
	}
}

// placePopulate sends DEBUG POPULATE count prefix where the keys live that it makes: the prefix, a colon, a number.
func (p *Policy) placePopulate(d *Decision, args [][]byte) {
	if len(args) < 4 || !Is(args[1], "populate") {
		return
	}
	for digit := byte('0'); digit <= '9'; digit++ {
		dbs := p.rules.prefixDBs(append(bytes.Clone(args[3]), ':', digit), false)
		if len(dbs) > 1 || digit > '0' && dbs[0] != d.DB {
			d.refuse(fmt.Sprintf("CROSSDB Keys in request don't live in the same database (nearside keeps '%s:…' in both %d and %d)",
				printable(string(args[3])), p.rules.locksDB, p.rules.cacheDB))
			return
		}
		d.DB = dbs[0]
	}
}
