package admin

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"net/http"
	"time"
)

//go:embed index.html
var index []byte

// handler is every path and what it answers. The mux itself answers 404 and,
// for a wrong method, 405 with Allow.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /cache/metrics", s.cacheMetrics)
	mux.HandleFunc("GET /cache/health", s.cacheHealth)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("POST /-/reload", s.reload)
	return s.guard(mux)
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	s.write(w, http.StatusOK, index)
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	s.src.WriteMetrics(&b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	s.write(w, http.StatusOK, b.Bytes())
}

func (s *Server) cacheMetrics(w http.ResponseWriter, _ *http.Request) {
	m := s.src.CacheMetrics()
	if m == nil {
		m = map[string]RuleMetrics{}
	}
	s.json(w, http.StatusOK, struct {
		Timestamp string                 `json:"timestamp"`
		Metrics   map[string]RuleMetrics `json:"metrics"`
	}{now(), m})
}

func (s *Server) cacheHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	h := s.src.Health(ctx)
	code, status, test := http.StatusOK, "healthy", "passed"
	if h.Error != "" {
		code, status, test = http.StatusServiceUnavailable, "unhealthy", "failed"
	}
	var link *linkJSON
	if h.Link != nil {
		r := linkReport(*h.Link)
		link = &r
	}
	s.json(w, code, struct {
		Status    string    `json:"status"`
		Test      string    `json:"test"`
		Timestamp string    `json:"timestamp"`
		Error     string    `json:"error,omitempty"`
		Notes     []string  `json:"notes,omitempty"`
		Link      *linkJSON `json:"link,omitempty"`
	}{status, test, now(), h.Error, h.Notes, link})
}

// healthz: whoever can answer is alive, whatever became of Redis.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	s.status(w, r, http.StatusOK, s.report("alive"))
}

// readyz: clients are better served by a nearside whose Redis is down, with
// its clear errors, than by none.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	b := s.report("ready")
	code := http.StatusOK
	switch {
	case b.Draining:
		code, b.Status = http.StatusServiceUnavailable, "draining"
	case !b.Ready:
		code, b.Status = http.StatusServiceUnavailable, "not ready"
	}
	s.status(w, r, code, b)
}

// status answers with all of a report, or for who shows no token with its status.
func (s *Server) status(w http.ResponseWriter, r *http.Request, code int, b report) {
	if s.brief(r) {
		s.json(w, code, struct {
			Status string `json:"status"`
		}{b.Status})
		return
	}
	s.json(w, code, b)
}

// report is the body of healthz and readyz.
type report struct {
	Status   string     `json:"status"`
	Ready    bool       `json:"-"`
	Draining bool       `json:"-"`
	Origin   originJSON `json:"origin"`
	Link     linkJSON   `json:"link"`
}

type originJSON struct {
	Up      bool   `json:"up"`
	Address string `json:"address"`
	Error   string `json:"error,omitempty"`
}

type linkJSON struct {
	Source      string   `json:"source"`
	State       string   `json:"state,omitempty"`
	Up          bool     `json:"up"`
	Error       string   `json:"error,omitempty"`
	StalenessMS *float64 `json:"stalenessMs"` // null while nothing is known
	BoundMS     *float64 `json:"boundMs"`     // null: unbounded
	ProofPings  int      `json:"proofPings,omitempty"`
	ProofReason string   `json:"proofReason,omitempty"`
}

func (s *Server) report(status string) report {
	st := s.src.Status()
	return report{
		Status:   status,
		Ready:    st.Ready,
		Draining: st.Draining,
		Origin:   originJSON(st.Origin),
		Link:     linkReport(st.Link),
	}
}

func linkReport(l Link) linkJSON {
	r := linkJSON{Source: l.Source, State: l.State, Up: l.Up, Error: l.Error, ProofPings: l.Proof, ProofReason: l.ProofWhy}
	if l.Up && l.Bound > 0 {
		r.StalenessMS = milliseconds(l.Staleness)
	}
	if l.Bound > 0 {
		r.BoundMS = milliseconds(l.Bound)
	}
	return r
}

func milliseconds(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (s *Server) json(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.log.Error("admin: no JSON", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, code, append(b, '\n'))
}

// write sends a whole answer. A client that has gone away is not our concern.
func (s *Server) write(w http.ResponseWriter, code int, body []byte) {
	w.WriteHeader(code)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("admin: answer not taken", "error", err)
	}
}
