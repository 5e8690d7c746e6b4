package connect

import (
	"log/slog"

	"pelton/edges/produce"
	"pelton/internal/config"
)

// Kafka is the settings of Kafka as the edges take them, and the certificates
// of its connections; nil where there are none to reload.
func Kafka(cfg *config.Config, log *slog.Logger) (produce.Kafka, *Certificates, error) {
	out := produce.Kafka{
		Brokers:  cfg.Kafka.Brokers,
		ClientID: cfg.Kafka.ClientID,
		SASL:     produce.SASL(cfg.Kafka.SASL),
		Logger:   log,
	}
	certs, err := LoadCertificates(cfg, "kafka.tls", cfg.Kafka.TLS)
	if err != nil {
		return out, nil, err
	}
	if certs != nil {
		out.Dial = certs.Dial
	}
	return out, certs, nil
}
