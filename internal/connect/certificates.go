package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"pelton/internal/config"
)

// dialTimeout bounds a dial with its handshake, as the edges bound theirs.
const dialTimeout = 3 * time.Second

// Certificates are what a connection shows and what it trusts, read from files.
// [Certificates.Reload] reads them again; connections made after it use the new
// ones, those that stand go on. Safe for concurrent use.
type Certificates struct {
	name   string // nats.tls
	source func(key string) string
	files  config.TLS
	held   atomic.Pointer[held]
}

// held is one reading of the files.
type held struct {
	pool *x509.CertPool   // nil for the system's
	cert *tls.Certificate // nil for none
}

// LoadCertificates reads the files of the TLS settings under name, nats.tls or
// kafka.tls. It returns nil where the settings ask for no encryption.
func LoadCertificates(cfg *config.Config, name string, files config.TLS) (*Certificates, error) {
	return loadCertificates(cfg.Source, name, files)
}

func loadCertificates(source func(key string) string, name string, files config.TLS) (*Certificates, error) {
	if files == (config.TLS{}) {
		return nil, nil
	}
	c := &Certificates{name: name, source: source, files: files}
	return c, c.Reload()
}

// Reload reads the files again. Where one of them is broken, all stay as they
// were.
func (c *Certificates) Reload() error {
	next := &held{}
	var err error
	if c.files.CAFile != "" {
		if next.pool, err = c.readPool(); err != nil {
			return err
		}
	}
	if c.files.CertFile != "" || c.files.KeyFile != "" {
		if next.cert, err = c.readPair(); err != nil {
			return err
		}
	}
	c.held.Store(next)
	return nil
}

func (c *Certificates) setting(key string) setting {
	key = c.name + "." + key
	return setting{c.source(key), key}
}

func (c *Certificates) readPool() (*x509.CertPool, error) {
	ca := c.setting("ca_file")
	pem, err := os.ReadFile(c.files.CAFile)
	if err != nil {
		return nil, ca.wrong(c.files.CAFile, unreadable(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, ca.wrong(c.files.CAFile, "must name a PEM file with a certificate")
	}
	return pool, nil
}

func (c *Certificates) readPair() (*tls.Certificate, error) {
	cert, key := c.setting("cert_file"), c.setting("key_file")
	switch {
	case c.files.KeyFile == "":
		return nil, cert.wrong(c.files.CertFile, "needs "+key.key+" beside it")
	case c.files.CertFile == "":
		return nil, key.wrong(c.files.KeyFile, "needs "+cert.key+" beside it")
	}
	certPEM, err := os.ReadFile(c.files.CertFile)
	if err != nil {
		return nil, cert.wrong(c.files.CertFile, unreadable(err))
	}
	keyPEM, err := os.ReadFile(c.files.KeyFile)
	if err != nil {
		return nil, key.wrong(c.files.KeyFile, unreadable(err))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		// The errors of the library tell of blocks and kinds, not of their content.
		return nil, cert.wrong(c.files.CertFile, fmt.Sprintf("must be a PEM certificate that the key in %s fits: %v", c.files.KeyFile, err))
	}
	return &pair, nil
}

// pool is what is trusted now; nil is what the system trusts.
func (c *Certificates) pool() (*x509.CertPool, error) { return c.held.Load().pool, nil }

// certificate is what is shown now.
func (c *Certificates) certificate() (tls.Certificate, error) {
	if cert := c.held.Load().cert; cert != nil {
		return *cert, nil
	}
	return tls.Certificate{}, nil
}

// Config is for one connection to a host, with the certificates of now.
func (c *Certificates) Config(host string) *tls.Config {
	now := c.held.Load()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: now.pool}
	if c.files.ServerName != "" {
		cfg.ServerName = c.files.ServerName
	}
	if now.cert != nil {
		cfg.Certificates = []tls.Certificate{*now.cert}
	}
	return cfg
}

// Dial connects and shakes hands within three seconds. It is the dialer of a
// Kafka client: that of franz-go keeps the certificates of its start.
func (c *Certificates) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c.Config(host))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("tls: %w", err), ignoreClosed(raw.Close()))
	}
	return conn, nil
}

// ignoreClosed drops what a handshake that was cut short has closed before.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
