package produce

import (
	"testing"
	"time"
)

func TestConfigErrorsNameKeyValueAndRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{
			"no topic", func(c *Config) { c.Topic = "" },
			`produce.topic: "": must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -`,
		},
		{
			"topic", func(c *Config) { c.Topic = "a b" },
			`produce.topic: "a b": must be a topic name, 1 to 249 of a-z A-Z 0-9 . _ -`,
		},
		{
			"header", func(c *Config) { c.Headers = []Header{{"a", "b"}, {"", "v"}} },
			`produce.headers[1]: "v": must have a key`,
		},
		{"count", func(c *Config) { c.Count = -1 }, `produce.count: must be at least 0, got -1`},
		{"retries", func(c *Config) { c.Retries = -2 }, `produce.retries: must be at least 0, got -2`},
		{"acks", func(c *Config) { c.Acks = "2" }, `produce.acks: "2": must be all, 1 or 0`},
		{"acks by number", func(c *Config) { c.Acks = "-1" }, `produce.acks: "-1": must be all, 1 or 0`},
		{
			"acks 1 and idempotence", func(c *Config) { c.Acks = "1" },
			`produce.acks: "1": must be all while produce.disable_idempotence is false`,
		},
		{
			"acks 0 and idempotence", func(c *Config) { c.Acks = "0" },
			`produce.acks: "0": must be all while produce.disable_idempotence is false`,
		},
		{
			"compression", func(c *Config) { c.Compression = "brotli" },
			`produce.compression: "brotli": must be none, gzip, snappy, lz4 or zstd`,
		},
		{
			"message size", func(c *Config) { c.MaxMessageBytes = 100 },
			`produce.max_message_bytes: must be 512 to 104857600, got 100`,
		},
		{
			"interval", func(c *Config) { c.Interval = -time.Second },
			`produce.interval: must be at least 0s, got -1s`,
		},
		{"linger", func(c *Config) { c.Linger = time.Hour }, `produce.linger: must be at most 1m0s, got 1h0m0s`},
		{
			"delivery timeout", func(c *Config) { c.DeliveryTimeout = time.Millisecond },
			`produce.delivery_timeout: must be at least 1s, got 1ms`,
		},
		{
			"connect timeout", func(c *Config) { c.ConnectTimeout = -1 },
			`produce.connect_timeout: must be at least 0s, got -1ns`,
		},
		{"grace", func(c *Config) { c.Grace = -1 }, `produce.grace: must be at least 0s, got -1ns`},
		{
			"brokers", func(c *Config) { c.Kafka.Brokers = []string{"x"} },
			`kafka.brokers[0]: "x": must be host:port`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Topic: "t"}
			tt.set(&cfg)
			if _, err := New(cfg); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestConfigIsCopied(t *testing.T) {
	cfg := Config{Topic: "t", Headers: []Header{{"a", "b"}}}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Headers[0].Key = ""
	if p.cfg.Headers[0].Key != "a" {
		t.Error("the caller's change reaches the producer")
	}
}
