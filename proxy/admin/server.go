// Package admin serves nearside's HTTP endpoints: what one can ask of it from
// a browser, a monitoring system or an orchestrator. It reports, and reloads the
// configuration.
//
//	server.go   listening, serving, ending
//	routes.go   which path answers what
//	reload.go   POST /-/reload
//	guard.go    who may ask
//	conns.go    how many at one time
//	token.go    what they must show
//	source.go   what it needs to know
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of one request. The self test is the slowest answer: it waits for the
// origin.
const (
	headerTimeout = 5 * time.Second
	healthTimeout = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	graceTimeout  = 2 * time.Second
	headerBytes   = 16 << 10
)

// Server is the HTTP server. Call Listen, then Serve.
type Server struct {
	addr   string
	tokens *tokens // nil: none is asked for
	src    Source
	log    *slog.Logger
	conns  conns
	ln     net.Listener
}

// Config says where a Server listens and who may ask.
type Config struct {
	Addr string // host:port
	// Token and the first line of TokenFile: who shows either as a bearer token may
	// ask. Both empty: everybody may.
	Token, TokenFile string
	Log              *slog.Logger
	// MaxConns bounds the connections at one time. Default 256.
	MaxConns int
}

// New returns a server that will listen on cfg.Addr.
func New(cfg Config, src Source) (*Server, error) {
	t, err := newTokens(cfg.Token, cfg.TokenFile, cfg.Log)
	if err != nil {
		return nil, err
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = mostConns
	}
	return &Server{addr: cfg.Addr, tokens: t, src: src, log: cfg.Log, conns: conns{most: cfg.MaxConns}}, nil
}

// Listen opens the listener. The address must be a loopback one unless a token is
// asked for.
func (s *Server) Listen() error {
	host, _, err := net.SplitHostPort(s.addr)
	if err != nil {
		return fmt.Errorf("admin address %q: %w", s.addr, err)
	}
	if s.tokens == nil && !loopback(host) {
		return fmt.Errorf("admin address %s can be reached from other machines: that needs an admin token", s.addr)
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	s.ln = ln
	return nil
}

// Addr is the address it listens on, nil before Listen.
func (s *Server) Addr() net.Addr {
	if s.ln == nil {
		return nil
	}
	return s.ln.Addr()
}

// Close closes the listener of a Server that will not Serve.
func (s *Server) Close() error {
	if s.ln == nil {
		return nil
	}
	return s.ln.Close()
}

// Serve answers until ctx is done, and lets the requests of that moment end.
func (s *Server) Serve(ctx context.Context) error {
	if s.ln == nil {
		return errors.New("admin: Serve before Listen")
	}
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ConnState:         s.conns.changed,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("admin: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTimeout)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = srv.Close() // whoever is still asking has had his time
	}
	if served := <-done; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	return err
}
