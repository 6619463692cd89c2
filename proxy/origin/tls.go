package origin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/redis/go-redis/v9"

	"nearside/proxy/internal/tlsfiles"
)

// TLS says whom to trust and who to be. The files are read again when they change.
type TLS struct {
	// CA holds the certificates that the origin's must come from; "": the system's.
	CA string
	// Cert and Key are the client certificate; both or none.
	Cert, Key string
	// ServerName is what the origin's certificate must be for; "": the URL's host.
	ServerName string
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool
}

// watchTLS reads the files for the first time.
func (o *Origin) watchTLS() error {
	t := o.cfg.TLS
	base := o.opt.TLSConfig
	if base == nil {
		if t != (TLS{}) {
			return errors.New("TLS to the origin needs a rediss:// URL")
		}
		return nil
	}
	base.MinVersion = tls.VersionTLS12
	base.InsecureSkipVerify = base.InsecureSkipVerify || t.InsecureSkipVerify
	if t.ServerName != "" {
		base.ServerName = t.ServerName
	}
	w, err := tlsfiles.Watch(tlsfiles.Files{CA: t.CA, Cert: t.Cert, Key: t.Key}, o.cfg.Log,
		func(pool *x509.CertPool, own []tls.Certificate) *tls.Config {
			c := base.Clone()
			c.RootCAs, c.Certificates = pool, own
			return c
		})
	o.tls = w
	return err
}

// secure gives a connection that is to be made the certificates of this moment.
func (o *Origin) secure(opt *redis.Options) {
	if o.tls != nil {
		opt.TLSConfig = o.tls.Config()
	}
}
