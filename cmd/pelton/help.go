package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// natsEquivalent is the annotation of a command with what does the same by hand.
const natsEquivalent = "nats"

// writeHelp is the help of a command: what it does, how it is called, and last,
// where it stays on the screen, what to type.
func writeHelp(w io.Writer, cmd *cobra.Command) {
	var b strings.Builder
	about := cmd.Long
	if about == "" {
		about = cmd.Short + "."
	}
	fmt.Fprintf(&b, "%s\n\nUsage\n", about)
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "  %s\n", use)
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(&b, "  also: %s\n", strings.Join(cmd.Aliases, ", "))
	}
	writeCommands(&b, cmd)
	if flags := cmd.LocalFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(&b, "\nFlags\n%s", flags)
	}
	if flags := cmd.InheritedFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(&b, "\nFlags of every command\n%s", flags)
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples\n%s\n", cmd.Example)
	}
	if by := cmd.Annotations[natsEquivalent]; by != "" {
		fmt.Fprintf(&b, "\nThe same with nats\n%s\n", by)
	}
	_, _ = io.WriteString(w, b.String())
}

// writeCommands lists those of a command, by group where there are groups.
func writeCommands(b *strings.Builder, cmd *cobra.Command) {
	width := 0
	for _, c := range cmd.Commands() {
		width = max(width, len(c.Name()))
	}
	groups := cmd.Groups()
	for _, g := range append(groups, &cobra.Group{Title: map[bool]string{true: "Commands", false: "Others"}[len(groups) == 0]}) {
		heading := "\n" + g.Title + "\n"
		for _, c := range cmd.Commands() {
			if c.GroupID == g.ID && (c.IsAvailableCommand() || c.Name() == "help") {
				fmt.Fprintf(b, "%s  %-*s  %s\n", heading, width, c.Name(), c.Short)
				heading = ""
			}
		}
	}
}
