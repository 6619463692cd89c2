package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/redcon"

	"nearside/policy"
	"nearside/proxy/origin"
)

// memory is a Redis of two databases that knows the commands which are taken apart.
type memory map[int]map[string]string

// do runs a request and returns its reply.
func (m memory) do(db int, args [][]byte) (reply []byte) {
	data := m[db]
	n := 0
	switch string(bytes.ToLower(args[0])) {
	case "mget":
		reply = redcon.AppendArray(nil, len(args)-1)
		for _, k := range args[1:] {
			if v, ok := data[string(k)]; ok {
				reply = redcon.AppendBulkString(reply, v)
			} else {
				reply = redcon.AppendNull(reply)
			}
		}
		return reply
	case "mset":
		if len(args)%2 == 0 {
			return []byte("-ERR wrong number of arguments for 'mset' command\r\n")
		}
		for i := 1; i+1 < len(args); i += 2 {
			data[string(args[i])] = string(args[i+1])
		}
		return []byte(replyOK)
	case "del", "unlink":
		for _, k := range args[1:] {
			if _, ok := data[string(k)]; ok {
				delete(data, string(k))
				n++
			}
		}
	default: // exists, touch
		for _, k := range args[1:] {
			if _, ok := data[string(k)]; ok {
				n++
			}
		}
	}
	return redcon.AppendInt(nil, int64(n))
}

// FuzzJoin takes commands apart as a session at database 0 does, runs the parts
// on two databases and compares with the whole command on one. Every byte of
// the input is a key or an end: keys are few, so that they come again.
func FuzzJoin(f *testing.F) {
	rules, err := policy.NewRules(0, 1, []policy.Rule{{Kind: policy.CacheRule, Prefix: "c:", TTL: time.Hour, MaxReply: 1}, {Kind: policy.LockRule, Prefix: "l:"}})
	if err != nil {
		f.Fatal(err)
	}
	set := &ruleset{rules: rules, policy: policy.New(rules, policy.Options{})}
	p := &Proxy{cfg: Config{CacheDB: 1}}
	p.set.Store(set)
	names := []string{"MGET", "exists", "Del", "unlink", "touch", "MSET"}
	f.Fuzz(func(t *testing.T, which byte, picks []byte) {
		if len(picks) == 0 || len(picks) > 300 {
			return
		}
		name := names[int(which)%len(names)]
		args := [][]byte{[]byte(name)}
		whole, parted := memory{0: {}}, memory{0: {}, 1: {}}
		for i, pick := range picks {
			key := fmt.Sprintf("%s%d", []string{"c:", "l:", ""}[pick%3], pick%16)
			if pick&0x80 != 0 { // it exists
				whole[0][key] = key
				parted[rules.DBOf([]byte(key), 0)][key] = key
			}
			args = append(args, []byte(key))
			if name == "MSET" {
				args = append(args, fmt.Appendf(nil, "value %d", i))
			}
		}
		if name == "MSET" && len(args) > 3 && which > 127 {
			args = args[:len(args)-1]
		}
		s := &session{p: p, set: set, args: args}
		set.policy.Decide(&s.d, 0, args)
		want := whole.do(0, args)
		if s.d.Route != policy.RouteSplit {
			db := s.d.DB
			if got := parted.do(db, args); !bytes.Equal(got, want) {
				t.Fatalf("%q is passed to database %d: %q, want %q", args, db, got, want)
			}
			return
		}
		plan, ok := s.plan()
		if !ok || len(plan.parts) != 2 && name != "MSET" {
			t.Fatalf("%q: %d parts, %v", args, len(plan.parts), ok)
		}
		var replies [][]byte
		for _, part := range plan.parts {
			complete, partArgs, _, left, err := redcon.ReadNextCommand(part.req, nil)
			if !complete || err != nil || len(left) != 0 {
				t.Fatalf("%q is no request: %v", part.req, err)
			}
			replies = append(replies, parted.do(part.db, partArgs))
		}
		if got := plan.merge(replies); !bytes.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", args, got, want)
		}
		for i := range replies { // an error of any part is the answer
			broken := slices.Clone(replies)
			broken[i] = []byte("-ERR broken\r\n")
			if got := plan.merge(broken); string(got) != "-ERR broken\r\n" {
				t.Fatalf("%q with an error: %q", args, got)
			}
		}
		both := map[string]string{}
		for db, data := range parted {
			for k, v := range data {
				if rules.DBOf([]byte(k), 0) != db {
					t.Fatalf("%q wrote %s into database %d", args, k, db)
				}
				both[k] = v
			}
		}
		if fmt.Sprint(both) != fmt.Sprint(whole[0]) {
			t.Fatalf("%q left %v, want %v", args, both, whole[0])
		}
	})
}

// FuzzAssemble builds transactions of all kinds of elements, the array that
// EXEC returns for them, and the array the client must see. Every byte of the
// input is one element.
func FuzzAssemble(f *testing.F) {
	f.Fuzz(func(t *testing.T, kinds []byte) {
		if len(kinds) > 200 {
			return
		}
		values := []string{"+OK\r\n", ":1\r\n", "$-1\r\n", "$3\r\na\r\n\r\n", "*2\r\n:1\r\n*1\r\n$0\r\n\r\n", "-ERR x\r\n", "*-1\r\n", "_\r\n", "%1\r\n+a\r\n~1\r\n#t\r\n", "*0\r\n"}
		var fromRedis, want []byte
		var items []txItem
		n := 0
		add := func(v string) {
			fromRedis = append(fromRedis, v...)
			n++
		}
		for i, k := range kinds {
			v := values[(int(k>>4)+i)%len(values)]
			switch k % 4 {
			case 0:
				add(v)
				items = append(items, txItem{})
				want = append(want, v...)
			case 1: // behind SELECTs that nobody asked for
				inserted := int(k>>2) % 3
				for range inserted {
					add("+OK\r\n")
				}
				add(v)
				items = append(items, txItem{inserted: inserted})
				want = append(want, v...)
			case 2: // nearside's own
				items = append(items, txItem{own: []byte(v)})
				want = append(want, v...)
			case 3: // several, of which a sum is seen
				parts := 1 + int(k>>2)%4
				for j := range parts {
					add(fmt.Sprintf(":%d\r\n", j))
				}
				items = append(items, txItem{parts: parts, merge: mergeSum})
				want = redcon.AppendInt(want, int64(parts*(parts-1)/2))
			}
		}
		fromRedis = append(redcon.AppendArray(nil, n), fromRedis...)
		want = append(redcon.AppendArray(nil, len(kinds)), want...)
		if got := assemble(fromRedis, items); !bytes.Equal(got, want) {
			t.Fatalf("%x: %q becomes %q, want %q", kinds, fromRedis, got, want)
		}
		if _, rest := origin.Split(want); len(rest) != 0 {
			t.Fatalf("%q is left over", rest)
		}
	})
}
