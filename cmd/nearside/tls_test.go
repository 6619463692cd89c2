package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearside/proxy"
)

// pair writes a certificate and its key.
func pair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: cert},
		name + ".key": {Type: "EC PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	pair(t, dir, "a")
	pair(t, dir, "b")
	if err := os.WriteFile("empty", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		origin  = "redis: rediss://h\nredis_tls: "
		clients = "tls: {listen: 127.0.0.1:1, cert: a.crt, key: a.key"
	)
	for _, tt := range []struct{ name, text, err string }{
		{"unknown key", origin + "{cafile: a.crt}\n", `f.yaml:2:13: unknown key "cafile" in redis_tls: one of ca, cert, insecure_skip_verify, key, server_name`},
		{"no such CA", origin + "{ca: none}\n", `f.yaml:2:17: redis_tls.ca: cannot read none: no such file or directory`},
		{"a directory", origin + "{ca: .}\n", `f.yaml:2:17: redis_tls.ca: cannot read .: is a directory`},
		{"no name", origin + "{ca: \"\"}\n", `f.yaml:2:17: redis_tls.ca: needs the name of a file`},
		{"empty CA", origin + "{ca: empty}\n", `f.yaml:2:17: empty holds no certificate in PEM form`},
		{"no key", origin + "{cert: a.crt}\n", `f.yaml:2:19: redis_tls.cert and redis_tls.key need each other`},
		{"no certificate", origin + "{key: a.key}\n", `f.yaml:2:18: redis_tls.cert and redis_tls.key need each other`},
		{"another's key", origin + "{cert: a.crt, key: b.key}\n", `f.yaml:2:19: a.crt and b.key: tls: private key does not match public key`},
		{"server name", origin + "{server_name: \"h:1\"}\n", `f.yaml:2:26: redis_tls.server_name: "h:1" is not the name of a host`},
		{"verify", origin + "{insecure_skip_verify: maybe}\n", `f.yaml:2:35: redis_tls.insecure_skip_verify: "maybe" is neither true nor false`},
		{"no TLS at the origin", "redis_tls: {ca: a.crt}\n", `f.yaml:1:12: redis_tls is of no use without a URL that begins with rediss://`},

		{"no listener", "tls: {cert: a.crt, key: a.key}\n", `f.yaml:1:6: tls.listen names no address: nobody could connect by TLS`},
		{"nothing to show", "tls: {listen: 127.0.0.1:1}\n", `f.yaml:1:6: tls needs cert and key`},
		{"only a certificate", "tls: {listen: 127.0.0.1:1, cert: a.crt}\n", `f.yaml:1:34: tls.cert and tls.key need each other`},
		{"the key for the certificate", "tls: {listen: 127.0.0.1:1, cert: a.key, key: a.key}\n", `f.yaml:1:34: a.key and a.key: tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched`},
		{"empty client CA", clients + ", client_ca: empty}\n", `f.yaml:1:64: empty holds no certificate in PEM form`},
		{"bad address", "tls: {listen: [here]}\n", `f.yaml:1:16: tls.listen[0]: "here" is not an address: expected host:port or unix:/path`},
		{"the same address", "listen: 127.0.0.1:1\n" + clients + "}\n", `f.yaml:2:15: 127.0.0.1:1 is given twice`},
		{"admin's address", "admin: 127.0.0.1:1\n" + clients + "}\n", `f.yaml:1:8: admin and tls.listen name the same address, 127.0.0.1:1`},
		{"beyond loopback", "tls: {listen: 0.0.0.0:1, cert: a.crt, key: a.key}\n", `f.yaml:1:15: 0.0.0.0:1 can be reached from other machines, and everybody there may do what nearside may: that needs default_user: none, so that clients must authenticate, or protected_mode: false`},
		{"nobody could connect", "listen: []\n", `f.yaml:1:9: listen names no address: nobody could connect`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := check(tt.text); err == nil || err.Error() != tt.err {
				t.Errorf("got  %v\nwant %s", err, tt.err)
			}
		})
	}

	s, err := check("listen: []\n" + origin + "{ca: a.crt, cert: a.crt, key: a.key, server_name: redis.internal, insecure_skip_verify: true}\n" +
		"tls: {listen: 0.0.0.0:1, cert: b.crt, key: b.key, client_ca: a.crt}\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := (proxy.RedisTLS{CA: "a.crt", Cert: "a.crt", Key: "a.key", ServerName: "redis.internal", InsecureSkipVerify: true}); s.cfg.RedisTLS != want {
		t.Errorf("%+v", s.cfg.RedisTLS)
	}
	c := s.cfg.TLS
	if len(s.cfg.Listen) != 0 || strings.Join(c.Listen, " ") != "0.0.0.0:1" || c.Cert != "b.crt" || c.Key != "b.key" || c.ClientCA != "a.crt" {
		t.Errorf("%v %+v", s.cfg.Listen, c)
	}
}
