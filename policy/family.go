package policy

// Family is what a command is about: a type of data, or a part of Redis. There
// are few of them, so that they can be labels of metrics.
type Family uint8

// Other is the family of commands that the table does not know.
const Other Family = 0

var familyNames = [...]string{
	"other", "string", "bitmap", "hyperloglog", "list", "hash", "set", "zset", "geo", "stream", "keys",
	"transaction", "scripting", "pubsub", "connection", "server", "cluster",
}

// Families is their number: a Family is less than it.
const Families = len(familyNames)

func (f Family) String() string { return familyNames[f] }

// FamilyOf is the command's family; c may be nil.
func FamilyOf(c *Command) Family {
	if c == nil {
		return Other
	}
	return c.Family
}

// familyOf finds a family by its name. A mistake in the table panics.
func familyOf(name string) Family {
	for i, known := range familyNames {
		if name == known {
			return Family(i)
		}
	}
	panic("policy: unknown family: " + name)
}
