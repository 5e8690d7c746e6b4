// Package pelton_test proves the shape of the tree: which package may import
// which, and a few habits that a compiler does not ask for.
//
// The folders are the stations of one path, and imports go down it only:
//
//	cmd → internal → edges, schedules → engine → engine/ledger, engine/topology → engine/wire
//
// A new folder or a new dependency is refused until it has a place in the tables
// below, and, for a dependency, its reason in docs/dependencies.md.
package pelton_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "pelton"

// home says which folders may import a module: in code, and in tests besides.
// A folder stands for all below it, "" for the whole tree.
type home struct {
	module string
	code   []string
	tests  []string
}

var homes = []home{
	{module: "github.com/nats-io/nats.go", code: []string{""}},
	{module: "github.com/nats-io/nuid", code: []string{"cmd", "internal", "edges", "schedules"}},
	{module: "github.com/nats-io/nats-server/v2", code: []string{"engine/enginetest", "internal"}},
	{module: "github.com/twmb/franz-go", code: []string{"edges", "internal"}, tests: []string{"cmd", "examples"}},
	{module: "github.com/bwmarrin/discordgo", code: []string{"edges"}},
	{module: "github.com/go-co-op/gocron/v2", code: []string{"schedules"}},
	{module: "github.com/jonboulle/clockwork", code: []string{"schedules"}},
	{module: "github.com/knadh/koanf", code: []string{"internal/config"}},
	{module: "go.yaml.in/yaml/v3", code: []string{"internal/config"}, tests: []string{"cmd"}},
	{module: "github.com/spf13/cobra", code: []string{"cmd"}},
	{module: "github.com/spf13/pflag", code: []string{"cmd", "internal/config"}, tests: []string{"internal/connect"}},
	{module: "github.com/nats-io/jwt/v2", tests: []string{"internal/connect"}},
	{module: "github.com/nats-io/nkeys", tests: []string{"internal/connect"}},
	{module: "github.com/lmittmann/tint", code: []string{"internal"}},
	{module: "golang.org/x/sync", code: []string{"cmd", "internal", "edges", "schedules"}},
	{module: "golang.org/x/term", code: []string{"cmd", "internal"}},
	{module: "github.com/google/go-cmp", tests: []string{""}},
	{module: "go.uber.org/goleak", tests: []string{""}},
	{module: "pgregory.net/rapid", tests: []string{""}},
}

// The layers, from the bottom up. A package imports only what is below it.
const (
	layerWire     = iota
	layerBase     // topology and ledger
	layerEngine   // the library itself
	layerKit      // enginetest
	layerEdges    // edges and schedules
	layerInternal // what only the binary needs
	layerTop      // commands, and what nothing imports
)

// place tells the layer of a folder and the unit within which imports are free.
// It reports false for a folder that has no place on the path.
func place(folder string) (layer int, unit string, ok bool) {
	top, rest, _ := strings.Cut(folder, "/")
	second, _, _ := strings.Cut(rest, "/")
	unit = path.Join(top, second)
	switch top {
	case "engine":
		switch second {
		case "":
			return layerEngine, unit, true
		case "wire":
			return layerWire, unit, true
		case "enginetest":
			return layerKit, unit, true
		}
		return layerBase, unit, true
	case "edges":
		return layerEdges, unit, second != ""
	case "schedules":
		return layerEdges, top, true
	case "internal":
		return layerInternal, top, second != ""
	case "cmd", "examples", "deployments", "":
		return layerTop, unit, true
	}
	return 0, "", false
}

// within reports whether a folder is the given one or below it.
func within(folder, above string) bool {
	return above == "" || folder == above || strings.HasPrefix(folder, above+"/")
}

// isKit reports whether a folder holds a test kit: code that only tests use.
func isKit(folder string) bool { return strings.HasSuffix(path.Base(folder), "test") }

// refuse says why the package in folder from must not import a path, or "".
// isLeaf reports whether a folder imports nothing of the project.
func refuse(from, imported string, isTest bool, isLeaf func(folder string) bool) string {
	layer, _, ok := place(from)
	if !ok {
		return "the folder has no place on the path"
	}
	isTest = isTest || isKit(from) && layer != layerKit
	if to, own := ownFolder(imported); own {
		return refuseOwn(from, to, isTest, isLeaf)
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	if layer == layerWire && !isTest {
		return "the contract imports the standard library alone"
	}
	for _, h := range homes {
		if !within(imported, h.module) {
			continue
		}
		allowed := func(folder string) bool { return within(from, folder) }
		if slices.ContainsFunc(h.code, allowed) || isTest && slices.ContainsFunc(h.tests, allowed) {
			return ""
		}
		return h.module + " is not for this folder"
	}
	return "the dependency has no home; give it one here and a reason in docs/dependencies.md"
}

// refuseOwn is refuse for imports within the project.
func refuseOwn(from, to string, isTest bool, isLeaf func(folder string) bool) string {
	fromLayer, fromUnit, _ := place(from)
	toLayer, toUnit, ok := place(to)
	switch {
	case !ok:
		return "the imported folder has no place on the path"
	case fromUnit == toUnit && (isTest || !isKit(to) || isKit(from)):
		return ""
	case isKit(to):
		if isTest || fromLayer == layerInternal {
			return ""
		}
		return "a test kit is for tests and for internal"
	case toLayer == layerTop:
		return "nothing imports a command or an example"
	case fromLayer == layerEdges && within(to, "internal"):
		if within(from, "edges") && isLeaf(to) {
			return ""
		}
		return "only edges import from internal, and only what imports nothing of the project"
	case within(from, "examples") && within(to, "internal") && !isTest:
		return "an example uses what users can use"
	case within(from, "edges") && within(to, "edges/internal"):
		return ""
	case toLayer < fromLayer:
		return ""
	case toLayer == fromLayer:
		return "neighbors do not import each other"
	}
	return "imports go down the path, not up"
}

// ownFolder is the folder of a package of the project.
func ownFolder(imported string) (folder string, own bool) {
	if imported == module {
		return "", true
	}
	return strings.CutPrefix(imported, module+"/")
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	leaves := func(folder string) bool { return folder == "internal/secret" }
	const code, test = false, true
	for _, tc := range []struct {
		from, imported string
		isTest         bool
		accept         bool
	}{
		// Down the path.
		{"engine/wire", "encoding/json", code, true},
		{"engine/topology", "pelton/engine/wire", code, true},
		{"engine", "pelton/engine/ledger", code, true},
		{"engine/enginetest", "pelton/engine", code, true},
		{"edges/ingest", "pelton/engine", code, true},
		{"edges/ingest", "pelton/engine/wire", code, true},
		{"edges/ingest", "pelton/edges/internal/kafka", code, true},
		{"edges/ingest", "pelton/edges/ingest/rules", code, true},
		{"edges/internal/route", "pelton/edges/internal/kafka", code, true},
		{"schedules", "pelton/engine/ledger", code, true},
		{"internal/dev", "pelton/edges/emit", code, true},
		{"internal/dev", "pelton/internal/config", code, true},
		{"internal/dev", "pelton/engine/enginetest", code, true},
		{"cmd/pelton", "pelton/internal/dev", code, true},
		{"cmd/pelton", "pelton/engine", code, true},
		{"examples/01-hello", "pelton/schedules", code, true},
		// Up the path, and across it.
		{"engine/wire", "pelton/engine/topology", code, false},
		{"engine/wire", "pelton/engine/topology", test, false},
		{"engine/topology", "pelton/engine/ledger", code, false},
		{"engine/ledger", "pelton/engine", code, false},
		{"engine", "pelton/edges/ingest", code, false},
		{"engine", "pelton/schedules", code, false},
		{"engine", "pelton/internal/secret", code, false},
		{"schedules", "pelton/edges/emit", code, false},
		{"edges/emit", "pelton/schedules", code, false},
		{"edges/emit", "pelton/edges/ingest", code, false},
		{"edges/emit", "pelton/edges/ingest", test, false},
		{"edges/internal/kafka", "pelton/edges/ingest", code, false},
		{"internal/dev", "pelton/cmd/pelton", code, false},
		{"cmd/pelton", "pelton/examples/01-hello", code, false},
		{"examples/01-hello", "pelton/internal/dev", code, false},
		{"examples/01-hello", "pelton/internal/dev", test, true},
		// From internal, edges take leaves only.
		{"edges/speak", "pelton/internal/secret", code, true},
		{"edges/speak", "pelton/internal/config", code, false},
		{"schedules", "pelton/internal/secret", code, false},
		// Test kits.
		{"engine/wire", "pelton/engine/enginetest", test, true},
		{"engine", "pelton/engine/enginetest", test, true},
		{"engine", "pelton/engine/enginetest", code, false},
		{"edges/ingest", "pelton/engine/enginetest", code, false},
		{"edges/ingest", "pelton/edges/internal/kafka/kafkatest", test, true},
		{"edges/ingest", "pelton/edges/internal/kafka/kafkatest", code, false},
		{"edges/internal/kafka", "pelton/edges/internal/kafka/kafkatest", code, false},
		{"edges/internal/kafka/kafkatest", "pelton/edges/internal/kafka", code, true},
		{"edges/internal/kafka/kafkatest", "pgregory.net/rapid", code, true},
		{"engine/enginetest", "pgregory.net/rapid", code, false},
		// Dependencies have homes.
		{"engine", "github.com/nats-io/nats.go/jetstream", code, true},
		{"engine/wire", "github.com/nats-io/nats.go", code, false},
		{"engine", "golang.org/x/sync/errgroup", code, false},
		{"engine", "github.com/nats-io/nats-server/v2/server", code, false},
		{"engine", "github.com/nats-io/nats-server/v2/server", test, false},
		{"engine/enginetest", "github.com/nats-io/nats-server/v2/server", code, true},
		{"internal/dev", "github.com/nats-io/nats-server/v2/server", code, true},
		{"edges/ingest", "github.com/twmb/franz-go/pkg/kgo", code, true},
		{"internal/dev", "github.com/twmb/franz-go/pkg/kfake", code, true},
		{"engine", "github.com/twmb/franz-go/pkg/kgo", code, false},
		{"cmd/pelton", "github.com/twmb/franz-go/pkg/kfake", test, true},
		{"cmd/pelton", "github.com/twmb/franz-go/pkg/kgo", code, false},
		{"edges/listen", "github.com/bwmarrin/discordgo", code, true},
		{"internal/dev", "github.com/bwmarrin/discordgo", code, false},
		{"schedules", "github.com/go-co-op/gocron/v2", code, true},
		{"internal/dev", "github.com/go-co-op/gocron/v2", code, false},
		{"internal/config", "github.com/knadh/koanf/providers/confmap", code, true},
		{"internal/config", "go.yaml.in/yaml/v3", code, true},
		{"engine", "go.yaml.in/yaml/v3", code, false},
		{"cmd/pelton", "github.com/knadh/koanf/v2", code, false},
		{"engine", "go.uber.org/goleak", test, true},
		{"engine/wire", "pgregory.net/rapid", test, true},
		{"engine", "github.com/google/go-cmp/cmp", code, false},
		{"edges/ingest", "github.com/nats-io/nats.golang", code, false},
		{"internal/dev", "example.com/unheard/of", code, false},
		// Folders have places.
		{"utils", "fmt", code, false},
		{"cmd/pelton", "pelton/utils", code, false},
		{"edges", "fmt", code, false},
	} {
		why := refuse(tc.from, tc.imported, tc.isTest, leaves)
		if (why == "") != tc.accept {
			t.Errorf("%s imports %s (test: %t): accepted %t, want %t: %s",
				tc.from, tc.imported, tc.isTest, why == "", tc.accept, why)
		}
	}
}

// habits lists what a file does that no file may do.
func habits(fset *token.FileSet, f *ast.File, isTest bool) []string {
	var found []string
	timeName := importName(f, "time")
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				found = append(found, fmt.Sprintf("%s: init hides work at start; build it where it is used", fset.Position(n.Pos())))
			}
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if isTest && ok && timeName != "" && x.Name == timeName && n.Sel.Name == "Sleep" {
				found = append(found, fmt.Sprintf("%s: a test waits for a signal, it does not sleep", fset.Position(n.Pos())))
			}
		}
		return true
	})
	if isTest && timeName == "." {
		found = append(found, fmt.Sprintf("%s: time imported by dot", fset.Position(f.Pos())))
	}
	return found
}

// importName is the name by which a file knows a package, "" if it does not.
func importName(f *ast.File, imported string) string {
	for _, i := range f.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err != nil || p != imported {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func TestHabits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, src string
		isTest    bool
		want      int
	}{
		{"init", "package p\nfunc init() {}", false, 1},
		{"method named init", "package p\ntype T int\nfunc (T) init() {}", false, 0},
		{"sleep in code", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", false, 0},
		{"sleep in a test", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", true, 1},
		{"sleep by another name", "package p\nimport t \"time\"\nvar s = t.Sleep", true, 1},
		{"sleep by dot", "package p\nimport . \"time\"\nfunc f() { Sleep(1) }", true, 1},
		{"a Sleep of its own", "package p\nfunc f() { time.Sleep(1) }", true, 0},
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "p.go", tc.src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := habits(fset, f, tc.isTest); len(got) != tc.want {
			t.Errorf("%s: found %q, want %d", tc.name, got, tc.want)
		}
	}
}

// undocumented says what is wrong with the comments of a package, or "".
func undocumented(files []*ast.File) string {
	for _, f := range files {
		if f.Doc == nil {
			continue
		}
		name := strings.TrimSuffix(f.Name.Name, "_test")
		if name == "main" || strings.HasPrefix(f.Doc.Text(), "Package "+name) {
			return ""
		}
		return fmt.Sprintf("the package comment begins with %q", "Package "+name)
	}
	return "the package has no comment that says where on the path it is"
}

func TestUndocumented(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, src string
		accept    bool
	}{
		{"none", "package p", false},
		{"not attached", "// Package p is here.\n\npackage p", false},
		{"another name", "// Package q is here.\npackage p", false},
		{"documented", "// Package p is here.\npackage p", true},
		{"command", "// Pelton does it all.\npackage main", true},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "p.go", tc.src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if why := undocumented([]*ast.File{f}); (why == "") != tc.accept {
			t.Errorf("%s: accepted %t, want %t: %s", tc.name, why == "", tc.accept, why)
		}
	}
}

// replaces reports whether a go.mod bends a dependency to another place.
func replaces(gomod string) bool {
	for line := range strings.Lines(gomod) {
		if f := strings.Fields(line); len(f) > 0 && (f[0] == "replace" || strings.HasPrefix(f[0], "replace(")) {
			return true
		}
	}
	return false
}

func TestReplaces(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		gomod string
		want  bool
	}{
		{"module pelton\n\nreplace a.b/c => ../c\n", true},
		{"module pelton\nreplace (\n\ta.b/c => ../c\n)\n", true},
		{"module pelton\n// replace a.b/c => ../c\nrequire a.b/replace v1.0.0\n", false},
	} {
		if got := replaces(tc.gomod); got != tc.want {
			t.Errorf("%q: %t, want %t", tc.gomod, got, tc.want)
		}
	}
}

// folder is one package folder of the tree, its files behind build tags included.
type folder struct {
	code, tests []*ast.File
}

// tree is the module as it stands: folders by path, "" for the root.
type tree struct {
	fset    *token.FileSet
	folders map[string]*folder
}

// readTree parses every Go file of the module. Nested modules are not part of it.
func readTree(t *testing.T) tree {
	t.Helper()
	tr := tree{fset: token.NewFileSet(), folders: map[string]*folder{}}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return skip(name)
		case filepath.Ext(name) != ".go":
			return nil
		}
		f, err := parser.ParseFile(tr.fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), ".")
		if tr.folders[dir] == nil {
			tr.folders[dir] = &folder{}
		}
		if strings.HasSuffix(name, "_test.go") {
			tr.folders[dir].tests = append(tr.folders[dir].tests, f)
		} else {
			tr.folders[dir].code = append(tr.folders[dir].code, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// skip is fs.SkipDir for folders whose Go files are not the module's.
func skip(dir string) error {
	base := filepath.Base(dir)
	switch {
	case dir == ".":
		return nil
	case base == "testdata", base == "vendor", strings.HasPrefix(base, "."), strings.HasPrefix(base, "_"):
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// imports calls f for everything that a folder imports.
func (tr tree) imports(name string, f func(pos token.Position, imported string, isTest bool)) {
	each := func(files []*ast.File, isTest bool) {
		for _, file := range files {
			for _, i := range file.Imports {
				if p, err := strconv.Unquote(i.Path.Value); err == nil {
					f(tr.fset.Position(i.Pos()), p, isTest)
				}
			}
		}
	}
	if fo := tr.folders[name]; fo != nil {
		each(fo.code, false)
		each(fo.tests, true)
	}
}

// isLeaf reports whether the code of a folder imports nothing of the project.
func (tr tree) isLeaf(name string) bool {
	leaf := tr.folders[name] != nil
	tr.imports(name, func(_ token.Position, imported string, isTest bool) {
		if _, own := ownFolder(imported); own && !isTest {
			leaf = false
		}
	})
	return leaf
}

func TestImportsGoDownThePath(t *testing.T) {
	t.Parallel()
	tr := readTree(t)
	if tr.folders["engine/wire"] == nil || tr.folders[""] == nil {
		t.Fatal("the tree was not read")
	}
	for name := range tr.folders {
		if _, _, ok := place(name); !ok {
			t.Errorf("%s: the folder has no place on the path", name)
		}
		tr.imports(name, func(pos token.Position, imported string, isTest bool) {
			if why := refuse(name, imported, isTest, tr.isLeaf); why != "" {
				t.Errorf("%s: %s: %s", pos, imported, why)
			}
		})
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	t.Parallel()
	for name, fo := range readTree(t).folders {
		files := fo.code
		if len(files) == 0 {
			files = fo.tests
		}
		if why := undocumented(files); why != "" {
			t.Errorf("./%s: %s", name, why)
		}
	}
}

func TestHabitsOfTheTree(t *testing.T) {
	t.Parallel()
	tr := readTree(t)
	for name, fo := range tr.folders {
		for _, f := range fo.code {
			for _, h := range habits(tr.fset, f, isKit(name)) {
				t.Error(h)
			}
		}
		for _, f := range fo.tests {
			for _, h := range habits(tr.fset, f, true) {
				t.Error(h)
			}
		}
	}
}

func TestDependenciesAreWhatTheySay(t *testing.T) {
	t.Parallel()
	gomod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if replaces(string(gomod)) {
		t.Error("go.mod: no replace: what users import must be what is tested")
	}
	doc, err := os.ReadFile(filepath.Join("docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	tr := readTree(t)
	used := map[string]bool{}
	for name := range tr.folders {
		tr.imports(name, func(_ token.Position, imported string, _ bool) {
			for _, h := range homes {
				used[h.module] = used[h.module] || within(imported, h.module)
			}
		})
	}
	for _, h := range homes {
		if used[h.module] && !strings.Contains(string(doc), "`"+h.module) {
			t.Errorf("docs/dependencies.md: %s is used and not explained", h.module)
		}
	}
}
