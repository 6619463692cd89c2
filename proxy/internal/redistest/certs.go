package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA makes certificates for 127.0.0.1, for servers and clients alike.
type CA struct {
	File string // its own certificate
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

// NewCA makes a certificate authority whose files are in a directory of the test's.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of " + t.Name()}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &CA{t: t, dir: t.TempDir(), cert: cert, key: key, last: 1}
	ca.File = ca.write("ca.crt", "CERTIFICATE", der)
	return ca
}

// Issue writes a new certificate and its key to files of that name, in place of
// earlier ones, and returns its serial number.
func (ca *CA) Issue(name string) (crt, key string, serial int64) {
	ca.t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	ca.last++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(ca.last), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{name + ".test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &own.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.write(name+".crt", "CERTIFICATE", der), ca.write(name+".key", "EC PRIVATE KEY", keyDER), ca.last
}

func (ca *CA) write(name, kind string, der []byte) string {
	ca.t.Helper()
	path := filepath.Join(ca.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return path
}

// Client is a TLS configuration that trusts the CA and shows the certificate of
// that name; "" shows none.
func (ca *CA) Client(name string) *tls.Config {
	ca.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	c.RootCAs.AddCert(ca.cert)
	if name != "" {
		crt, key, _ := ca.Issue(name)
		pair, err := tls.LoadX509KeyPair(crt, key)
		if err != nil {
			ca.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// StartTLS is Start with a port for TLS beside the plain one; it returns the
// former's address. Clients must have a certificate of the CA.
func StartTLS(t testing.TB, ca *CA, args ...string) (*Server, string) {
	t.Helper()
	crt, key, _ := ca.Issue("redis")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	_ = ln.Close()
	return Start(t, append([]string{"--tls-port", port, "--tls-cert-file", crt, "--tls-key-file", key, "--tls-ca-cert-file", ca.File}, args...)...), addr
}

// TryTLS connects by TLS and shakes hands.
func TryTLS(t testing.TB, addr string, c *tls.Config) (*Client, *tls.Conn, error) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: Timeout}, "tcp", addr, c)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return On(t, conn), conn, nil
}

// DialTLS is TryTLS that must not fail.
func DialTLS(t testing.TB, addr string, c *tls.Config) *Client {
	t.Helper()
	client, _, err := TryTLS(t, addr, c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
