package admin

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// request asks with headers, given as names and values in turn.
func request(t *testing.T, s *Server, method, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	r.Host = "127.0.0.1:9380"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w
}

func TestTokenIsAskedFor(t *testing.T) {
	src := &fake{status: Status{Ready: true, Origin: Origin{Address: "10.9.8.7:6379", Error: "refused"}}}
	s := server(t, Config{Addr: "127.0.0.1:9380", Token: secret}, src)
	for _, path := range []string{"/", "/metrics", "/cache/metrics", "/cache/health", "/nothing"} {
		for _, shown := range []string{"", "Bearer", "Bearer ", "Bearer " + secret + "x", "Bearer " + secret[1:], "Basic " + secret, secret} {
			w := request(t, s, http.MethodGet, path, "Authorization", shown)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != `Bearer realm="nearside"` {
				t.Errorf("%s with %q: %d %q", path, shown, w.Code, w.Header().Get("WWW-Authenticate"))
			}
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s tells the token", path)
			}
		}
		for _, shown := range []string{"Bearer " + secret, "bearer " + secret} {
			if w := request(t, s, http.MethodGet, path, "Authorization", shown); w.Code == http.StatusUnauthorized {
				t.Errorf("%s refuses the token", path)
			}
		}
	}
	if w := request(t, s, http.MethodPost, "/-/reload"); w.Code != http.StatusUnauthorized || src.reloads != 0 {
		t.Errorf("POST without a token: %d, %d reloads", w.Code, src.reloads)
	}
}

// An orchestrator has no token, and hears no more than it needs.
func TestProbesNeedNoToken(t *testing.T) {
	src := &fake{status: Status{Ready: true, Origin: Origin{Address: "10.9.8.7:6379", Error: "refused"}}}
	s := server(t, Config{Addr: "127.0.0.1:9380", Token: secret}, src)
	for path, status := range map[string]string{"/healthz": "alive", "/readyz": "ready"} {
		w := request(t, s, http.MethodGet, path)
		if want := `{"status":"` + status + `"}` + "\n"; w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		w = request(t, s, http.MethodGet, path, "Authorization", "Bearer "+secret)
		if w.Code != 200 || !strings.Contains(w.Body.String(), "10.9.8.7:6379") {
			t.Errorf("%s with the token: %d %s", path, w.Code, w.Body)
		}
		if w := request(t, s, http.MethodPost, path); w.Code != http.StatusUnauthorized {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"short\n":                        "the admin token has 5 bytes: at least 16",
		"":                               "the admin token has 0 bytes: at least 16",
		"\nthe second line is long":      "the admin token has 0 bytes: at least 16",
		"a token with blanks in it\n":    "holds a blank",
		"sixteen bytes, not \xffASCII\n": "holds a blank or something that is not ASCII",
	} {
		write(text)
		_, err := New(Config{Addr: "127.0.0.1:0", TokenFile: file, Log: quiet}, &fake{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := New(Config{TokenFile: file + "x", Log: quiet}, &fake{}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}

	var log bytes.Buffer
	write(secret + "\nanything\n")
	s, err := New(Config{Addr: "127.0.0.1:9380", Token: "another-of-16-bytes", TokenFile: file, Log: slog.New(slog.NewTextHandler(&log, nil))}, &fake{})
	if err != nil {
		t.Fatal(err)
	}
	code := func(token string) int {
		return request(t, s, http.MethodGet, "/metrics", "Authorization", "Bearer "+token).Code
	}
	const next = "the-next-of-16-bytes"
	for _, step := range []struct {
		write           func()
		old, next, both int
	}{
		{func() {}, 200, 401, 200},
		{func() { write(next) }, 401, 200, 200},
		{func() { write("short") }, 401, 200, 200}, // it is being written
		{func() { _ = os.Remove(file) }, 401, 200, 200},
		{func() { write(secret) }, 200, 401, 200},
	} {
		step.write()
		if a, b, c := code(secret), code(next), code("another-of-16-bytes"); a != step.old || b != step.next || c != step.both {
			t.Errorf("%d %d %d, want %+v", a, b, c, step)
		}
	}
	if n := strings.Count(log.String(), "stays what it was"); n != 1 || strings.Contains(log.String(), "short\n") {
		t.Errorf("%d complaints: %s", n, &log)
	}
}

func TestReload(t *testing.T) {
	for _, tt := range []struct {
		changes []string
		err     error
		code    int
		body    string
	}{
		{nil, nil, 200, "nothing changed\n"},
		{[]string{"cache.memory: 1 -> 2", "deny: [] -> [debug]"}, nil, 200, "cache.memory: 1 -> 2\ndeny: [] -> [debug]\n"},
		{nil, errors.New("f.yaml:1:2: wrong"), 422, "f.yaml:1:2: wrong\n"},
		{nil, ErrNothingToReload, 409, ErrNothingToReload.Error() + "\n"},
	} {
		src := &fake{changes: tt.changes, refusal: tt.err}
		w := request(t, plain(t, "127.0.0.1:9380", src), http.MethodPost, "/-/reload")
		if w.Code != tt.code || w.Body.String() != tt.body || src.reloads != 1 {
			t.Errorf("%d %q, %d reloads, want %+v", w.Code, w.Body, src.reloads, tt)
		}
	}
	src := &fake{}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete} {
		w := request(t, plain(t, "127.0.0.1:9380", src), method, "/-/reload")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" || src.reloads != 0 {
			t.Errorf("%s: %d, Allow %q, %d reloads", method, w.Code, w.Header().Get("Allow"), src.reloads)
		}
	}
}

// A page of another site can make a browser send a POST; the browser says so.
func TestOtherSites(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		code    int
	}{
		{nil, 200},
		{[]string{"Sec-Fetch-Site", "none"}, 200},
		{[]string{"Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:9380"}, 200},
		{[]string{"Origin", "http://127.0.0.1:9380"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Origin", "http://evil.example"}, 403},
		{[]string{"Origin", "http://127.0.0.1:80"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "http://127.0.0.1:9380", "Sec-Fetch-Site", "cross-site"}, 403},
	} {
		src := &fake{}
		w := request(t, plain(t, "127.0.0.1:9380", src), http.MethodPost, "/-/reload", tt.headers...)
		if w.Code != tt.code || (src.reloads == 1) != (tt.code == 200) {
			t.Errorf("%v: %d, %d reloads", tt.headers, w.Code, src.reloads)
		}
	}
	if w := request(t, plain(t, "127.0.0.1:9380", &fake{}), http.MethodGet, "/metrics", "Sec-Fetch-Site", "cross-site"); w.Code != 200 {
		t.Errorf("a link from another site: %d", w.Code)
	}
}
