package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"time"

	"nearside/proxy/internal/tlsfiles"
)

// watch reads the certificates for the first time; nil where no client connects by TLS.
func (c *ClientTLS) watch(log *slog.Logger) (*tlsfiles.Watched, error) {
	if len(c.Listen) == 0 {
		return nil, nil
	}
	w, err := tlsfiles.Watch(tlsfiles.Files{CA: c.ClientCA, Cert: c.Cert, Key: c.Key}, log,
		func(pool *x509.CertPool, own []tls.Certificate) *tls.Config {
			t := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: own}
			if pool != nil {
				t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, pool
				t.SessionTicketsDisabled = true // a resumed session would outlive a removed CA
			}
			return t
		})
	if err != nil {
		return nil, fmt.Errorf("TLS for clients: %w", err)
	}
	return w, nil
}

// tlsListener accepts clients that speak TLS. The handshake is the session's own matter.
type tlsListener struct {
	net.Listener
	base *tls.Config
}

func newTLSListener(ln net.Listener, files *tlsfiles.Watched) *tlsListener {
	base := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.Config(), nil },
	}
	return &tlsListener{ln, base}
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tlsConn{tls.Server(c, l.base)}, nil
}

// tlsConn is a client's connection by TLS.
type tlsConn struct{ *tls.Conn }

// farewell bounds the alert that ends a connection: the client may take nothing more.
const farewell = 50 * time.Millisecond

// Close says goodbye, for which tls.Conn by itself would wait up to 5 s.
func (c *tlsConn) Close() error {
	t := time.AfterFunc(farewell, func() { _ = c.NetConn().Close() })
	defer t.Stop()
	return c.Conn.Close()
}

// handshake makes the connection ready, where it speaks TLS. The client has as
// much time for it as for a request.
func (s *session) handshake() bool {
	c, ok := s.sock.(*tlsConn)
	if !ok {
		return true
	}
	if err := c.SetDeadline(time.Now().Add(s.p.conf().RequestTimeout)); err != nil || s.stopping.Load() {
		return false
	}
	if err := c.HandshakeContext(s.p.ctx); err != nil {
		s.p.m.tlsErrors.Inc()
		s.p.log.Debug("a client's TLS handshake failed", "client", s.id, "addr", addrString(c.RemoteAddr()), "err", err)
		return false
	}
	return c.SetDeadline(time.Time{}) == nil
}

// identified tells whether the client has shown a certificate.
func (s *session) identified() bool {
	_, ok := s.sock.(*tlsConn)
	return ok && s.p.cfg.TLS.ClientCA != ""
}

// remote tells whether the client is on another machine.
func (s *session) remote() bool {
	a, ok := s.sock.RemoteAddr().(*net.TCPAddr)
	return ok && !a.IP.IsLoopback()
}
