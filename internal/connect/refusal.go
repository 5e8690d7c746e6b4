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
func Explain(err error) (final bool, explained error) {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		header  tls.RecordHeaderError
		alert   *net.OpError

		verification *tls.CertificateVerificationError // for any other reason
	)
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return true, err
	case errors.Is(err, nats.ErrSecureConnWanted):
		return true, fmt.Errorf("%w: the server does not encrypt; leave out nats.tls, or have it encrypt", err)
	case errors.Is(err, nats.ErrNoInfoReceived), errors.As(err, &header):
		return true, fmt.Errorf("%w: what listens there does not speak as a NATS server does", err)
	case errors.As(err, &unknown):
		return true, fmt.Errorf("%w: name its CA in nats.tls.ca_file", err)
	case errors.As(err, &name):
		return true, fmt.Errorf("%w: use a name that the certificate has, or give one in nats.tls.server_name", err)
	case errors.As(err, &verification):
		return true, err
	case errors.Is(err, nats.ErrTLS), errors.As(err, &alert) && alert.Op == "remote error":
		return true, fmt.Errorf("%w: the server refuses our certificate; see nats.tls.cert_file and key_file", err)
	}
	return false, err
}
