package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"
	"time"

	"go.yaml.in/yaml/v3"
)

// deployments is what the files say about running pelton.
type deployments struct {
	files     fstest.MapFS
	processes []process
	variables []variable
	users     []string // of NATS
	ports     []port
	wrong     []string // what does not fit already by itself
}

// process is one command line, with the variables that are set for it.
type process struct {
	where  string
	named  bool // between words, where arguments are left out
	args   []string
	env    map[string]string
	probed string        // by whom: a port, or probedWithin; empty for nobody
	grace  time.Duration // before it is killed; 0 where nobody says
}

// probedWithin is a process that is probed by another beside it.
const probedWithin = "within"

// variable is the name of one in a text.
type variable struct{ where, text string }

// port is one that is named, and whether something listens there.
type port struct {
	where, port string
	listens     bool
}

func readDeployments(files fstest.MapFS) *deployments {
	d := &deployments{files: files}
	d.nats()
	d.readUsers()
	d.compose()
	d.dockerfile()
	d.systemd()
	d.kubernetes()
	d.taskfile()
	for _, name := range d.under("docs", ".md") {
		d.markdown(name)
	}
	d.markdown("README.md")
	for line := range strings.Lines(d.text(".ci/run")) {
		if _, command, ok := strings.Cut(line, "bin/pelton "); ok && !strings.HasPrefix(command, ":") && strings.HasPrefix(line, "step ") {
			d.process(".ci/run", strings.Fields(command), nil)
		}
	}
	return d
}

func (d *deployments) fail(where, format string, args ...any) {
	d.wrong = append(d.wrong, where+": "+fmt.Sprintf(format, args...))
}

func (d *deployments) process(where string, args []string, env map[string]string) *process {
	d.processes = append(d.processes, process{where: where, args: args, env: env})
	return &d.processes[len(d.processes)-1]
}

func (d *deployments) text(name string) string {
	file := d.files[name]
	if file == nil {
		d.fail(name, "is missing")
		return ""
	}
	return string(file.Data)
}

// under is the files of a folder, and of those below it, with an extension.
func (d *deployments) under(dir, ext string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if strings.HasPrefix(name, dir+"/") && path.Ext(name) == ext {
			out = append(out, name)
		}
	}
	return out
}

const permissionsFile = "deployments/nats/permissions.conf"

var userName = regexp.MustCompile(`(?m)^\s*user: (\w+)$`)

var listenPort = regexp.MustCompile(`(?m)^(listen|http): "([0-9.]+):(\d+)"`)

func (d *deployments) nats() {
	const where = "deployments/nats/nats-server.conf"
	for _, m := range listenPort.FindAllStringSubmatch(d.text(where), -1) {
		d.ports = append(d.ports, port{where, m[3], true})
		if m[1] == "http" && m[2] != "127.0.0.1" {
			d.fail(where, "http must be on the loopback, got %s", m[2])
		}
	}
}

// readUsers reads those of NATS.
func (d *deployments) readUsers() {
	for _, m := range userName.FindAllStringSubmatch(d.text(permissionsFile), -1) {
		d.users = append(d.users, m[1])
	}
}

// composeFile is what is read of compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Command     []string
		Environment map[string]string
		Ports       []string
		User        string
		Grace       string `yaml:"stop_grace_period"`
		Healthcheck struct {
			Test    []string
			Disable bool
		}
	}
}

func (d *deployments) compose() {
	const where = "deployments/compose.yaml"
	var file composeFile
	if err := yaml.Unmarshal([]byte(d.text(where)), &file); err != nil {
		d.fail(where, "%v", err)
	}
	listeners := d.listeners(where, file.Services["kafka"].Environment)
	example := d.envFile("deployments/.env.example")
	for _, name := range slices.Sorted(maps.Keys(file.Services)) {
		s, at := file.Services[name], where+": "+name
		for _, p := range s.Ports {
			host, inside, ok := strings.Cut(strings.TrimPrefix(p, "127.0.0.1:"), ":")
			if !ok || !strings.HasPrefix(p, "127.0.0.1:") || host != inside {
				d.fail(at, "ports must be published on the loopback, the same as inside, got %s", p)
			}
			d.ports = append(d.ports, port{at, inside, false})
		}
		d.portsIn(at, strings.Join(s.Healthcheck.Test, " "))
		if !strings.HasPrefix(interpolate(s.Image), "pelton") {
			continue
		}
		env := maps.Clone(example)
		for variable, value := range s.Environment {
			env[variable] = interpolate(value)
		}
		d.brokers(at, env, listeners)
		p := d.process(at, s.Command, env)
		p.grace, _ = time.ParseDuration(s.Grace)
		if s.Healthcheck.Disable {
			continue
		}
		p.probed = probedWithin
		if len(s.Healthcheck.Test) < 3 || s.Healthcheck.Test[1] != "/pelton" {
			d.fail(at, "the health check must run /pelton, got %q", s.Healthcheck.Test)
			continue
		}
		d.process(at+": health check", s.Healthcheck.Test[2:], env)
	}
}

// listeners is where Kafka says that it listens, by name and port.
func (d *deployments) listeners(where string, env map[string]string) (advertised []string) {
	for part := range strings.SplitSeq(env["KAFKA_LISTENERS"], ",") {
		d.ports = append(d.ports, port{where, part[strings.LastIndexByte(part, ':')+1:], true})
	}
	for part := range strings.SplitSeq(env["KAFKA_ADVERTISED_LISTENERS"], ",") {
		_, address, _ := strings.Cut(part, "://")
		advertised = append(advertised, address)
		d.portsIn(where, address)
	}
	return advertised
}

// brokers checks where a service looks for its brokers.
func (d *deployments) brokers(where string, env map[string]string, listeners []string) {
	if u, err := url.Parse(env["NATS_URL"]); err != nil || u.Hostname() != "nats" {
		d.fail(where, "NATS_URL must be that of nats, got %s", env["NATS_URL"])
	} else {
		d.ports = append(d.ports, port{where, u.Port(), false})
	}
	if got := env["KAFKA_BOOTSTRAP_SERVERS"]; !slices.Contains(listeners, got) {
		d.fail(where, "KAFKA_BOOTSTRAP_SERVERS must be one of %q, got %q", listeners, got)
	}
}

var interpolation = regexp.MustCompile(`\$\{[A-Z_]+(:[-?])([^}]*)\}`)

// interpolate puts defaults, or a placeholder, in the place of what compose
// would ask the environment for.
func interpolate(s string) string {
	return interpolation.ReplaceAllStringFunc(s, func(whole string) string {
		if m := interpolation.FindStringSubmatch(whole); m[1] == ":-" {
			return m[2]
		}
		return "placeholder"
	})
}

// envFile is the variables of a file, those that are commented out, too.
func (d *deployments) envFile(name string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(d.text(name)) {
		variable, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "#")), "=")
		if !ok || strings.ContainsAny(variable, " :") {
			continue
		}
		env[variable] = value
		if strings.HasSuffix(variable, "_PASSWORD") {
			env[variable] = "placeholder" // of a user; a role must not see it
		}
	}
	return env
}

func (d *deployments) dockerfile() {
	const where = "deployments/Dockerfile"
	var stages []string
	copied := map[string]bool{}
	for line := range strings.Lines(d.text(where)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch rest := words[1:]; words[0] {
		case "FROM":
			if rest[0] != "scratch" && !strings.Contains(rest[0], ":") {
				d.fail(where, "FROM must name a version, got %s", rest[0])
			}
			stages = append(stages, rest[len(rest)-1])
		case "COPY":
			if from, ok := strings.CutPrefix(rest[0], "--from="); ok && slices.Contains(stages, from) {
				copied[rest[len(rest)-1]] = true
				continue
			}
			d.sources(where, rest[:len(rest)-1])
		case "USER":
			if uid, err := strconv.Atoi(strings.Split(rest[0], ":")[0]); err != nil || uid == 0 {
				d.fail(where, "USER must be a number and not 0, got %s", rest[0])
			}
		case "ENTRYPOINT":
			var argv []string
			if err := json.Unmarshal([]byte(strings.Join(rest, " ")), &argv); err != nil || len(argv) != 1 || !copied[argv[0]] {
				d.fail(where, "ENTRYPOINT must be a file that is copied, got %s", rest)
			}
		}
	}
	if !slices.Contains(stages, "scratch") || !strings.Contains(d.text(where), "\nUSER ") {
		d.fail(where, "the last stage must be scratch and have a USER")
	}
}

// sources are what COPY takes from the builder's folder.
func (d *deployments) sources(where string, names []string) {
	ignore := d.text("deployments/Dockerfile.dockerignore")
	for _, name := range names {
		if _, err := fs.Stat(d.files, name); err != nil {
			d.fail(where, "COPY %s: there is no such file", name)
		}
		if !strings.Contains(ignore, "\n!"+name+"\n") {
			d.fail(where, "COPY %s: the builder does not get it", name)
		}
	}
}

// assignment is one line of a systemd file.
type assignment struct{ key, value string }

func assignments(text string) (out []assignment) {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			out = append(out, assignment{key, value})
		}
	}
	return out
}

func (d *deployments) systemd() {
	const shared = "deployments/systemd/pelton-.service.d/10-pelton.conf"
	taken := map[string]string{}
	for _, where := range d.under("deployments/systemd", ".service") {
		role := strings.TrimPrefix(strings.TrimSuffix(path.Base(where), ".service"), "pelton-")
		settings, env, args := map[string]string{}, map[string]string{}, []string(nil)
		for _, a := range append(assignments(d.text(where)), assignments(d.text(shared))...) {
			value := strings.NewReplacer("%j", role, "%d", "/run/credentials/pelton-"+role+".service").Replace(a.value)
			switch settings[a.key] = value; a.key {
			case "Environment":
				name, text, _ := strings.Cut(value, "=")
				env[name] = text
			case "ExecStart":
				words := strings.Fields(value)
				args = words[1:]
				if words[0] != "/usr/local/bin/pelton" {
					d.fail(where, "ExecStart must be /usr/local/bin/pelton, got %s", words[0])
				}
			}
		}
		p := d.process(where, args, env)
		if settings["RestartPreventExitStatus"] != fmt.Sprint(exitUsage, " ", exitStopped) {
			d.fail(where, "RestartPreventExitStatus must be %d and %d, got %s", exitUsage, exitStopped, settings["RestartPreventExitStatus"])
		}
		if settings["Type"] != "notify" {
			continue
		}
		p.probed = probedWithin
		p.grace, _ = time.ParseDuration(settings["TimeoutStopSec"])
		address := env["PELTON_TELEMETRY__ADDR"]
		if other := taken[address]; other != "" {
			d.fail(where, "%s is that of %s", address, other)
		}
		taken[address] = where
		d.ports = append(d.ports, port{where, address[strings.LastIndexByte(address, ':')+1:], true})
	}
}

// manifest is what is read of a Kubernetes manifest.
type manifest struct {
	Kind string
	Data map[string]string
	Spec struct{ Template struct{ Spec podSpec } }
}

type podSpec struct {
	Grace      int `yaml:"terminationGracePeriodSeconds"`
	Containers []struct {
		Args  []string
		Env   []struct{ Name, Value string }
		Ports []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		LivenessProbe  *probe `yaml:"livenessProbe"`
		ReadinessProbe *probe `yaml:"readinessProbe"`
	}
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func (d *deployments) kubernetes() {
	settings := map[string]string{}
	var pods []manifest
	var names []string
	for _, where := range d.under("deployments/kubernetes", ".yaml") {
		for decoder := yaml.NewDecoder(bytes.NewReader(d.files[where].Data)); ; {
			var m manifest
			if err := decoder.Decode(&m); err != nil {
				break
			}
			switch m.Kind {
			case "ConfigMap":
				d.flatten(where, m.Data["pelton.yaml"], settings)
			case "Deployment", "Job":
				pods, names = append(pods, m), append(names, where)
			}
		}
	}
	for i, m := range pods {
		d.pod(names[i], m.Kind, m.Spec.Template.Spec, settings)
	}
}

func (d *deployments) pod(where, kind string, spec podSpec, settings map[string]string) {
	for _, c := range spec.Containers {
		env, ports := maps.Clone(settings), map[string]string{}
		for _, v := range c.Env {
			env[v.Name] = v.Value
		}
		p := d.process(where, c.Args, env)
		p.grace = time.Duration(spec.Grace) * time.Second
		if kind == "Job" {
			continue
		}
		for _, cp := range c.Ports {
			ports[cp.Name] = strconv.Itoa(cp.ContainerPort)
		}
		for want, got := range map[string]*probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
			if got == nil || got.HTTPGet.Path != want || ports[got.HTTPGet.Port] == "" {
				d.fail(where, "a probe must ask for %s on a port of the container, got %+v", want, got)
				continue
			}
			p.probed = ports[got.HTTPGet.Port]
		}
	}
}

// flatten turns pelton.yaml into the variables that say the same.
func (d *deployments) flatten(where, text string, env map[string]string) {
	var tree map[string]any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		d.fail(where, "%v", err)
	}
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				walk(name+"__"+strings.ToUpper(strings.ReplaceAll(key, "-", "_")), inner)
			}
		case []any:
			var items []string
			for _, item := range v {
				items = append(items, fmt.Sprint(item))
			}
			env[name] = strings.Join(items, ",")
		default:
			env[name] = fmt.Sprint(v)
		}
	}
	for key, v := range tree {
		walk("PELTON_"+strings.ToUpper(key), v)
	}
}

var cliArgs = regexp.MustCompile(`\{\{\.CLI_ARGS(?: \| default "([^"]*)")?\}\}`)

func (d *deployments) taskfile() {
	const where = "Taskfile.yml"
	var file struct {
		Dotenv []string
		Tasks  map[string]struct {
			Cmds   []any
			Dotenv []string
		}
	}
	if err := yaml.Unmarshal([]byte(d.text(where)), &file); err != nil {
		d.fail(where, "%v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Tasks)) {
		if len(file.Dotenv)+len(file.Tasks[name].Dotenv) > 0 {
			d.fail(where+": "+name, "dotenv lifts .env over .env.<environment>, pelton reads it itself")
		}
		for _, cmd := range file.Tasks[name].Cmds {
			text, _ := cmd.(string)
			if command, ok := strings.CutPrefix(text, "go run ./cmd/pelton "); ok {
				d.process(where+": "+name, strings.Fields(cliArgs.ReplaceAllString(command, "$1")), nil)
			}
		}
	}
}

var (
	inlineCode  = regexp.MustCompile("`(pelton [^`…]+)`")
	commandLine = regexp.MustCompile(`^(?:\$ )?(?:sudo )?(?:(?:bin/|\./|/usr/local/bin/)?pelton|go run \./cmd/pelton) ([-a-z].*)$`)
	shellWord   = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s]+`)
	variableOf  = regexp.MustCompile(`\bPELTON_[A-Z0-9]+__[A-Z0-9_]*[A-Z0-9]\b`)
	portOf      = regexp.MustCompile(`(?:127\.0\.0\.1|localhost|nats|kafka):(\d+)`)
)

// portsIn are the ports that a text sends somebody to.
func (d *deployments) portsIn(where, text string) {
	for _, m := range portOf.FindAllStringSubmatch(text, -1) {
		d.ports = append(d.ports, port{where, m[1], false})
	}
}

// markdown reads the command lines of code, in blocks and between the words.
func (d *deployments) markdown(where string) {
	fenced := false
	for line := range strings.Lines(d.text(where)) {
		line = strings.TrimRight(line, "\n")
		for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
			d.process(where, strings.Fields(m[1])[1:], nil).named = true
		}
		for _, name := range variableOf.FindAllString(line, -1) {
			d.variables = append(d.variables, variable{where, name})
		}
		d.portsIn(where, line)
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			d.command(where, strings.TrimSpace(line))
		}
	}
}

// command takes a line of a shell, if it runs pelton.
func (d *deployments) command(where, line string) {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " >") // into a file
	m := commandLine.FindStringSubmatch(strings.TrimSpace(strings.TrimSuffix(line, "&")))
	if m == nil {
		return
	}
	var args []string
	for _, word := range shellWord.FindAllString(m[1], -1) {
		args = append(args, strings.Trim(word, `'"`))
	}
	d.process(where, args, nil)
}
