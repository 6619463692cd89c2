// Package tlsfiles keeps TLS configurations in step with the files they are made
// of. Promise: a renewed certificate is used without a restart, and a broken one
// never takes the place of one that works.
package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// every is how often the files are read at most, which a handshake sets off.
// They are compared by what they hold: times of change can lie.
const every = time.Second

// Files names the PEM files of one side of a connection; "" is none.
type Files struct {
	CA        string // who the other side's certificate must come from
	Cert, Key string // one's own certificate
}

// Watched is a TLS configuration that follows its files.
type Watched struct {
	files Files
	build func(pool *x509.CertPool, own []tls.Certificate) *tls.Config
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Config
	held    [3][]byte // what current is made of
	looked  time.Time
	problem string // the last one logged
}

// Watch reads the files for the first time. build makes the configuration out of
// what they hold: a nil pool without a CA, no certificate without Cert.
func Watch(files Files, log *slog.Logger, build func(pool *x509.CertPool, own []tls.Certificate) *tls.Config) (*Watched, error) {
	w := &Watched{files: files, build: build, log: log}
	if err := w.refresh(); err != nil {
		return nil, err
	}
	w.looked = time.Now()
	return w, nil
}

// Config is the configuration by the files as they are now, or as they were when
// they last made sense. Nobody may change it.
func (w *Watched) Config() *tls.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.looked) < every {
		return w.current
	}
	err := w.refresh()
	w.looked = time.Now()
	switch {
	case err == nil:
		w.problem = ""
	case err.Error() != w.problem:
		w.problem = err.Error()
		w.log.Error("a new TLS certificate cannot be used; the old one stays in use", "err", err)
	}
	return w.current
}

// refresh reads the files and builds anew if one of them has changed.
func (w *Watched) refresh() error {
	var held [3][]byte
	for i, name := range []string{w.files.CA, w.files.Cert, w.files.Key} {
		if name == "" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return unreadable(name, err)
		}
		held[i] = b
	}
	if w.current != nil && slices.EqualFunc(held[:], w.held[:], bytes.Equal) {
		return nil
	}
	var pool *x509.CertPool
	if w.files.CA != "" {
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(held[0]) {
			return fmt.Errorf("%s holds no certificate in PEM form", w.files.CA)
		}
	}
	var own []tls.Certificate
	if w.files.Cert != "" {
		pair, err := tls.X509KeyPair(held[1], held[2])
		if err != nil {
			return fmt.Errorf("%s and %s: %w", w.files.Cert, w.files.Key, err)
		}
		own = []tls.Certificate{pair}
	}
	renewed := w.current != nil
	w.current, w.held = w.build(pool, own), held
	if renewed {
		w.log.Info("TLS certificates were read again", "ca", w.files.CA, "cert", w.files.Cert)
	}
	return nil
}

func unreadable(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("cannot read %s: %w", name, err)
}
