package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"pelton/engine"
	"pelton/internal/config"
	"pelton/schedules"
)

func (a *app) schedule() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schedule",
		GroupID: groupClients,
		Short:   "Look at the entries of beat, and change them",
		Example: `  pelton schedule ls --next 3
  pelton schedule add nightly --cron '0 2 * * *' report '{"full":true}'
  pelton schedule pause nightly`,
	}
	makeGroup(cmd, a.scheduleList(), a.scheduleShow(), a.scheduleAdd(), a.scheduleRemove(), a.schedulePause(), a.scheduleResume(),
		a.scheduleRun(), a.scheduleHistory(), a.scheduleImport())
	return cmd
}

// schedulesAsk is what a command does with the bucket of entries.
type schedulesAsk func(ctx context.Context, c *engine.Client, store *schedules.Store, cfg *config.Config) error

// scheduleCommand gives a command what all of them have.
func (a *app) scheduleCommand(cmd *cobra.Command, build func(args []string) (schedulesAsk, error)) *cobra.Command {
	timeout := timeoutFlag(cmd, 10*time.Second, "`DURATION` in which the broker must answer")
	natsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.settings(cmd, config.PartNone)
		if err != nil {
			return err
		}
		run, err := build(args)
		if err != nil {
			return &usageError{err: err, help: cmd.CommandPath() + " --help"}
		}
		return a.ask(cmd, cfg, *timeout, func(ctx context.Context, c *engine.Client) error {
			store, err := schedules.OpenStore(ctx, c)
			if err != nil {
				return err
			}
			return run(ctx, c, store, cfg)
		})
	}
	return cmd
}

// sourced is an entry with where it was defined.
type sourced struct {
	schedules.Stored
	source schedules.Source
}

// allEntries are those of the bucket and those of the settings of this command,
// by name.
func allEntries(ctx context.Context, store *schedules.Store, cfg *config.Config) ([]sourced, error) {
	stored, err := store.Entries(ctx)
	if err != nil {
		return nil, err
	}
	var all []sourced
	for _, s := range stored {
		all = append(all, sourced{s, schedules.SourceKV})
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Beat.Entries)) {
		own := sourced{storedOf(cfg, name), schedules.SourceConfig}
		twin := slices.IndexFunc(all, func(s sourced) bool { return s.Entry.Name == name })
		if twin >= 0 {
			err := definedTwice(store, cfg, name)
			own.Err, all[twin].Err = err, err
		}
		all = append(all, own)
	}
	slices.SortStableFunc(all, func(a, b sourced) int { return strings.Compare(a.Entry.Name, b.Entry.Name) })
	return all, nil
}

func definedTwice(store *schedules.Store, cfg *config.Config, name string) error {
	return fmt.Errorf("entry %s: %w, in %s and in %s: it must be in one; neither is run", name, schedules.ErrTwice, placeOf(cfg, name), store.Place(name))
}

// findEntry is an entry of either place.
func findEntry(ctx context.Context, store *schedules.Store, cfg *config.Config, name string) (sourced, error) {
	found, err := store.Entry(ctx, name)
	_, isOwn := cfg.Beat.Entries[name]
	switch {
	case err == nil && isOwn:
		found.Err = definedTwice(store, cfg, name)
		return sourced{found, schedules.SourceKV}, nil
	case err == nil:
		return sourced{found, schedules.SourceKV}, nil
	case isOwn && errors.Is(err, engine.ErrNotFound):
		return sourced{storedOf(cfg, name), schedules.SourceConfig}, nil
	}
	return sourced{}, err
}

func (a *app) scheduleList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the entries, when they are due, and what became of them",
		Long: `List the entries of the bucket, and those of the settings of this command.

STATE is ok, paused, ended (never due again), new (no beat has seen it), late
(it was due and nobody has sent it: is a beat running, is the queue full?), or
invalid (pelton schedule show says why). FIRED counts since the entry was added,
MISSED what was left out that was due while no beat ran, SKIPPED what was left
out because the entry was paused or its task still ran.`,
		Example: `  pelton schedule ls
  pelton schedule ls --next 3 -o json`,
		Annotations: map[string]string{natsEquivalent: `  nats kv ls PELTON_SCHEDULES`},
		Args:        takes(),
	}
	next := cmd.Flags().Int("next", 1, "`NUMBER` of next times to show")
	show := outputFlags(cmd)
	return a.scheduleCommand(cmd, func([]string) (schedulesAsk, error) {
		if *next < 1 || *next > 1000 {
			return nil, errors.New("--next must be from 1 to 1000, got " + strconv.Itoa(*next))
		}
		return func(ctx context.Context, c *engine.Client, store *schedules.Store, cfg *config.Config) error {
			all, err := allEntries(ctx, store, cfg)
			if err != nil {
				return err
			}
			now := time.Now()
			found := make([]schedules.Status, len(all))
			group, ctx := errgroup.WithContext(ctx)
			group.SetLimit(entriesAtOnce)
			for i, s := range all {
				group.Go(func() (err error) {
					found[i], err = schedules.Look(ctx, c, s.Stored, s.source, now, *next)
					return err
				})
			}
			if err := group.Wait(); err != nil {
				return err
			}
			return list(a.stdout, show, found, func(s schedules.Status) string { return s.Name }, scheduleColumns())
		}, nil
	})
}

// entriesAtOnce is how many entries are asked about at a time.
const entriesAtOnce = 16

func scheduleColumns() []column[schedules.Status] {
	type s = schedules.Status
	return []column[s]{
		{"ENTRY", false, func(e s) string { return e.Name }},
		{"WHEN", false, func(e s) string { return orDash(shorten(e.Prose, 60)) }},
		{"TASK", false, func(e s) string { return orDash(e.Entry.Task) }},
		{"NEXT", false, func(e s) string { return nextTimes(e.Next) }},
		{"LAST", false, func(e s) string { return when(e.Last) }},
		{"OUTCOME", false, func(e s) string { return orDash(e.Outcome) }},
		{"FIRED", true, func(e s) string { return strconv.Itoa(e.Counts[schedules.Fired]) }},
		{"MISSED", true, func(e s) string { return strconv.Itoa(e.Counts[schedules.SkipCatchUp]) }},
		{"SKIPPED", true, func(e s) string { return strconv.Itoa(skippedOf(e.Counts)) }},
		{"STATE", false, func(e s) string { return string(e.State) }},
	}
}

func nextTimes(times []time.Time) string {
	if len(times) == 0 {
		return "-"
	}
	var out []string
	for _, t := range times {
		out = append(out, when(t))
	}
	return strings.Join(out, " ")
}

// skippedOf counts what was looked at in time and not sent.
func skippedOf(counts map[string]int) int {
	return counts[schedules.SkipPaused] + counts[schedules.SkipOverlap]
}

func (a *app) scheduleShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show an entry and how it stands, as JSON",
		Example: `  pelton schedule show nightly
  pelton schedule show nightly --next 10`,
		Annotations: map[string]string{natsEquivalent: `  nats kv get PELTON_SCHEDULES nightly
  nats stream get PELTON_TASKS_default --last-for pelton.ledger.default.beat.nightly`},
		Args: takes("NAME"),
	}
	next := cmd.Flags().Int("next", 5, "`NUMBER` of next times to show")
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		return func(ctx context.Context, c *engine.Client, store *schedules.Store, cfg *config.Config) error {
			found, err := findEntry(ctx, store, cfg, args[0])
			if err != nil {
				return err
			}
			status, err := schedules.Look(ctx, c, found.Stored, found.source, time.Now(), *next)
			if err != nil {
				return err
			}
			return writeJSON(a.stdout, status, "  ")
		}, nil
	})
}

// addFlags are what add reads of its command line.
type addFlags struct {
	entry   schedules.Fields
	headers []string
	replace bool
}

func (a *app) scheduleAdd() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add NAME TASK [BODY]",
		Short: "Add an entry to the bucket, or replace one",
		Long: `Add an entry to the bucket. Beats take it up within a second; its first time is
the first one after now.

One of --every, --cron and --at says when. BODY is JSON: as it stands, of a file
with @FILE, or of standard input with -. An entry that is there already is
refused with exit code 7 unless --replace is given.`,
		Example: `  pelton schedule add ping --every 10s print '{"message":"ping"}'
  pelton schedule add nightly --cron '0 2 * * *' --zone Europe/Berlin report
  pelton schedule add once --at 2030-01-01T00:00:00Z print '"happy new year"'`,
		Annotations: map[string]string{natsEquivalent: `  nats kv put PELTON_SCHEDULES ping '{"every":"10s","task":"print","body":{"message":"ping"}}'`},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return takes("NAME", "TASK", "BODY")(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.entry.Every, "every", "", "`DURATION` between two times, as 10s")
	flags.StringVar(&f.entry.Cron, "cron", "", "cron `LINE` of five fields, or six with seconds first")
	flags.StringVar(&f.entry.At, "at", "", "`TIME` at which it is sent once, as 2026-11-22T22:29:10Z")
	flags.StringVar(&f.entry.Zone, "zone", "", "`ZONE` of the cron line, as Europe/Berlin")
	flags.StringVar(&f.entry.Start, "start", "", "`TIME` from which it is due, and from which --every counts")
	flags.StringVar(&f.entry.End, "end", "", "`TIME` after which it is due no more")
	flags.StringVar(&f.entry.Jitter, "jitter", "", "`DURATION` by which it may run later, another one each time")
	flags.StringVar(&f.entry.CatchUp, "catch-up", "", "what is sent that was due while no beat ran: `POLICY` none, one, all or all(10,1h)")
	flags.StringVar((*string)(&f.entry.Overlap), "overlap", "", "what becomes of it while the one before runs: `POLICY` skip, queue or replace")
	flags.StringVar(&f.entry.Expires, "expires", "", "`DURATION` after which it does not run any more")
	flags.StringVar(&f.entry.Queue, "queue", "", "`QUEUE` to send to")
	flags.BoolVar(&f.entry.Paused, "paused", false, "skip what is due until it is resumed")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "header `NAME=VALUE` for the handler")
	flags.BoolVar(&f.replace, "replace", false, "replace an entry of this name")
	flags.Lookup("queue").DefValue = engine.DefaultQueue
	flags.Lookup("catch-up").DefValue = string(schedules.CatchUpOne)
	flags.Lookup("overlap").DefValue = string(schedules.OverlapQueue)
	flags.Lookup("zone").DefValue = "UTC"
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		entry, err := a.entryOf(f, args)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, _ *engine.Client, store *schedules.Store, cfg *config.Config) error {
			return a.putEntry(ctx, store, cfg, entry, !f.replace)
		}, nil
	})
}

func (a *app) entryOf(f addFlags, args []string) (schedules.Entry, error) {
	f.entry.Task = args[1]
	if len(args) == 3 {
		body, err := a.body(args[2])
		if err != nil {
			return schedules.Entry{}, fmt.Errorf("entry %s: %w", args[0], err)
		}
		f.entry.Body = body
	}
	for _, header := range f.headers {
		name, value, err := parseHeader(header)
		if err != nil {
			return schedules.Entry{}, err
		}
		if f.entry.Headers == nil {
			f.entry.Headers = map[string]string{}
		}
		f.entry.Headers[name] = value
	}
	return f.entry.Entry(args[0])
}

// putEntry stores an entry, begins its ledger and prints its name. One that
// stands in the settings is refused: two of a name are run by nobody.
func (a *app) putEntry(ctx context.Context, store *schedules.Store, cfg *config.Config, entry schedules.Entry, create bool) error {
	if _, twice := cfg.Beat.Entries[entry.Name]; twice {
		return fmt.Errorf("entry %s: stands in %s already: %w", entry.Name, placeOf(cfg, entry.Name), engine.ErrExists)
	}
	stored, err := store.Put(ctx, entry, create)
	if err != nil {
		return err
	}
	switch err := store.Begin(ctx, stored); {
	case errors.Is(err, schedules.ErrOlder):
		// Somebody has changed it again since.
	case errors.Is(err, engine.ErrForbidden):
		a.say("entry %s begins with the next beat: this user may not write its ledger", entry.Name)
	case err != nil:
		return fmt.Errorf("entry %s is stored and begins with the next beat: %w", entry.Name, err)
	}
	_, err = fmt.Fprintln(a.stdout, entry.Name)
	return err
}

func (a *app) scheduleRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:         "rm NAME...",
		Short:       "Remove entries from the bucket; what they have sent stays",
		Example:     "  pelton schedule rm nightly\n  pelton schedule rm nightly ping",
		Annotations: map[string]string{natsEquivalent: `  nats kv del PELTON_SCHEDULES nightly`},
		Args:        atLeastOneName,
	}
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		return func(ctx context.Context, _ *engine.Client, store *schedules.Store, cfg *config.Config) error {
			return a.eachName(args, func(name string) error {
				found, err := store.Entry(ctx, name)
				if err == nil {
					err = store.Remove(ctx, name)
				}
				if err != nil {
					return ofSettings(cfg, name, err)
				}
				if err := store.End(ctx, name, found.Revision); err != nil {
					a.say("entry %s ends with the next beat: %v", name, err)
				}
				return nil
			})
		}, nil
	})
}

func atLeastOneName(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return takes("NAME")(cmd, args)
	}
	return nil
}

// eachName does something to each, prints the names of those it was done to and
// tells of the others.
func (a *app) eachName(names []string, do func(string) error) (err error) {
	for _, name := range names {
		if failed := do(name); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if _, failed := fmt.Fprintln(a.stdout, name); failed != nil {
			return errors.Join(err, failed)
		}
	}
	return err
}

// ofSettings says of an entry that is not in the bucket whether it is in the
// settings, which no command changes.
func ofSettings(cfg *config.Config, name string, err error) error {
	if _, own := cfg.Beat.Entries[name]; own && errors.Is(err, engine.ErrNotFound) {
		return fmt.Errorf("entry %s: stands in %s and is changed there: %w in the bucket", name, placeOf(cfg, name), engine.ErrNotFound)
	}
	return err
}

func (a *app) schedulePause() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pause NAME...",
		Short:   "Skip what entries are due for, until they are resumed",
		Example: "  pelton schedule pause nightly\n  pelton schedule pause nightly ping",
		Args:    atLeastOneName,
	}
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) { return a.pausing(args, true), nil })
}

func (a *app) pausing(names []string, paused bool) schedulesAsk {
	return func(ctx context.Context, _ *engine.Client, store *schedules.Store, cfg *config.Config) error {
		return a.eachName(names, func(name string) error {
			stored, err := store.Pause(ctx, name, paused)
			if err != nil {
				return ofSettings(cfg, name, err)
			}
			// The ledger says from when on, also where no beat runs: what is due while
			// an entry is paused stays skipped.
			if err := store.Begin(ctx, stored); err != nil && !errors.Is(err, schedules.ErrOlder) {
				a.say("entry %s: the next beat hears of it: %v", name, err)
			}
			return nil
		})
	}
}

func (a *app) scheduleResume() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume NAME...",
		Short: "Let entries go on that were paused, or whose ledger has gone",
		Long: `Let entries go on that were paused. What was due meanwhile stays skipped.

An entry whose ledger has gone is stopped, since nobody knows what it has sent.
--anew lets it begin anew from now on.`,
		Example: `  pelton schedule resume nightly
  pelton schedule resume nightly --anew`,
		Args: atLeastOneName,
	}
	anew := cmd.Flags().Bool("anew", false, "begin anew an entry whose ledger has gone")
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		if !*anew {
			return a.pausing(args, false), nil
		}
		return func(ctx context.Context, _ *engine.Client, store *schedules.Store, cfg *config.Config) error {
			return a.eachName(args, func(name string) error {
				found, err := findEntry(ctx, store, cfg, name)
				if err == nil {
					err = found.Err
				}
				if err != nil {
					return err
				}
				return store.Anew(ctx, found.Entry)
			})
		}, nil
	})
}

func (a *app) scheduleRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run NAME",
		Short:   "Send the task of an entry once, now, and print its id",
		Long:    "Send the task of an entry once, now, and print its id. Its times stay as they\nare.",
		Example: "  pelton schedule run nightly\n  pelton schedule run nightly --timeout 30s",
		Args:    takes("NAME"),
	}
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		return func(ctx context.Context, c *engine.Client, store *schedules.Store, cfg *config.Config) error {
			found, err := findEntry(ctx, store, cfg, args[0])
			if err == nil {
				err = found.Err
			}
			if err != nil {
				return err
			}
			id, err := schedules.Send(ctx, c, found.Entry)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, id)
			return err
		}, nil
	})
}

func (a *app) scheduleHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history NAME",
		Short: "Show what became of an entry's times, the newest first",
		Long: `Show what became of an entry's times, the newest first. Times in a row with the
same outcome are one line. OUTCOME is fired, changed (the entry got other
times), or why they were skipped.`,
		Example: `  pelton schedule history nightly
  pelton schedule history nightly -o json`,
		Args: takes("NAME"),
	}
	show := outputFlags(cmd)
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		return func(ctx context.Context, c *engine.Client, store *schedules.Store, cfg *config.Config) error {
			found, err := findEntry(ctx, store, cfg, args[0])
			if err != nil {
				return err
			}
			status, err := schedules.Look(ctx, c, found.Stored, found.source, time.Now(), 0)
			if err != nil {
				return err
			}
			slices.Reverse(status.History)
			type span = schedules.Span
			return list(a.stdout, show, status.History, func(s span) string { return schedules.OccurrenceID(status.Name, s.To) }, []column[span]{
				{"FROM", false, func(s span) string { return when(s.From) }},
				{"TO", false, func(s span) string { return when(s.To) }},
				{"TIMES", true, func(s span) string { return strconv.Itoa(s.Count) }},
				{"OUTCOME", false, func(s span) string { return s.Outcome }},
			})
		}, nil
	})
}

func (a *app) scheduleImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add the entries of a beat_schedule of Celery's",
		Long: `Add the entries of a beat_schedule of Celery's, given as JSON: as json.dumps
writes it, with seconds or the fields of crontab. FILE may be - for standard
input. What cannot be taken over is told, and the others are added all the same;
the exit code is 2 then.`,
		Example: `  pelton schedule import beat.json --dry-run
  pelton schedule import beat.json --replace`,
		Args: takes("FILE"),
	}
	dry := cmd.Flags().Bool("dry-run", false, "print the entries as the bucket would hold them, and add none")
	replace := cmd.Flags().Bool("replace", false, "replace entries of the same names")
	return a.scheduleCommand(cmd, func(args []string) (schedulesAsk, error) {
		content, err := a.file(args[0])
		if err != nil {
			return nil, err
		}
		entries, wrong := schedules.ImportCelery(content)
		return func(ctx context.Context, _ *engine.Client, store *schedules.Store, cfg *config.Config) error {
			var failed error
			for _, e := range entries {
				if *dry {
					failed = errors.Join(failed, writeJSON(a.stdout, map[string]json.RawMessage{e.Name: valueOf(e)}, ""))
				} else {
					failed = errors.Join(failed, a.putEntry(ctx, store, cfg, e, !*replace))
				}
			}
			if len(wrong) > 0 {
				return &usageError{err: errors.Join(append([]error{failed}, wrong...)...)}
			}
			return failed
		}, nil
	})
}

func valueOf(e schedules.Entry) json.RawMessage {
	value, err := json.Marshal(e)
	if err != nil {
		return json.RawMessage("null")
	}
	return value
}
