package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The files that are looked for in the working folder.
const (
	yamlFile   = "pelton.yaml"
	dotenvFile = ".env"
)

// mostSettings is how much a file of settings may hold.
const mostSettings = 1 << 20

// envNameRule is what may stand behind ".env.": one element of a path.
var envNameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func readMost(r io.Reader, most int64) ([]byte, error) { return io.ReadAll(io.LimitReader(r, most+1)) }

// whyUnreadable tells without the path, which stands beside it.
func whyUnreadable(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "must name a file, there is none"
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	return "must name a file that can be read: " + err.Error()
}

// isFile reports whether there is something to read under a name. A folder is
// not: .env is also a usual name for one of Python's.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// settingsFile reads a file of settings, which somebody has named or which is
// looked for under its name.
func (l *loader) settingsFile(source, name, path string) ([]byte, bool) {
	content, _, broken := readFile(path, mostSettings)
	if broken != "" {
		l.fail(&Error{Source: source, Rule: broken, Value: name})
		return nil, false
	}
	return content, true
}

// dotenvs reads .env and .env.<environment>, as far as there are any.
func (l *loader) dotenvs() []layer {
	outside := environ(l.opts.Environ)
	base := layer{rank: rankDotenv, dir: l.dir()}
	hasBase := l.opts.Dir != "" && isFile(filepath.Join(l.opts.Dir, dotenvFile))
	known := valuesOf(outside)
	if hasBase {
		base.variables = l.dotenv(dotenvFile, known)
	}
	env, source := l.opts.Env, "--env"
	if env == "" {
		for _, variables := range [][]variable{base.variables, outside} {
			if v, ok := valueOf(variables, envVariable); ok {
				env, source = v.text, v.source
			}
		}
	}
	if env == "" {
		return []layer{base}
	}
	if !envNameRule.MatchString(env) {
		l.fail(&Error{Source: source, Rule: "must match " + strings.Trim(envNameRule.String(), "^$"), Value: env})
		return []layer{base}
	}
	named := layer{rank: rankDotenvOfEnv, dir: l.dir()}
	name := dotenvFile + "." + env
	switch {
	case l.opts.Dir != "" && isFile(filepath.Join(l.opts.Dir, name)):
		for _, v := range base.variables {
			if _, given := known[v.name]; !given {
				known[v.name] = v.text
			}
		}
		named.variables = l.dotenv(name, known)
	case l.opts.Env != "":
		l.fail(&Error{Source: source, Rule: "must name an environment that has a file " + name + " in the working folder, there is none", Value: env})
	case hasBase:
		l.warn(source + ": there is no file " + name + ", what is only for " + env + " is not set")
	}
	return []layer{base, named}
}

func valuesOf(variables []variable) map[string]string {
	out := make(map[string]string, len(variables))
	for _, v := range variables {
		out[v.name] = v.text
	}
	return out
}

func (l *loader) dotenv(name string, known map[string]string) []variable {
	content, ok := l.settingsFile("settings", name, filepath.Join(l.opts.Dir, name))
	if !ok {
		return nil
	}
	variables, warnings, err := parseDotenv(name, content, known)
	if err != nil {
		l.fail(err)
	}
	for _, w := range warnings {
		l.warn(w)
	}
	return variables
}

// yaml reads the file that was named, or the one of the working folder if it is
// there.
func (l *loader) yaml(dotenvs []layer) *place {
	p := l.newPlace(rankYAML, l.dir())
	name, source := l.opts.File, "--config"
	if name == "" {
		source = "settings"
		for _, variables := range [][]variable{dotenvs[0].variables, environ(l.opts.Environ)} {
			if v, ok := valueOf(variables, configVariable); ok {
				name, source = v.text, v.source
			}
		}
	}
	path := name
	switch {
	case name == "" && l.opts.Dir == "":
		return p
	case name == "":
		name, path = yamlFile, filepath.Join(l.opts.Dir, yamlFile)
		if !isFile(path) {
			return p
		}
	case !filepath.IsAbs(name):
		path = filepath.Join(l.opts.Dir, name)
	}
	if dir := filepath.Dir(path); dir != "." {
		p.dir = dir
	}
	if content, ok := l.settingsFile(source, name, path); ok {
		p.readYAML(name, content)
	}
	return p
}
