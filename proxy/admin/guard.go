package admin

import (
	"net"
	"net/http"
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
		if !s.ours(r.Host) {
			http.Error(w, "this server does not answer to the host name of this request; ask by IP address or by localhost", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
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
	return s.remote && (own == "" || ip != nil && ip.IsUnspecified())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
