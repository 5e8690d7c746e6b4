package connect

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/nats-io/nats.go"
)

// Explain adds to an error of a connection what can be done about it, where
// encryption is at fault. It reports whether waiting would be in vain: the
// other side answered, and will not have us like this.
func Explain(err error) (error, bool) {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		header  tls.RecordHeaderError
		alert   *net.OpError

		verification *tls.CertificateVerificationError // for any other reason
	)
	switch {
	case err == nil:
		return nil, false
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return err, true
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w: the server does not encrypt; leave out nats.tls, or have it encrypt", err), true
	case errors.Is(err, nats.ErrNoInfoReceived), errors.As(err, &header):
		return fmt.Errorf("%w: what listens there does not speak as a NATS server does", err), true
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: name its CA in nats.tls.ca_file", err), true
	case errors.As(err, &name):
		return fmt.Errorf("%w: use a name that the certificate has, or give one in nats.tls.server_name", err), true
	case errors.As(err, &verification):
		return err, true
	case errors.Is(err, nats.ErrTLS), errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("%w: the server refuses our certificate; see nats.tls.cert_file and key_file", err), true
	}
	return err, false
}
