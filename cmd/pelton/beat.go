package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"pelton/engine"
	"pelton/engine/topology"
	"pelton/internal/config"
	"pelton/schedules"
)

func (a *app) beat() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "beat",
		GroupID: groupRoles,
		Short:   "Send tasks at their times",
		Long: `Send the tasks of entries when they are due: those of beat.entries, and those of
the bucket that pelton schedule fills.

Any number may run, anywhere. There is no leader: of all that look at an entry
exactly one sends each occurrence, whatever their clocks say.`,
		Example: `  pelton beat
  pelton beat --nats-url nats://nats:4222 --telemetry-addr 127.0.0.1:8581`,
		Annotations: map[string]string{natsEquivalent: `  nats kv watch PELTON_SCHEDULES   # what it goes by`},
		Args:        takes(),
		RunE:        a.runBeat,
	}
	bind(cmd, "instance", "beat.instance", "`NAME` of this process in logs and in the ledgers", "host and process")
	natsFlags(cmd)
	logFlags(cmd)
	telemetryFlags(cmd)
	return cmd
}

func (a *app) runBeat(cmd *cobra.Command, _ []string) error {
	cfg, err := a.settings(cmd, config.PartNone)
	if err != nil {
		return err
	}
	return a.role(cmd.Context(), cfg, func(ctx context.Context, p part) error {
		client, err := engine.NewClient(p.nc, clientConfig(cfg, p.logs.Logger("engine")))
		if err != nil {
			return err
		}
		defer client.Close()
		beat, err := schedules.NewBeat(client, beatConfig(cfg, p.logs.Logger("beat")))
		if err != nil {
			return err
		}
		a.board.Watch("beat", beat.Health)
		if err := ensureBucket(ctx, client, cfg); err != nil {
			if ctx.Err() != nil {
				return nil // told to end before the broker was there
			}
			return err
		}
		return beat.Run(ctx)
	})
}

// ensureBucket verifies the bucket of entries, or makes it where the setup mode
// is manage. The queues are the entries' affair: one that is missing stops those
// that go there.
func ensureBucket(ctx context.Context, c *engine.Client, cfg *config.Config) error {
	topo, err := topology.New(topologyConfig(cfg, []string{engine.DefaultQueue}))
	if err != nil {
		return &usageError{err: err}
	}
	return c.Ensure(ctx, engine.SetupMode(cfg.Setup.Mode), topo.Only(func(s topology.Stream) bool { return s.Kind == topology.Schedules }))
}

func beatConfig(cfg *config.Config, log *slog.Logger) schedules.Config {
	out := schedules.Config{Logger: log, Place: func(name string) string { return placeOf(cfg, name) }}
	for _, name := range slices.Sorted(maps.Keys(cfg.Beat.Entries)) {
		out.Entries = append(out.Entries, storedOf(cfg, name))
	}
	if cfg.Beat.Instance != "" {
		// The ledger must tell this start from the one before.
		out.Instance = cfg.Beat.Instance + "-" + strconv.FormatInt(time.Now().UnixMilli(), 36)
	}
	return out
}

// placeOf is where an entry of the settings was defined, as far as that is one
// place.
func placeOf(cfg *config.Config, name string) string {
	key := "beat.entries." + name
	for _, field := range []string{"every", "cron", "at", "task"} {
		if at := key + "." + field; cfg.IsSet(at) {
			return cfg.Source(at) + ": " + key
		}
	}
	return key
}

// storedOf reads an entry of the settings by the same rules as those of the
// bucket. One that is wrong is kept with its error: the others go on.
func storedOf(cfg *config.Config, name string) schedules.Stored {
	e := cfg.Beat.Entries[name]
	every := durationText(e.Every)
	if every == "" && cfg.IsSet("beat.entries."+name+".every") {
		every = e.Every.String() // an interval of 0 is wrong, and not absent
	}
	entry, err := schedules.Fields{
		Every: every, Cron: e.Cron, At: e.At, Zone: e.Zone, Start: e.Start, End: e.End,
		Jitter: durationText(e.Jitter), CatchUp: e.CatchUp, Overlap: schedules.Overlap(e.Overlap), Paused: e.Paused,
		Task: e.Task, Queue: e.Queue, Body: json.RawMessage(e.Body), Headers: e.Headers, Expires: durationText(e.Expires),
	}.Entry(name)
	return schedules.Stored{Entry: entry, Err: err}
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
