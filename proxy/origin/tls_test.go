package origin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearside/proxy/internal/redistest"
)

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	crt, pkey := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	for path, block := range map[string]*pem.Block{crt: {Type: "CERTIFICATE", Bytes: der}, pkey: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	_ = l.Close()
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", crt, "--tls-key-file", pkey, "--tls-auth-clients", "no", "--tls-ca-cert-file", crt)

	o := open(t, Config{URL: "rediss://" + addr + "?skip_verify=true"})
	c := sharedConn(t, o, Group{Proto: 3, DB: 1})
	v := fill(300_000)
	call(t, c, "SET", "k", v)
	if got := call(t, c, "GET", "k"); !strings.HasSuffix(got, v+"\r\n") {
		t.Errorf("%.30q", got)
	}
	r := newRecorder(1)
	p := pin(t, o, resp2)
	send(t, p, numbered{r, 0}, 1, "BLPOP", "q", "0")
	p.Flush()
	o.Close()
	r.wantErrors(t, ErrClosed)

	_, err = open(t, Config{URL: "rediss://" + addr}).Shared(ctxT(t), resp2, 0)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}
