package kafka

import (
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clientLog writes the warnings and errors of franz-go to slog. What only
// repeats that a broker is away, every second and from every corner of the
// client, is demoted to debug: watch has said so once.
type clientLog struct {
	logger *slog.Logger
	watch  *watch
}

var _ kgo.Logger = (*clientLog)(nil)

// Level keeps franz-go from preparing lines that nobody wants.
func (*clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log writes one line.
func (l *clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	attrs := append([]any{slog.String("event", msg)}, keyvals...)
	switch {
	case l.watch.away() || lostConnection(keyvals):
		l.logger.Debug("kafka client", attrs...)
	case level == kgo.LogLevelError:
		l.logger.Error("kafka client", attrs...)
	case level == kgo.LogLevelWarn:
		l.logger.Warn("kafka client", attrs...)
	default:
		l.logger.Debug("kafka client", attrs...)
	}
}

func lostConnection(keyvals []any) bool {
	for _, v := range keyvals {
		if err, ok := v.(error); ok && Classify(err) == Unreachable {
			return true
		}
	}
	return false
}
