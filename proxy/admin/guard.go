package admin

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// guard lets only those requests pass that were meant for this server.
//
// A page on the web can make a browser ask http://its.name:9380/ after
// pointing its.name at 127.0.0.1, and then read the answer as its own (DNS
// rebinding). Such a request gives itself away by its Host: a name that is not
// ours. An IP address in Host cannot be rebound.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !safe(r.Method) && foreign(r) {
			http.Error(w, "this server takes no orders from pages of other sites", http.StatusForbidden)
			return
		}
		if !s.ours(r.Host) {
			http.Error(w, "this server does not answer to the host name of this request; ask by IP address or by localhost", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		if s.tokens != nil && !probe(r) && !s.tokens.allow(r) {
			h.Set("WWW-Authenticate", `Bearer realm="nearside"`)
			http.Error(w, "this needs the header Authorization: Bearer TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// safe tells whether a method asks only.
func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// probe tells whether an orchestrator asks, which has no token. What it is told
// then is in brief.
func probe(r *http.Request) bool {
	return safe(r.Method) && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz")
}

// brief tells whether no more than the status is to be told.
func (s *Server) brief(r *http.Request) bool { return s.tokens != nil && !s.tokens.allow(r) }

// foreign tells whether a browser says that another site's page makes it ask:
// anybody's page may make it send a POST without reading the answer.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host)
}

// ours says whether a Host header names this server.
func (s *Server) ours(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" || host == "localhost" || net.ParseIP(host) != nil {
		return true
	}
	own, _, _ := net.SplitHostPort(s.addr)
	if strings.EqualFold(host, own) {
		return true
	}
	// Told to listen on every interface, it cannot know the names it goes by.
	ip := net.ParseIP(own)
	return s.tokens != nil && (own == "" || ip != nil && ip.IsUnspecified())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
