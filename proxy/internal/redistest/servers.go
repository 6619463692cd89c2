package redistest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Name is a server that a test can ask for. Debian's own redis-server is always
// there; "make servers" unpacks the others.
type Name string

// The servers.
const (
	Debian  Name = ""        // redis-server in PATH: 7.0
	Redis6  Name = "redis6"  // Redis 6.0
	Redis8  Name = "redis8"  // Redis 8.0
	Valkey8 Name = "valkey8" // Valkey 8.1
	Valkey9 Name = "valkey9" // Valkey 9.1
)

// All are the servers, Debian's own first.
var All = []Name{Debian, Redis6, Redis8, Valkey8, Valkey9}

func (n Name) String() string {
	if n == Debian {
		return "redis7"
	}
	return string(n)
}

// StartNamed is Start with another server. Without that server the test is
// skipped; if NEARSIDE_SERVERS_REQUIRED is set, as in CI, it fails.
func StartNamed(t testing.TB, name Name, args ...string) *Server {
	t.Helper()
	return startProgram(t, name.program(t), name.arguments(), args)
}

// program finds the server's program.
func (n Name) program(t testing.TB) string {
	t.Helper()
	if n == Debian {
		path, err := exec.LookPath("redis-server")
		if err != nil {
			t.Fatalf("the tests need a real redis-server; run make deps: %v", err)
		}
		return path
	}
	path := filepath.Join(serversDir(), string(n), "bin", "redis-server")
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("NEARSIDE_SERVERS_REQUIRED") != "" {
			t.Fatalf("%s is not there; run make servers: %v", n, err)
		}
		t.Skipf("%s is not there; make servers unpacks it: %v", n, err)
	}
	return path
}

// serversDir is where .ci/servers unpacks them.
func serversDir() string {
	if dir := os.Getenv("NEARSIDE_SERVERS"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "" // no home: none is found
	}
	return filepath.Join(cache, "nearside", "servers")
}

// arguments are those that not every server has.
func (n Name) arguments() []string {
	if n == Redis6 {
		return nil // DEBUG is always allowed there
	}
	return []string{"--enable-debug-command", "yes"}
}
