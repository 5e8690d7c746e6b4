package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pelton/internal/config"
	"pelton/internal/logging"
)

// loggers is the logger of a component.
type loggers = func(component string) *slog.Logger

// quiet logs nothing.
func quiet(string) *slog.Logger { return slog.New(slog.DiscardHandler) }

// foundLogging is the file that a role takes from its working folder.
const foundLogging = "logging_config.json"

// logs opens the logs of a client, to standard error unless the settings import
// a file. Whoever opens them closes them.
func (a *app) logs(cfg *config.Config) (*logging.Logs, error) { return a.openLogs(cfg, cfg.Log.Import) }

// roleLogs opens those of a role, which looks for a file beside it, too.
func (a *app) roleLogs(cfg *config.Config) (*logging.Logs, error) {
	return a.openLogs(cfg, a.roleLogging(cfg))
}

// roleLogging is the file that a role imports: the one that is named, or else
// the one in its working folder.
func (a *app) roleLogging(cfg *config.Config) string {
	if cfg.Log.Import != "" || a.dir == "" {
		return cfg.Log.Import
	}
	if _, err := os.Stat(filepath.Join(a.dir, foundLogging)); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return foundLogging
}

// checkLogs finds what would keep a role from opening its logs, but for what
// only opening them tells.
func (a *app) checkLogs(cfg *config.Config) (errs []error) {
	if _, _, err := logLevels(cfg); err != nil {
		errs = append(errs, err)
	}
	if _, err := a.python(a.roleLogging(cfg)); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (a *app) openLogs(cfg *config.Config, file string) (*logging.Logs, error) {
	root, levels, err := logLevels(cfg)
	if err != nil {
		return nil, err
	}
	opts := logging.Options{
		Level: root, Levels: levels, LevelGiven: cfg.IsSet("log.level"),
		Format: logging.Format(cfg.Log.Format), FormatGiven: cfg.IsSet("log.format"),
		NoColor: a.noColor(), Folder: a.dir, Stdout: a.stdout,
	}
	if opts.Python, err = a.python(file); err != nil {
		return nil, err
	}
	logs, err := logging.Open(a.stderr, opts)
	if err != nil {
		return nil, &usageError{err: err}
	}
	return logs, nil
}

// python reads a file to import; "" is none.
func (a *app) python(file string) (*logging.Python, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // the logs take nil for no file
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(a.dir, file)
	}
	p, err := logging.ReadPython(file)
	if err != nil {
		return nil, &usageError{err: err}
	}
	return p, nil
}

// logLevels reads the levels of the settings, for the start and for a reload.
func logLevels(cfg *config.Config) (root slog.Level, levels map[string]slog.Level, err error) {
	if root, err = logging.ParseLevel(cfg.Log.Level); err != nil {
		return 0, nil, &usageError{err: err}
	}
	levels = map[string]slog.Level{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Log.Levels)) {
		key := "log.levels." + name
		if !slices.Contains(logging.Components(), name) {
			rule := "is unknown, must be of " + strings.Join(logging.Components(), ", ")
			if nearest, ok := config.Nearest(name, logging.Components()); ok {
				rule = "is unknown, did you mean log.levels." + nearest + "?"
			}
			return 0, nil, &config.Error{Source: cfg.Source(key), Key: key, Rule: rule}
		}
		if levels[name], err = logging.ParseLevel(cfg.Log.Levels[name]); err != nil {
			return 0, nil, &usageError{err: err}
		}
	}
	return root, levels, nil
}
