package proxy

import (
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// pausing is the number of sessions that CLIENT PAUSE holds back.
func (n *nearside) pausing() (count int) {
	for _, s := range n.sessionList() {
		if s.pausing.Load() {
			count++
		}
	}
	return count
}

// CLIENT PAUSE holds back what Redis's holds back, and what it does is not seen at Redis.
func TestPauseWrite(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	for i, addr := range []string{redis.Addr, n.addr} {
		admin := redistest.Dial(t, addr)
		t.Cleanup(admin.Close)
		want(t, admin, "OK", "SET", "product:1", "x")
		tx := redistest.Dial(t, addr)
		t.Cleanup(tx.Close)
		want(t, tx, "OK", "MULTI")
		want(t, tx, "QUEUED", "SET", "product:tx", "x")
		readTx := redistest.Dial(t, addr)
		t.Cleanup(readTx.Close)
		want(t, readTx, "OK", "MULTI")
		want(t, readTx, "QUEUED", "GET", "product:1")

		want(t, admin, "OK", "CLIENT", "PAUSE", "100000", "WRITE")
		free := [][]string{{"GET", "product:1"}, {"PING"}, {"MULTI"}, {"DISCARD"}, {"WATCH", "a"}, {"NOSUCH"}, {"SET", "a"}, {"EVAL_RO", "return 1", "0"}, {"BLPOP"}, {"SELECT", "0"}, {"CLIENT", "GETNAME"}, {"SCRIPT", "LOAD", "return 1"}}
		for _, args := range free {
			admin.Do(args...) // and is not held back
		}
		want(t, readTx, "[x]", "EXEC")
		held := [][]string{
			{"SET", "a", "1"},
			{"DEL", "product:1", "a"},
			{"EVAL", "return 1", "0"},
			{"EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"},
			{"FCALL", "f", "0"},
			{"PFCOUNT", "hll"},
			{"PUBLISH", "x", "y"},
			{"SPUBLISH", "x", "y"},
			{"BLPOP", "q", "0.01"},
			{"EXPIRE", "a", "1"},
			{"FLUSHALL"},
			{"FUNCTION", "FLUSH"},
			{"GETEX", "a"},
		}
		var list []*redistest.Client
		for _, args := range held {
			c := redistest.Dial(t, addr)
			t.Cleanup(c.Close)
			c.Send(args...)
			list = append(list, c)
		}
		tx.Send("EXEC")
		if i == 0 {
			n.eventually("Redis holds them back", func() bool { return blocked(redis) == len(held)+1 })
			want(t, admin, "OK", "CLIENT", "UNPAUSE")
		} else {
			n.eventually("nearside holds them back", func() bool { return n.pausing() == len(held)+1 })
			if list := admin.Do("CLIENT", "LIST"); strings.Count(list, " flags=b ")+strings.Count(list, " flags=xb ") != len(held)+1 {
				t.Errorf("CLIENT LIST shows\n%s", list)
			}
			want(t, redistest.Dial(t, redis.Addr), "OK", "SET", "free", "1") // Redis knows nothing of it
			want(t, admin, "0", "CLIENT", "UNBLOCK", "1")
			want(t, admin, "OK", "CLIENT", "UNPAUSE")
		}
		if got := tx.Read(); got != "[OK]" {
			t.Errorf("EXEC answered %s", got)
		}
		for i, c := range list {
			if _, err := c.TryRead(); err != nil {
				t.Errorf("%v: %v", held[i], err)
			}
		}
		want(t, admin, "OK", "SET", "a", "1")
		for _, args := range [][]string{{"x"}, {"-1"}, {"1", "x"}, {"x", "x"}, {"0"}, {"0", "write"}, {"1", "WRITE", "x"}, {""}} {
			args = append([]string{"CLIENT", "PAUSE"}, args...)
			if a, b := redis.Do(args...), admin.Do(args...); a != b {
				t.Errorf("%v: Redis %s, nearside %s", args, a, b)
			}
		}
		want(t, admin, "OK", "SET", "a", "1")
	}
}

// With ALL everybody waits until the time is over, who paused included; MONITOR goes on.
func TestPauseAll(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	const pause = 300 * time.Millisecond
	for _, addr := range []string{redis.Addr, n.addr} {
		admin, other := redistest.Dial(t, addr), redistest.Dial(t, addr)
		t.Cleanup(admin.Close)
		t.Cleanup(other.Close)
		want(t, other, "PONG", "PING")
		begun := time.Now()
		want(t, admin, "OK", "CLIENT", "PAUSE", "300")
		other.Send("PING")
		want(t, admin, "OK", "CLIENT", "UNPAUSE")
		if took := time.Since(begun); took < pause {
			t.Errorf("%s: UNPAUSE was answered after %v", addr, took)
		}
		if got := other.Read(); got != "PONG" {
			t.Error(got)
		}
	}
	t.Log("a hit waits as well, and a longer pause wins")
	c, admin := n.dial(), n.dial()
	want(t, c, "OK", "SET", "product:1", "x")
	n.warm(c, "GET", "product:1")
	begun := time.Now()
	admin.Write(redistest.Command("CLIENT", "PAUSE", "300") + redistest.Command("PING"))
	n.eventually("it waits", func() bool { return n.pausing() == 1 })
	want(t, c, "x", "GET", "product:1")
	if took := time.Since(begun); took < pause {
		t.Errorf("answered after %v", took)
	}
}

// Who goes away while paused is noticed, nothing of what was held back is done,
// and nearside ends in time.
func TestPausedClientLeaves(t *testing.T) {
	redis := redistest.Start(t)
	n := start(t, redis, nil)
	admin, c, killed := n.dial(), n.dial(), n.dial()
	id := killed.Do("CLIENT", "ID")
	want(t, admin, "OK", "CLIENT", "PAUSE", "100000", "WRITE")
	c.Write(redistest.Command("PING") + redistest.Command("SET", "a", "1"))
	if got := c.Read(); got != "PONG" { // what came before is answered
		t.Fatal(got)
	}
	killed.Send("SET", "a", "2")
	n.eventually("they wait", func() bool { return n.pausing() == 2 })
	c.Close()
	want(t, admin, "1", "CLIENT", "KILL", "ID", id)
	killed.Closed()
	n.eventually("they are gone", func() bool { return n.pausing() == 0 && len(n.sessionList()) == 1 })
	want(t, admin, "(nil)", "GET", "a")
	last := n.dial()
	last.Send("SET", "a", "3")
	n.eventually("it waits", func() bool { return n.pausing() == 1 })
	begun := time.Now()
	n.stop()
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("nearside ended after %v", took)
	}
	if got := redis.Do("GET", "a"); got != "(nil)" {
		t.Errorf("a is %s", got)
	}
}
