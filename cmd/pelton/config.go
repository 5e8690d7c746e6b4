package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pelton/internal/config"
	"pelton/internal/connect"
)

func (a *app) config() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		GroupID: groupSetup,
		Short:   "Show and check the settings, and where each comes from",
		Example: `  pelton config show --sources
  pelton config check
  pelton config example >pelton.yaml`,
	}
	makeGroup(cmd, a.configShow(), a.configCheck(), a.configExample())
	return cmd
}

// parts are those for which settings differ, by the words of --for.
var parts = map[string]config.Part{
	"produce": config.PartProduce,
	"ingest":  config.PartIngest,
	"emit":    config.PartEmit,
	"queues":  config.PartQueues,
}

// partFlag is the value of --for.
type partFlag struct{ word string }

func (p *partFlag) String() string { return p.word }
func (*partFlag) Type() string     { return "part" }
func (p *partFlag) Set(s string) error {
	if _, ok := parts[s]; !ok {
		return errors.New("must be " + strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
	}
	p.word = s
	return nil
}

func addPartFlag(cmd *cobra.Command) *partFlag {
	part := new(partFlag)
	cmd.Flags().Var(part, "for", "`PART` that would be started: produce, ingest, emit or queues")
	return part
}

func (a *app) configShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every setting that holds here",
		Long: `Show every setting that holds in this folder and environment. Secrets are shown
as ***. What has no value is left to the part that uses it, or not used.

COMMANDS_TOPIC means something else for each part: --for shows what a part would
be started with.`,
		Example: `  pelton config show --sources
  pelton config show --for ingest -o json
  pelton config show --env prod`,
		Args: takes(),
	}
	part := addPartFlag(cmd)
	sources := cmd.Flags().Bool("sources", false, "show where each value comes from")
	show := outputFlags(cmd)
	cmd.Flags().Lookup("quiet").Usage = "keys only"
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.settings(cmd, parts[part.word])
		if err != nil {
			return err
		}
		columns := []column[config.Value]{
			{"KEY", false, func(v config.Value) string { return v.Key }},
			{"VALUE", false, func(v config.Value) string { return orDash(v.Value) }},
		}
		if *sources {
			columns = append(columns, column[config.Value]{"SOURCE", false, func(v config.Value) string { return v.Source }})
		}
		return list(a.stdout, show, cfg.Values(), func(v config.Value) string { return v.Key }, columns)
	}
	return cmd
}

func (a *app) configCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the settings, and tell every mistake",
		Long: `Check the settings of this folder and environment, and tell every mistake, where
it stands and what would be right. Nothing is connected to.

Exit code 2 means that a command would not start with them.`,
		Example: `  pelton config check
  pelton config check --for ingest --env prod
  pelton config check --config /etc/pelton/pelton.yaml`,
		Args: takes(),
	}
	part := addPartFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts := a.options(cmd, parts[part.word])
		warnings, errs := config.Check(opts)
		a.warn(warnings)
		if len(errs) == 0 {
			cfg, err := config.Load(opts)
			if err != nil {
				return err // the files have changed meanwhile
			}
			errs = append(a.checkLogs(cfg), a.checkConnections(cfg)...)
		}
		if len(errs) == 0 {
			_, err := fmt.Fprintln(a.stdout, "the settings are right")
			return err
		}
		for _, err := range errs[:len(errs)-1] {
			a.say("%v", err)
		}
		return errs[len(errs)-1]
	}
	return cmd
}

// checkConnections reads the files that connections need, and opens none.
func (a *app) checkConnections(cfg *config.Config) (errs []error) {
	if _, err := connect.FromSettings(cfg, a.env, connect.Client); err != nil {
		errs = append(errs, err)
	}
	if _, _, err := connect.Kafka(cfg, quiet("kafka")); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (a *app) configExample() *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a pelton.yaml with every setting and its default",
		Long: `Print a pelton.yaml with every setting, what it means and its default. All of it
is commented out, so it changes nothing as it stands.`,
		Example: `  pelton config example >pelton.yaml
  pelton config example | less`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.stdout, config.Example())
			return err
		},
	}
}
