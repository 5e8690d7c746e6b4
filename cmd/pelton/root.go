package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pelton/internal/config"
	"pelton/internal/health"
)

// app is what a command has of the world around it.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            []string
	dir            string       // the working folder; "" where no file is to be read
	started        bool         // the command line was understood
	board          health.Board // what the parts of a role say of themselves
	files          files
	warned         bool // of what the settings warn of

	hangups      func() (<-chan os.Signal, func()) // SIGHUP; nil does not listen
	again        func() (*config.Config, error)    // loads the settings of the command anew
	certificates certificates                      // of its connections
}

// files is which settings are read.
type files struct {
	config string // in place of pelton.yaml
	env    string // of .env.<env>
}

// Groups of commands in the help of the root.
const (
	groupRoles   = "roles"
	groupClients = "clients"
	groupSetup   = "setup"
)

// commands are all of them; a new one has its line here.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.dev(),
		a.worker(),
		a.beat(),
		a.edge(),
		a.produce(),
		a.send(),
		a.task(),
		a.queue(),
		a.dead(),
		a.schedule(),
		a.setup(),
		a.doctor(),
		a.health(),
		a.config(),
		a.bench(),
		a.benchBroker(),
		a.version(),
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pelton",
		Short: "A task engine on NATS JetStream with Kafka edges",
		Long: `Pelton runs tasks from NATS JetStream and ties them to Kafka topics.

A task is a subject and a JSON body; any NATS client can send one.`,
		Example: `  pelton setup apply
  pelton worker --queues default:8
  pelton send print '{"message":"hi"}'`,
		Annotations:   map[string]string{natsEquivalent: `  nats pub -J pelton.task.default.print '{"message":"hi"}'`},
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
	}
	makeGroup(root, a.commands()...)
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.AddGroup(
		&cobra.Group{ID: groupRoles, Title: "Roles"},
		&cobra.Group{ID: groupClients, Title: "Clients"},
		&cobra.Group{ID: groupSetup, Title: "Setup"},
	)
	root.PersistentFlags().StringVar(&a.files.config, "config", "", "`FILE` of settings in place of pelton.yaml; also PELTON_CONFIG")
	root.PersistentFlags().StringVar(&a.files.env, "env", "", "`NAME` of the environment, whose .env.<NAME> is read after .env; also PELTON_ENV")
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { writeHelp(a.stdout, cmd) })
	root.SetHelpCommand(a.help())
	return root
}

// help shows the help of a command, and takes a mistyped one for a mistake.
func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("%s has no command %q", found.CommandPath(), rest[0])
			}
			if err != nil {
				return &usageError{err: err, help: cmd.Root().CommandPath() + " --help"}
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// makeGroup makes a command one that only holds others.
func makeGroup(group *cobra.Command, commands ...*cobra.Command) {
	group.AddCommand(commands...)
	group.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	group.RunE = func(cmd *cobra.Command, _ []string) error {
		return &usageError{err: errors.New("say which: " + strings.Join(namesOf(cmd), ", ")), help: cmd.CommandPath() + " --help"}
	}
}

func namesOf(group *cobra.Command) []string {
	var names []string
	for _, c := range group.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

func unknownCommand(group *cobra.Command, name string) error {
	words := namesOf(group)
	for _, c := range group.Commands() {
		words = append(words, c.Aliases...)
	}
	text := fmt.Sprintf("unknown command %q", group.CommandPath()+" "+name)
	if nearest, ok := config.Nearest(name, words); ok {
		text += ", did you mean " + nearest + "?"
	}
	return errors.New(text)
}

// flagError names the flag that was meant.
func flagError(cmd *cobra.Command, err error) error {
	// An unknown command's flags are unknown because it is.
	if args := cmd.Flags().Args(); cmd.HasAvailableSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) {
		return err
	}
	var words []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { words = append(words, f.Name) })
	if nearest, ok := config.Nearest(missing.GetSpecifiedName(), words); ok && len(missing.GetSpecifiedName()) > 1 {
		return fmt.Errorf("%w, did you mean --%s?", err, nearest)
	}
	return err
}

// takes is the arguments of a command by their names, all required.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return errors.New(strings.Join(names[len(args):], " and ") + " must be given")
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// say tells whoever called something beside the data, in one line.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintln(a.stderr, "pelton: "+oneLine(fmt.Sprintf(format, args...)))
}

// oneLine is a text as a terminal may have it: what somebody has named may hold
// what would command one.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ReplaceAll(text, "\n", "; "))
}

// options say from where a command's settings are loaded, for a part.
func (a *app) options(cmd *cobra.Command, part config.Part, names ...string) config.Options {
	return config.Options{
		Environ: a.env, Dir: a.dir, File: a.files.config, Env: a.files.env,
		Flags: cmd.Flags(), Part: part, Names: names,
	}
}

// settings loads the settings of a command for a part, and says once what asks
// for somebody's attention.
func (a *app) settings(cmd *cobra.Command, part config.Part, names ...string) (*config.Config, error) {
	a.again = func() (*config.Config, error) { return config.Load(a.options(cmd, part, names...)) }
	return a.load(a.options(cmd, part, names...))
}

func (a *app) load(opts config.Options) (*config.Config, error) {
	cfg, err := config.Load(opts)
	if err == nil && !a.warned {
		a.warned = true
		a.warn(cfg.Warnings)
	}
	return cfg, err
}

func (a *app) warn(warnings []string) {
	for _, w := range warnings {
		a.say("warning: %s", w)
	}
}

// noColor follows no-color.org: the variable counts if it is not empty.
func (a *app) noColor() bool {
	return slices.ContainsFunc(a.env, func(v string) bool {
		value, ok := strings.CutPrefix(v, "NO_COLOR=")
		return ok && value != ""
	})
}
