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
	// What is wrong with credentials is told before anything waits for a broker.
	if rule := saslRule(cfg.Kafka.SASL); rule != "" {
		return out, nil, setting{cfg.Source("kafka.sasl.mechanism"), "kafka.sasl"}.wrong("", rule)
	}
	return out, certs, nil
}

func saslRule(s config.SASL) string {
	switch {
	case s.Mechanism == "" && (s.User != "" || !s.Password.IsZero()):
		return "needs kafka.sasl.mechanism beside user and password: plain, scram-sha-256 or scram-sha-512"
	case s.Mechanism != "" && s.User == "":
		return "needs kafka.sasl.user beside the mechanism"
	case s.Mechanism != "" && s.Password.IsZero():
		return "needs kafka.sasl.password beside the mechanism"
	}
	return ""
}
