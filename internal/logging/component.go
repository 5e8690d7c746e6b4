package logging

import (
	"context"
	"errors"
	"log/slog"
	"slices"
)

// components are the parts that log, and the names by which Python's parts in
// their place do, nearest first. An imported file speaks of a part by any of
// them, or by a name above it: celery stands for celery.worker as well.
var components = map[string][]string{
	"beat":    {"celery.beat", "beat"},
	"config":  {"config"},
	"dev":     {"dev"},
	"discord": {"nextcord", "discord"},
	"emit":    {"emit"},
	"health":  {"health"},
	"engine":  {"celery", "engine"},
	"ingest":  {"ingest"},
	"janitor": {"janitor"},
	"kafka":   {"confluent_kafka", "kafka"},
	"logging": {"logging"},
	"nats":    {"nats"},
	"produce": {"produce"},
	"worker":  {"celery.worker", "worker"},
}

// Components are the names that [Logs.Logger] knows, in order.
func Components() []string {
	names := make([]string, 0, len(components))
	for name := range components {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sink is where the lines of a component go, from a level on.
type sink struct {
	least slog.Level
	to    slog.Handler
}

// handler is a component's. It is asked for every line that is not written, so
// the levels of all that is behind it are one number.
type handler struct {
	floor *slog.LevelVar
	sinks []sink
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.floor.Level() }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, s := range h.sinks {
		if r.Level >= s.least {
			errs = append(errs, s.to.Handle(ctx, r))
		}
	}
	return errors.Join(errs...)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h *handler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *handler) with(change func(slog.Handler) slog.Handler) *handler {
	out := &handler{floor: h.floor, sinks: slices.Clone(h.sinks)}
	for i := range out.sinks {
		out.sinks[i].to = change(out.sinks[i].to)
	}
	return out
}
