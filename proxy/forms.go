package proxy

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"nearside/policy"
)

// learnForm asks the origin what it knows of a command that was given in a form which policy's
// table does not have, and tells whether policy knows more now. Names are those
// of commands that exist, so there is a bound to how many are asked for.
func (p *Proxy) learnForm(name string) bool {
	ctx, cancel := context.WithTimeout(p.ctx, factsTimeout)
	defer cancel()
	reply, err := p.origin.Control().Do(ctx, "COMMAND", "INFO", name).Slice()
	var refused redis.Error
	switch {
	case errors.As(err, &refused): // not permitted: until another server answers it stays unknown
		reply = nil
	case err != nil:
		return false
	}
	var f policy.Form
	if len(reply) == 1 {
		f = formOf(reply[0])
	}
	p.current().policy.LearnForm(name, f)
	return true
}

// formOf reads one element of COMMAND INFO's reply: name, arity, flags, first key, last
// key, step, and from 7.0 on categories, tips and key specifications.
func formOf(entry any) (f policy.Form) {
	row, ok := entry.([]any)
	if !ok || len(row) < 6 {
		return f
	}
	number := func(v any) int { n, _ := v.(int64); return int(n) }
	f.Arity = number(row[1])
	movable := false
	for flag := range members(row[2]) {
		movable = movable || flag == "movablekeys"
	}
	if len(row) < 9 { // Redis 6 has positions only
		if first := number(row[3]); first > 0 {
			last := number(row[4])
			if last >= 0 {
				last -= first // behind the first, as specifications count
			}
			f.Specs = append(f.Specs, policy.KeySpec{Index: first, LastKey: last, Step: number(row[5])})
		}
		if movable {
			f.Specs = append(f.Specs, policy.KeySpec{Unknown: true})
		}
		return f
	}
	specs, _ := row[8].([]any)
	for _, s := range specs {
		f.Specs = append(f.Specs, specOf(s))
	}
	return f
}

// specOf reads one key specification.
func specOf(v any) (s policy.KeySpec) {
	flags := members(under(v, "flags"))
	s.NotKey, s.ReadOnly, s.Incomplete = flags["not_key"], flags["RO"], flags["incomplete"]
	begin, find := under(v, "begin_search"), under(v, "find_keys")
	where, which := under(begin, "spec"), under(find, "spec")
	number := func(of any, name string) int { n, _ := under(of, name).(int64); return int(n) }
	switch under(begin, "type") {
	case "index":
		s.Index = number(where, "index")
	case "keyword":
		s.Keyword, _ = under(where, "keyword").(string)
		s.StartFrom = number(where, "startfrom")
	default:
		s.Unknown = true
	}
	s.Step = number(which, "keystep")
	switch under(find, "type") {
	case "range":
		s.LastKey, s.Limit = number(which, "lastkey"), number(which, "limit")
	case "keynum":
		s.KeyNum, s.KeyNumIdx, s.FirstKey = true, number(which, "keynumidx"), number(which, "firstkey")
	default:
		s.Unknown = true
	}
	return s
}

// under returns what stands under a name in a map.
func under(v any, name string) any {
	m, _ := v.(map[any]any)
	return m[name]
}

// members returns the names in a set or list.
func members(v any) map[string]bool {
	names := map[string]bool{}
	switch list := v.(type) {
	case []any:
		for _, x := range list {
			names[fmt.Sprint(x)] = true
		}
	case map[any]any:
		for x := range list {
			names[fmt.Sprint(x)] = true
		}
	}
	return names
}
