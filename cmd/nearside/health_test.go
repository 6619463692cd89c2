package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"
)

func TestHealthFlag(t *testing.T) {
	r := launch(t, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0")
	admin := r.until(t, `http://(\S+)/`)
	sick := httptest.NewServer(http.NotFoundHandler())
	defer sick.Close()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	_, port, err := net.SplitHostPort(admin)
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, "admin: "+admin+"\n")
	// What it was started with counts, not what has become of it.
	later := write(t, "admin: "+admin+"\ncache: {ping: 5s, max_staleness: 1s}\n")
	broken := write(t, "admin: [\n")
	off := write(t, "admin: \"\"\n")

	tests := []struct {
		name           string
		env, args      []string
		code           int
		stdout, stderr string
	}{
		{"flag", nil, []string{"-admin", admin}, 0, `\{"status":"alive",.*\}\n`, ``},
		{"environment", []string{"NEARSIDE_ADMIN=" + admin}, nil, 0, `.*"alive".*\n`, ``},
		{"file", nil, []string{"-config", file}, 0, `.*"alive".*\n`, ``},
		{"file by environment", []string{"NEARSIDE_CONFIG=" + file}, nil, 0, `.*"alive".*\n`, ``},
		{"no proxy in between", []string{"http_proxy=" + sick.URL, "HTTP_PROXY=" + sick.URL}, []string{"-admin", admin}, 0, `.*"alive".*\n`, ``},
		{"every interface", nil, []string{"-admin", "0.0.0.0:" + port}, 0, `.*"alive".*\n`, ``},
		{"every interface, short", nil, []string{"-admin", ":" + port}, 0, `.*"alive".*\n`, ``},
		{"it could not start so", nil, []string{"-config", later}, 0, `.*"alive".*\n`, ``},
		{"the flag is enough", nil, []string{"-config", broken, "-admin", admin}, 0, `.*"alive".*\n`, ``},

		{"not well", nil, []string{"-admin", sick.Listener.Addr().String()}, 1, ``, `nearside: .* answers 404 Not Found\n`},
		{"nobody", nil, []string{"-admin", gone.Addr().String()}, 1, ``, `nearside: .* does not answer: .*connection refused\n`},
		{"silent", nil, []string{"-admin", silent.Addr().String()}, 1, ``, `nearside: .* does not answer: .*deadline exceeded.*\n`},
		{"switched off", nil, []string{"-config", off}, 1, ``, `nearside: -health asks at the admin address, which is switched off\n`},
		{"any port", nil, []string{"-admin", "127.0.0.1:0"}, 1, ``, `nearside: -health cannot know the port of the admin address 127\.0\.0\.1:0\n`},
		{"no address", nil, []string{"-admin", "x"}, 1, ``, `-admin: "x" is not an address.*\n`},
		{"broken", nil, []string{"-config", broken}, 1, ``, regexp.QuoteMeta(broken) + `:\d+:\d+: .*\n`},
		{"unreadable", nil, []string{"-config", filepath.Join(t.TempDir(), "none")}, 1, ``, `nearside: cannot read .*\n`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := outcome(t, tt.env, append(tt.args, "-health")...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, x := range []struct{ name, got, want string }{{"stdout", stdout, tt.stdout}, {"stderr", stderr, tt.stderr}} {
				if !regexp.MustCompile(`\A(?:` + x.want + `)\z`).MatchString(x.got) {
					t.Errorf("%s: got %q, want %s", x.name, x.got, x.want)
				}
			}
		})
	}
}
