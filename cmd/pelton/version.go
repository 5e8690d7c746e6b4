package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=v1.2.3.
var version string

// build is which program this is.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func (a *app) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show which version this is",
		Example: `  pelton version
  pelton version -o json`,
		Args: takes(),
	}
	show := outputFlags(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		return list(a.stdout, show, []build{thisBuild()}, func(b build) string { return b.Version }, []column[build]{
			{"VERSION", false, func(b build) string { return b.Version }},
			{"COMMIT", false, func(b build) string { return b.Commit }},
			{"GO", false, func(b build) string { return b.Go }},
		})
	}
	return cmd
}

func thisBuild() build {
	b := build{Version: version, Commit: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	modified := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changes"
		}
	}
	b.Commit += modified
	return b
}
