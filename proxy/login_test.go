package proxy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

// uses tries what needs connections of every kind, in databases old and new.
func uses(t *testing.T, c *redistest.Client, who string) {
	t.Helper()
	for _, step := range []struct {
		want string
		args []string
	}{
		{"OK", []string{"SET", "product:1", who}},
		{who, []string{"GET", "product:1"}},
		{"OK", []string{"SET", "lock:" + who, "x", "EX", "10"}},
		{"1", []string{"DEL", "lock:" + who}},
		{"OK", []string{"SET", "plain", who}},
		{"OK", []string{"MULTI"}},
		{"QUEUED", []string{"GET", "plain"}},
		{"[" + who + "]", []string{"EXEC"}},
		{"(nil)", []string{"BLPOP", "nothing", "0.01"}},
		{"[" + who + " " + who + "]", []string{"MGET", "product:1", "plain"}},
		{"OK", []string{"SELECT", "7"}},
		{"OK", []string{"SET", "x", who}},
		{"OK", []string{"SELECT", "0"}},
	} {
		if got := c.Do(step.args...); got != step.want {
			t.Errorf("%s: %v answered %s, want %s", who, step.args, got, step.want)
		}
	}
}

// The password of nearside's own user may change. Sessions go on, and who logs in
// with the new one works, whatever new connections that takes.
func TestOwnPasswordChanges(t *testing.T) {
	for _, how := range []string{"requirepass", "requirepass through nearside", "setuser", "setuser through nearside"} {
		t.Run(how, func(t *testing.T) {
			everyServer(t, func(t *testing.T, name redistest.Name) {
				user, url := "default", "redis://%s"
				change := []string{"CONFIG", "SET", "requirepass", "NEW"}
				redis := redistest.StartNamed(t, name)
				if strings.HasPrefix(how, "setuser") {
					user, url = "svc", "redis://svc:OLD@%s"
					change = []string{"ACL", "SETUSER", "svc", "resetpass", ">NEW"}
					want := "OK"
					args := []string{"ACL", "SETUSER", "svc", "on", ">OLD", "~*", "+@all"}
					if name != redistest.Redis6 {
						args = append(args, "&*")
					}
					if got := redis.Do(args...); got != want {
						t.Fatal(got)
					}
				}
				n := launch(t, fmt.Sprintf(url, redis.Addr), nil)
				n.awaitLink()
				c := n.dial()
				uses(t, c, "before")
				if strings.HasSuffix(how, "through nearside") {
					want(t, c, "OK", change...)
					uses(t, c, "at once")
					n.dial().Do("HELLO", "3")
					uses(t, n.dial(), "another")
				} else if got := redis.Do(change...); got != "OK" {
					t.Fatal(got)
				}
				uses(t, c, "after")
				d := n.dial()
				if got := d.Do("HELLO", "3", "AUTH", user, "OLD"); !strings.HasPrefix(got, "-WRONGPASS") {
					t.Errorf("the old password was answered %s", got)
				}
				if got := d.Do("HELLO", "3", "AUTH", user, "NEW"); strings.HasPrefix(got, "-") {
					t.Fatalf("the new password was answered %s", got)
				}
				uses(t, d, "new")
				uses(t, c, "old")
				if got := d.Do("AUTH", user, "WRONG"); !strings.HasPrefix(got, "-WRONGPASS") {
					t.Errorf("a wrong password was answered %s", got)
				}
				uses(t, d, "again")
				e := n.dial()
				want(t, e, "OK", "AUTH", user, "NEW")
				uses(t, e, "later")
			}, redistest.Redis6, redistest.Valkey9)
		})
	}
}

// A Redis that comes back with its old password is entered with that.
func TestOldPasswordComesBack(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "OLD")
	n := launch(t, "redis://:OLD@"+redis.Addr, nil)
	n.awaitLink()
	c := n.dial()
	uses(t, c, "first")
	want(t, c, "OK", "CONFIG", "SET", "requirepass", "NEW")
	uses(t, c, "second")
	redis.Kill()
	redis.Restart()
	n.awaitLink()
	n.eventually("sessions go on", func() bool { return n.dial().Do("SET", "plain", "x") == "OK" })
	uses(t, n.dial(), "third")
}

// A user's sessions go on when its password changes, and new ones work.
func TestUserPasswordChanges(t *testing.T) {
	everyServer(t, func(t *testing.T, name redistest.Name) {
		redis := redistest.StartNamed(t, name)
		redis.Do("ACL", "SETUSER", "bob", "on", ">OLD", "~*", "+@all")
		n := start(t, redis, nil)
		c := n.dial()
		want(t, c, "OK", "AUTH", "bob", "OLD")
		uses(t, c, "before")
		redis.Do("ACL", "SETUSER", "bob", "resetpass", ">NEW")
		uses(t, c, "old") // on connections that there are
		d := n.dial()
		for _, args := range [][]string{{"AUTH", "bob", "OLD"}, {"HELLO", "2", "AUTH", "bob", "OLD"}} {
			if got := d.Do(args...); !strings.HasPrefix(got, "-WRONGPASS") {
				t.Errorf("%v was answered %s", args, got)
			}
		}
		want(t, d, "OK", "AUTH", "bob", "NEW")
		want(t, d, "bob", "ACL", "WHOAMI")
		uses(t, d, "new")
		uses(t, c, "old again")
		want(t, c, "OK", "AUTH", "bob", "NEW")
		uses(t, c, "all new")
	}, redistest.Redis6, redistest.Valkey9)
}

// AUTH is decided by Redis each time, over a few connections.
func TestAuthDoesNotDial(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
	redis.Do("ACL", "SETUSER", "eve", "on", ">pw2", "~*", "&*", "+@all")
	n := start(t, redis, nil)
	c := n.dial()
	want(t, c, "OK", "AUTH", "bob", "pw")
	want(t, c, "bob", "ACL", "WHOAMI")
	auths, dials := redis.Calls("auth"), n.origin.Stats().Dials
	begun := time.Now()
	for i := range 1000 {
		if i%2 == 0 {
			want(t, c, "OK", "AUTH", "bob", "pw")
		} else {
			want(t, c, "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "eve", "pw")
		}
	}
	took := time.Since(begun)
	d := redistest.Dial(t, redis.Addr)
	defer d.Close()
	begun = time.Now()
	for range 1000 {
		want(t, d, "OK", "AUTH", "bob", "pw")
	}
	t.Logf("1000 AUTHs took %v, directly %v", took, time.Since(begun))
	if more := redis.Calls("auth") - auths; more != 2000 {
		t.Errorf("Redis decided %d of 2000", more)
	}
	if more := n.origin.Stats().Dials - dials; more > verifyConns {
		t.Errorf("%d connections were made", more)
	}
	want(t, c, "bob", "ACL", "WHOAMI")

	// Many at once, right and wrong: each is told about its own.
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c := n.dial()
			user, pass := "bob", "pw"
			if i%2 == 1 {
				user, pass = "eve", "pw2"
			}
			for range 50 {
				if got := c.Do("AUTH", user, pass); got != "OK" {
					t.Errorf("%s: %s", user, got)
				}
				if got := c.Do("AUTH", user, "wrong"); !strings.HasPrefix(got, "-WRONGPASS") {
					t.Errorf("%s: %s", user, got)
				}
			}
			if got := c.Do("ACL", "WHOAMI"); got != user {
				t.Errorf("%s acts as %s", user, got)
			}
		})
	}
	wg.Wait()
	if more := n.origin.Stats().Dials - dials; more > 40 {
		t.Errorf("%d connections were made", more)
	}

	// A user is deleted: Redis closes the connections that act as it, those that
	// verify among them.
	for _, user := range []string{"bob", "eve"} {
		want(t, d, "1", "ACL", "DELUSER", user)
		if d = redistest.Dial(t, redis.Addr); user == "eve" {
			break
		}
	}
	want(t, n.dial(), "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "bob", "pw")
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw3", "~*", "&*", "+@all")
	want(t, n.dial(), "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "bob", "pw")
	want(t, n.dial(), "OK", "AUTH", "bob", "pw3")
	n.verifier.rest()
	if s := n.origin.Stats(); s.Dialled > 2 { // the link, and who looks at ACL LIST
		t.Errorf("%d connections stay", s.Dialled)
	}
}

// Once the link has found another server at the origin's address, no connection of
// before decides about a password.
func TestAuthAfterAMove(t *testing.T) {
	redis := redistest.Start(t)
	redis.Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
	n := start(t, redis, nil)
	c := n.dial()
	for range 2 * verifyConns { // each of them is there
		want(t, c, "OK", "AUTH", "bob", "pw")
	}
	n.users.doubt() // as the link does when it finds another run id
	dials := n.origin.Stats().Dials
	for range 2 * verifyConns {
		want(t, c, "OK", "AUTH", "bob", "pw")
	}
	if more := n.origin.Stats().Dials - dials; more < verifyConns {
		t.Errorf("%d of %d connections are new", more, verifyConns)
	}
}
