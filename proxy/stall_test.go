package proxy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// While Redis holds writes back (CLIENT PAUSE WRITE, before each planned failover) reads
// go on, those of whoever has sent them behind another one's write too; writes wait, as
// long as Redis wishes, and nobody is closed for it.
func TestPauseWriteAtRedis(t *testing.T) {
	for _, name := range []redistest.Name{redistest.Debian, redistest.Redis8, redistest.Valkey8, redistest.Valkey9} {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			redis := redistest.StartNamed(t, name)
			n := start(t, redis, func(c *Config) { c.OriginTimeout = time.Second }) // much shorter than the pause
			redis.Do("RPUSH", "l", "a", "b")
			redis.Do("SET", "x", "before")
			redis.DoDB(1, "MSET", "product:1", "p1", "product:2", "p2")
			redis.Do("SET", "lock:held", "me")
			reads := []struct{ line, want string }{
				{"GET x", "before"},
				{"LRANGE l 0 -1", "[a b]"},
				{"MGET x l", "[before (nil)]"},
				{"GET lock:held", "me"},
				{"PING", "PONG"},
				{"ECHO e", "e"},
				{"MGET product:1 product:2", "[p1 p2]"},
				{"GET product:1", "p1"},
				{"MGET x product:1", "[before p1]"},
				{"EXISTS x", "1"},
				{"TTL x", "-1"},
				{"DBSIZE", "5"},
			}
			var writers, readers []*redistest.Client
			for range 4 {
				w := n.dial()
				want(t, w, "PONG", "PING")
				writers = append(writers, w)
			}
			for range 8 {
				r := n.dial()
				want(t, r, "before", "GET", "x")
				readers = append(readers, r)
			}
			const pause = 4 * time.Second
			redis.Do("CLIENT", "PAUSE", fmt.Sprint(pause.Milliseconds()), "WRITE")
			begun := time.Now()
			for i, w := range writers { // a lock too; and reads of its own, which come behind the write
				w.Write(redistest.Command("GET", "x") + redistest.Command("SET", []string{"x", "lock:x", "product:1", "y"}[i], "after") + redistest.Command("GET", "x"))
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			var took []time.Duration
			for k, r := range readers {
				wg.Go(func() {
					for i := k; time.Since(begun) < pause-500*time.Millisecond; i++ {
						read := reads[i%len(reads)]
						asked := time.Now()
						if i%5 == 0 { // two at a time
							r.Write(redistest.Command(strings.Fields(read.line)...) + redistest.Command("GET", "x"))
						} else {
							r.Send(strings.Fields(read.line)...)
						}
						got, err := r.TryRead()
						if err == nil && i%5 == 0 {
							var more string
							if more, err = r.TryRead(); more != "before" {
								t.Errorf("GET x behind %s answered %s", read.line, more)
							}
						}
						if err != nil || got != read.want {
							t.Errorf("%s answered %s, %v", read.line, got, err)
							return
						}
						mu.Lock()
						took = append(took, time.Since(asked))
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			slices.Sort(took)
			t.Logf("%d reads, median %s, longest %s", len(took), took[len(took)/2], took[len(took)-1])
			if longest := took[len(took)-1]; longest > time.Second {
				t.Errorf("a read took %s", longest)
			}
			for i, w := range writers {
				if got := w.Read(); got != "before" {
					t.Errorf("a read in front of a write answered %s", got)
				}
				if got := w.Read(); got != "OK" {
					t.Errorf("a write answered %s", got)
				}
				if waited := time.Since(begun); waited < pause-100*time.Millisecond {
					t.Errorf("it was not held back, but answered after %s", waited)
				}
				if got := w.Read(); got != "after" && (i == 0 || got != "before") {
					t.Errorf("a read behind a write answered %s", got)
				}
			}
			for _, c := range slices.Concat(writers, readers) {
				want(t, c, "after", "GET", "product:1")
				want(t, c, "OK", "SET", "z", "1")
				c.Close()
			}
			n.settled()
		})
	}
}

// Of two answers to a read that was sent twice the first one counts, and the other one
// is nobody else's.
func TestMovedReadsAnswerOnce(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	n := start(t, redis, func(c *Config) { c.OriginConnections = 1 })
	redis.Do("SET", "x", "v")
	redis.DoDB(1, "SET", "product:1", "p")
	for round := range 3 {
		w := n.dial()
		var readers []*redistest.Client
		for range 4 {
			r := n.dial()
			want(t, r, "v", "GET", "x")
			readers = append(readers, r)
		}
		n.warm(readers[0], "GET", "product:1")
		redis.DoDB(1, "SET", "product:1", "p")
		redis.Do("CLIENT", "PAUSE", "600", "WRITE")
		w.Send("SET", "w", itoa(round))
		n.eventually("the write is held back", func() bool {
			return blocked(redis) > 0 || strings.Contains(redis.Do("CLIENT", "LIST"), "flags=be ") || strings.Contains(redis.Do("CLIENT", "LIST"), "flags=b ")
		})
		for i, r := range readers {
			r.Write(redistest.Command("GET", "x") + redistest.Command("GET", "product:1") + redistest.Command("STRLEN", "x") + redistest.Command("GET", "product:absent"+itoa(i)))
		}
		for range 2 { // while the writes are held back, and when the first answers have come
			for _, r := range readers {
				for _, expected := range []string{"v", "p", "1", "(nil)"} {
					if got := r.Read(); got != expected {
						t.Fatalf("round %d: got %s, want %s", round, got, expected)
					}
				}
			}
			for i, r := range readers {
				r.Write(redistest.Command("GET", "x") + redistest.Command("GET", "product:1") + redistest.Command("STRLEN", "x") + redistest.Command("GET", "product:absent"+itoa(i)))
			}
		}
		if got := w.Read(); got != "OK" {
			t.Fatalf("the write answered %s", got)
		}
		for _, r := range readers {
			for _, expected := range []string{"v", "p", "1", "(nil)"} {
				if got := r.Read(); got != expected {
					t.Fatalf("round %d, afterwards: got %s, want %s", round, got, expected)
				}
			}
			want(t, r, "still", "ECHO", "still")
			r.Close()
		}
		w.Close()
		n.settled()
	}
}
