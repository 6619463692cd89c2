package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A way is one kind of write. do reports false if the way is blocked for a while.
type way struct {
	name   string
	share  int
	kinds  string          // of keys, by their letters
	allows func(*job) bool // nil: any state
	do     func(*job) bool
}

func there(j *job) bool   { return j.last.certain() && !j.last.absent }
func notCalm(j *job) bool { return !j.c.calm.Load() }
func fixed(j *job) bool   { return j.last.certain() }
func long(j *job) bool {
	return there(j) && len(j.last.payload) >= headLen && len(j.last.payload) < 300
}
func mortal(j *job) bool { return j.last.hi != 0 && j.last.hi != never && j.last.ack != never }

// plain makes a write that is one command and leaves a value without an end of its life.
func plain(build func(*job) (payload string, want func(any) bool, args []any)) func(*job) bool {
	return func(j *job) bool {
		payload, want, args := build(j)
		return j.run(version{payload: payload}, 0, want, args...)
	}
}

// mortally is plain for a value that lives for j.px.
func mortally(build func(*job) (payload string, want func(any) bool, args []any)) func(*job) bool {
	return func(j *job) bool {
		payload, want, args := build(j)
		return j.run(version{payload: payload}, j.px, want, args...)
	}
}

func remove(command string) func(*job) bool {
	return func(j *job) bool { return j.run(version{absent: true}, 0, nil, command, j.k.name) }
}

type args = []any

var ways = []way{
	{"DEL", 5, "shlc", nil, remove("DEL")},
	{"UNLINK", 4, "shlc", nil, remove("UNLINK")},
	{"GETDEL", 2, "s", there, func(j *job) bool { return j.run(version{absent: true}, 0, is(j.last.payload), "GETDEL", j.k.name) }},
	{"PEXPIRE", 7, "shlc", there, mortally(func(j *job) (string, func(any) bool, []any) {
		return j.last.payload, is(1), args{"PEXPIRE", j.k.name, j.ms()}
	})},
	{"EXPIRE", 1, "shlc", there, func(j *job) bool {
		return j.run(version{payload: j.last.payload}, time.Second, is(1), "EXPIRE", j.k.name, 1)
	}},
	{"GETEX PX", 2, "s", there, mortally(func(j *job) (string, func(any) bool, []any) {
		return j.last.payload, is(j.last.payload), args{"GETEX", j.k.name, "PX", j.ms()}
	})},
	{"PERSIST", 9, "shlc", mortal, (*job).persist},
	{"RENAME", 5, "shlc", there, func(j *job) bool { return j.give("RENAME", j.k.name) }},
	{"COPY", 4, "shlc", there, func(j *job) bool { return j.give("COPY", j.k.name, "REPLACE") }},
	{"MOVE", 2, "shlc", there, (*job).moveOut},
	{"MOVE back", 2, "s", func(j *job) bool { return j.last.certain() && j.last.absent }, (*job).moveIn},
	{"RESTORE", 3, "s", nil, (*job).restore},

	{"SET", 15, "s", nil, plain(func(j *job) (string, func(any) bool, []any) { return j.text, is("OK"), args{"SET", j.k.name, j.text} })},
	{"SET PX", 6, "s", nil, mortally(func(j *job) (string, func(any) bool, []any) {
		return j.text, is("OK"), args{"SET", j.k.name, j.text, "PX", j.ms()}
	})},
	{"PSETEX", 3, "s", nil, mortally(func(j *job) (string, func(any) bool, []any) {
		return j.text, is("OK"), args{"PSETEX", j.k.name, j.ms(), j.text}
	})},
	{"SET EX", 1, "s", nil, func(j *job) bool {
		return j.run(version{payload: j.text}, time.Second, is("OK"), "SET", j.k.name, j.text, "EX", 1)
	}},
	{"SETEX", 1, "s", nil, func(j *job) bool {
		return j.run(version{payload: j.text}, time.Second, is("OK"), "SETEX", j.k.name, 1, j.text)
	}},
	{"SET GET", 3, "s", fixed, plain(func(j *job) (string, func(any) bool, []any) {
		return j.text, j.old(), args{"SET", j.k.name, j.text, "GET"}
	})},
	{"GETSET", 3, "s", fixed, plain(func(j *job) (string, func(any) bool, []any) {
		return j.text, j.old(), args{"GETSET", j.k.name, j.text}
	})},
	{"APPEND", 6, "s", func(j *job) bool { return fixed(j) && len(j.last.payload) < 300 }, plain(func(j *job) (string, func(any) bool, []any) {
		sum := j.last.payload + j.text
		return sum, is(len(sum)), args{"APPEND", j.k.name, j.text}
	})},
	{"SETRANGE", 4, "s", long, plain(func(j *job) (string, func(any) bool, []any) {
		now := j.text[:headLen] + j.last.payload[headLen:]
		return now, is(len(now)), args{"SETRANGE", j.k.name, 0, j.text[:headLen]}
	})},
	{"EVAL SET", 6, "s", notCalm, plain(func(j *job) (string, func(any) bool, []any) {
		return j.text, nil, args{"EVAL", `return redis.call('SET', KEYS[1], ARGV[1])`, 1, j.k.name, j.text}
	})},
	{"EVAL SET, undeclared", 3, "s", func(j *job) bool { return notCalm(j) && j.cl.Options().DB == 1 }, plain(func(j *job) (string, func(any) bool, []any) {
		return j.text, nil, args{"EVAL", `return redis.call('SET', ARGV[1], ARGV[2])`, 0, j.k.name, j.text}
	})},
	{"MULTI DEL SET EXEC", 5, "s", nil, func(j *job) bool {
		return j.tx(version{payload: j.text}, 0, args{"DEL", j.k.name}, args{"SET", j.k.name, j.text})
	}},
	{"MULTI SET PX EXEC", 3, "s", nil, func(j *job) bool {
		return j.tx(version{payload: j.text}, j.px, args{"SET", j.k.name, j.text, "PX", j.ms()})
	}},
	{"MULTI SET PX, SET KEEPTTL EXEC", 3, "s", nil, func(j *job) bool {
		return j.tx(version{payload: j.text}, j.px, args{"SET", j.k.name, "first", "PX", j.ms()}, args{"SET", j.k.name, j.text, "KEEPTTL"})
	}},
	{"WATCH GET MULTI SET EXEC", 4, "s", fixed, (*job).watch},
	{"pipeline", 6, "s", nil, (*job).pipeline},
	{"MSET", 4, "s", nil, func(j *job) bool { return j.give("MSET", j.k.name, j.text) }},

	// A hash that may end by itself is removed first: HSET would keep that end, if there still is one.
	{"DEL", 30, "hl", func(j *job) bool { return !j.last.certain() }, remove("DEL")},
	{"HSET", 20, "h", fixed, plain(func(j *job) (string, func(any) bool, []any) {
		return j.hash(j.text), nil, args{"HSET", j.k.name, "a", j.text, "b", j.text}
	})},
	{"EVAL HSET", 10, "h", func(j *job) bool { return fixed(j) && notCalm(j) }, plain(func(j *job) (string, func(any) bool, []any) {
		return j.hash(j.text), nil, args{"EVAL", `return redis.call('HSET', KEYS[1], 'a', ARGV[1], 'b', ARGV[1])`, 1, j.k.name, j.text}
	})},
	{"MULTI HSET HSET EXEC", 10, "h", fixed, func(j *job) bool {
		return j.tx(version{payload: j.hash(j.text)}, 0, args{"HSET", j.k.name, "a", j.text}, args{"HSET", j.k.name, "b", j.text})
	}},
	{"HINCRBY", 15, "h", there, plain(func(j *job) (string, func(any) bool, []any) {
		n := j.number() + 1
		return fmt.Sprintf("%s#%d", j.last.head(), n), is(n), args{"HINCRBY", j.k.name, "n", 1}
	})},
	{"HDEL n", 5, "h", there, plain(func(j *job) (string, func(any) bool, []any) {
		return j.last.head() + "#0", nil, args{"HDEL", j.k.name, "n"}
	})},
	{"HDEL all", 5, "h", there, func(j *job) bool { return j.run(version{absent: true}, 0, nil, "HDEL", j.k.name, "a", "b", "n") }},

	{"MULTI DEL RPUSH EXEC", 15, "l", nil, func(j *job) bool {
		return j.tx(version{payload: j.text}, 0, args{"DEL", j.k.name}, args{"RPUSH", j.k.name, j.text})
	}},
	{"RPUSH", 15, "l", func(j *job) bool { return fixed(j) && len(j.last.payload) < 300 }, plain(func(j *job) (string, func(any) bool, []any) {
		all := j.text
		if !j.last.absent {
			all = j.last.payload + "," + j.text
		}
		return all, is(strings.Count(all, ",") + 1), args{"RPUSH", j.k.name, j.text}
	})},
	{"SORT STORE", 20, "l", nil, (*job).sort},

	{"INCRBY", 40, "c", fixed, plain(func(j *job) (string, func(any) bool, []any) {
		by, n := int64(1+j.r.IntN(9)), int64(0)
		if j.last.absent {
			by = j.c.seq.Add(1) * 1000 // a number that was never there before
		} else {
			n, _ = strconv.ParseInt(j.last.payload, 10, 64)
		}
		return fmt.Sprint(n + by), is(n + by), args{"INCRBY", j.k.name, by}
	})},
	{"INCR", 15, "c", there, plain(func(j *job) (string, func(any) bool, []any) {
		n, _ := strconv.ParseInt(j.last.payload, 10, 64)
		return fmt.Sprint(n + 1), is(n + 1), args{"INCR", j.k.name}
	})},
	{"SET PX", 5, "c", nil, mortally(func(j *job) (string, func(any) bool, []any) {
		n := fmt.Sprint(j.c.seq.Add(1) * 1000)
		return n, is("OK"), args{"SET", j.k.name, n, "PX", j.ms()}
	})},
}

// hash is the payload of a hash whose fields a and b become text.
func (j *job) hash(text string) string { return fmt.Sprintf("%s#%d", text, j.number()) }

// number is a hash's field n.
func (j *job) number() int {
	_, n, _ := strings.Cut(j.last.payload, "#")
	i, _ := strconv.Atoi(n)
	return i
}

// is makes a test for a reply that is known beforehand.
func is(want any) func(any) bool {
	return func(got any) bool { return fmt.Sprint(got) == fmt.Sprint(want) }
}

// old is a test for a reply that is the value there was before.
func (j *job) old() func(any) bool {
	if j.last.absent {
		return is(nil)
	}
	return is(j.last.payload)
}

// persist takes the end of a life away, unless it has come already: the reply says.
func (j *job) persist() bool {
	v := j.version(version{payload: j.last.payload, how: "PERSIST", lo: j.last.lo, hi: never}, 0)
	n := j.k.begin(v)
	left, err := j.cl.Persist(j.ctx, j.k.name).Result()
	if err == nil && !left { // the version before has ended
		j.k.undo()
		return true
	}
	if err == nil {
		j.k.stays()
	}
	return j.ended(n, 0, err, refused(err))
}

// give gives the key's value to another key of its kind, or both the same.
func (j *job) give(command, from string, more ...any) bool {
	c := j.c
	slot := j.r.IntN(len(c.slots))
	to := c.slots[slot].Load()
	if to == j.k || to.kind != j.k.kind || !to.turn.TryLock() {
		return true
	}
	defer to.turn.Unlock()
	if c.slots[slot].Load() != to {
		return true
	}
	all := append(args{command, from, to.name}, more...)
	payload := j.last.payload
	mine := 0
	switch command {
	case "RENAME":
		mine = j.k.begin(j.version(version{absent: true, how: "RENAME to " + to.name}, 0))
	case "MSET":
		payload = j.text
		mine = j.k.begin(j.version(version{payload: payload, how: "MSET with " + to.name}, 0))
		all = args{command, from, payload, to.name, payload}
	}
	other := to.begin(j.version(version{payload: payload, how: command + " with " + j.k.name}, 0))
	got, err := j.cl.Do(j.ctx, all...).Result()
	if err != nil && strings.Contains(err.Error(), "no such key") || err == nil && command == "COPY" && fmt.Sprint(got) != "1" {
		c.rep.violation(kindReply, fmt.Sprintf("%v by %s, whose source exists: %v %v", all, j.cl.name, got, err))
	}
	switch {
	case err == nil:
		to.end(other, c.now(), 0)
	case refused(err), unsent(err):
		to.undo()
	default:
		c.replace(slot, to)
	}
	if mine == 0 {
		return err == nil
	}
	return j.ended(mine, 0, err, refused(err))
}

// moveOut moves the key to another database, where nothing of its name may be.
func (j *job) moveOut() bool {
	if err := j.away.Del(j.ctx, j.k.name).Err(); err != nil {
		return false
	}
	return j.run(version{absent: true}, 0, is(1), "MOVE", j.k.name, awayDB)
}

// moveIn has a key of this name come from another database.
func (j *job) moveIn() bool {
	if err := j.away.Set(j.ctx, j.k.name, j.text, 0).Err(); err != nil {
		return false
	}
	n := j.k.begin(j.version(version{payload: j.text, how: "MOVE back"}, 0))
	moved, err := j.away.Move(j.ctx, j.k.name, 1).Result()
	if err == nil && !moved {
		j.c.rep.violation(kindReply, fmt.Sprintf("MOVE %s 1 by %s was answered 0; before: %s %s", j.k.name, j.away.name, j.last.how, show(j.last.payload, j.last.absent)))
	}
	return j.ended(n, 0, err, refused(err))
}

// restore loads what DUMP has said of another key with the same value.
func (j *job) restore() bool {
	scratch := "scratch:" + j.text[:headLen]
	pipe := j.c.scratch.Pipeline()
	pipe.Set(j.ctx, scratch, j.text, time.Second)
	dump := pipe.Dump(j.ctx, scratch)
	if _, err := pipe.Exec(j.ctx); err != nil {
		return false
	}
	return j.run(version{payload: j.text}, 0, is("OK"), "RESTORE", j.k.name, 0, dump.Val(), "REPLACE")
}

// sort stores a sorted list under the key.
func (j *job) sort() bool {
	from := "product:source:" + j.k.name
	one, two := j.text[:headLen]+"-1", j.text[:headLen]+"-2"
	if _, err := j.c.admin.TxPipelined(j.ctx, func(p redis.Pipeliner) error {
		p.Del(j.ctx, from)
		p.RPush(j.ctx, from, two, one)
		return nil
	}); err != nil {
		return false
	}
	return j.run(version{payload: one + "," + two}, 0, is(2), "SORT", from, "ALPHA", "STORE", j.k.name)
}

// watch reads the value and replaces it if it is still that one, which it is: the key's writers take turns.
func (j *job) watch() bool {
	var n int
	var began bool
	err := j.cl.Watch(j.ctx, func(tx *redis.Tx) error {
		got, err := tx.Get(j.ctx, j.k.name).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if want := j.last; err == nil && (want.absent || got != want.payload) || err != nil && !want.absent {
			j.c.rep.violation(kindOwnWrite, fmt.Sprintf("GET %s by %s under WATCH: %s, want %s by %s",
				j.k.name, j.cl.name, show(got, err != nil), show(want.payload, want.absent), want.how))
		}
		began = true
		n = j.k.begin(j.version(version{payload: j.text, how: "WATCH MULTI SET EXEC"}, 0))
		_, err = tx.TxPipelined(j.ctx, func(p redis.Pipeliner) error {
			p.Set(j.ctx, j.k.name, j.text, 0)
			return nil
		})
		return err
	}, j.k.name)
	switch {
	case !began:
		return err == nil
	case errors.Is(err, redis.TxFailedErr): // something else has touched the key
		j.k.undo()
		return true
	}
	return j.ended(n, 0, err, false)
}

// pipeline writes and reads back in one batch, twice.
func (j *job) pipeline() bool {
	texts := [2]string{j.text, j.c.payload(j.r)}
	var ns [2]int
	for i, text := range texts {
		ns[i] = j.k.begin(j.version(version{payload: text, how: "SET in a pipeline"}, 0))
	}
	p := j.cl.Pipeline()
	var got [2]*redis.StringCmd
	for i, text := range texts {
		p.Set(j.ctx, j.k.name, text, 0)
		got[i] = p.Get(j.ctx, j.k.name)
	}
	if _, err := p.Exec(j.ctx); err != nil {
		if unsent(err) {
			j.k.undo()
		}
		j.c.failed(j.slot, j.k, err, false)
		return false
	}
	for i := range texts {
		j.k.end(ns[i], j.c.now(), 0)
		if got[i].Val() != texts[i] {
			j.c.rep.violation(kindOwnWrite, fmt.Sprintf("GET %s by %s in one pipeline with SET: %s, want %s", j.k.name, j.cl.name, show(got[i].Val(), false), show(texts[i], false)))
		}
	}
	j.c.rep.Writes.Add(2)
	return true
}
