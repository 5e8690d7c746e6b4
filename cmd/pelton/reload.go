package main

import (
	"context"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"

	"pelton/internal/config"
	"pelton/internal/connect"
	"pelton/internal/health"
	"pelton/internal/logging"
	"pelton/internal/secret"
)

// hangups is how a process hears SIGHUP, and how it ends to hear it. Only what
// reloads listens; whatever else runs ends with its terminal, as is usual.
func hangups() (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// certificates are those of all connections of a process.
type certificates struct {
	mu  sync.Mutex
	all []*connect.Certificates
}

// add takes those of one more connection; nil are none.
func (c *certificates) add(more *connect.Certificates) {
	if more == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, more)
}

func (c *certificates) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, certs := range c.all {
		if err := certs.Reload(); err != nil {
			return err
		}
	}
	return nil
}

// reloading reads settings and certificates again at each SIGHUP until the
// function that it returns is called.
func (a *app) reloading(ctx context.Context, cfg *config.Config, logs *logging.Logs) (end func()) {
	if a.hangups == nil {
		return func() {}
	}
	signals, stop := a.hangups()
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		current := cfg
		for {
			select {
			case <-signals:
				current = a.reload(current, logs)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		stop()
		cancel()
		running.Wait()
	}
}

// reload takes over what can change while a role runs: levels of the log, and
// certificates. It returns the settings in force. Those and the certificates
// stay as they are, each for itself, where what is new is broken.
func (a *app) reload(current *config.Config, logs *logging.Logs) *config.Config {
	log := logs.Logger("config")
	defer health.FindSystemd(a.env).Reloading()()
	next, err := a.again()
	if err == nil {
		err = a.relevel(next, logs)
	}
	if err != nil {
		log.Error("settings are not reloaded, the old ones stay", "err", err)
	}
	certErr := a.certificates.reload()
	if certErr != nil {
		log.Error("certificates are not reloaded, the old ones stay", "err", certErr)
	}
	if err != nil {
		return current
	}
	if certErr == nil {
		log.Info("reloaded: log levels and certificates")
	}
	if changed := changedKeys(current.Settings, next.Settings); len(changed) > 0 {
		log.Info("needs a restart", "keys", strings.Join(changed, ", "))
	}
	// What needs a restart is named again by the next reload: it still does.
	in := *current
	in.Log.Level, in.Log.Levels = next.Log.Level, next.Log.Levels
	return &in
}

// relevel takes over the levels of the settings and of the imported file, and
// opens the files of the log anew: whoever rotates them tells it by the same
// signal.
func (a *app) relevel(cfg *config.Config, logs *logging.Logs) error {
	root, levels, err := logLevels(cfg)
	if err != nil {
		return err
	}
	python, err := a.python(a.roleLogging(cfg))
	if err != nil {
		return err
	}
	logs.SetPython(python)
	logs.SetLevels(root, levels)
	return logs.Reopen()
}

// changedKeys are the keys that differ and do not take effect in a process that
// runs, in order.
func changedKeys(before, after config.Settings) []string {
	keys := differing("", reflect.ValueOf(before), reflect.ValueOf(after))
	keys = slices.DeleteFunc(keys, func(key string) bool {
		return key == "log.level" || strings.HasPrefix(key, "log.levels.")
	})
	slices.Sort(keys)
	return keys
}

// differing walks two settings of one type, key by key.
func differing(key string, a, b reflect.Value) (keys []string) {
	dot := func(name string) string { return strings.TrimPrefix(key+"."+name, ".") }
	switch {
	case a.Type() == reflect.TypeFor[secret.Text]() || a.Kind() != reflect.Struct && a.Kind() != reflect.Map:
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			return []string{key}
		}
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			keys = append(keys, differing(dot(a.Type().Field(i).Tag.Get("koanf")), a.Field(i), b.Field(i))...)
		}
	default:
		names := map[string]bool{}
		for _, name := range append(a.MapKeys(), b.MapKeys()...) {
			names[name.String()] = true
		}
		for name := range names {
			was, is := a.MapIndex(reflect.ValueOf(name)), b.MapIndex(reflect.ValueOf(name))
			if !was.IsValid() || !is.IsValid() {
				keys = append(keys, dot(name))
				continue
			}
			keys = append(keys, differing(dot(name), was, is)...)
		}
	}
	return keys
}
