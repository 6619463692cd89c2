// Package policy decides, without any I/O, what is to happen to one Redis
// command: which database it goes to, whether its answer may come from the
// near cache, which keys it reads and writes, and what it may change beyond
// the keys it names. It depends on the standard library only.
//
// The parts, each in its own file:
//
//	command.go   what is known of one command; looking it up by name
//	table.go     the one table of commands: arity, flags, key positions, route
//	word.go      how Redis compares words: as C strings
//	learn.go     what the origin tells of its commands; which may share a connection
//	keys.go      finding the keys in a command's arguments
//	form.go      forms of commands that the table does not have: what the server says
//	rules.go     lock rules and cache rules; the longest prefix wins
//	trie.go      finding the longest prefix
//	script.go    scripts that are known to keep to their KEYS
//	lua.go       the tokens of Lua, for script.go
//	policy.go    Policy: the rules, and what else it is made of
//	decide.go    Decide: the decision for one command
//	crossdb.go   what is refused because its keys would live in two databases
//	why.go       why an answer has no part in the near cache
//	family.go    what a command is about, for metrics
package policy
