package arcstore_test

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

const module = "github.com/arcboxlabs/arcstore"

// floors says where each package stands. A package imports only what stands
// lower; within a floor nobody imports anybody.
var floors = map[string]int{
	"chunker":             0,
	"store/disk":          0,
	"store/crypt":         0,
	"store/control":       0,
	"capture/criu":        1,
	"capture/arcbox":      1,
	"capture/firecracker": 1,
	"capture/offload":     1,
	"capture/qmp":         1,
	"restore/uffd":        1,
	"restore/mount":       1,
	"store":               1,
	"manifest":            1,
	"capture":             2,
	"restore":             2,
	"remote":              2,
	".":                   3, // the façade
	"cmd/client":          4,
	"cmd/schedule":        4,
	"cmd/metrics":         4,
	"cmd/ui":              5,
	"cmd/arcstore":        6,
	"bench":               6,
	"bench/crash":         6,
}

// strangers are pairs that the floors alone would let meet.
var strangers = map[string][]string{
	"capture": {"store", "remote"},
	"restore": {"store", "remote"},
}

// testParts are what tests and benchmarks run against: real guests, a disk
// that loses power. They import nothing of the module, and only tests and benchmarks import them.
var testParts = []string{"bench/cloudhypervisor", "bench/firecracker", "bench/guest", "bench/processes", "bench/vmm", "bench/s3server", "bench/crashdisk"}

const maxLines = 600

// goFile is one source file of the module.
type goFile struct {
	name    string // slash-separated, relative to the module
	pkg     string // its directory, likewise
	test    bool
	lines   int
	fset    *token.FileSet
	syntax  *ast.File
	imports []string
}

// library reports whether programs link against the file's package.
func (f *goFile) library() bool {
	return !f.test && !strings.HasPrefix(f.pkg, "cmd/") && f.pkg != "bench" && !strings.HasPrefix(f.pkg, "bench/")
}

func (f *goFile) position(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.name, f.fset.Position(n.Pos()).Line)
}

// goFiles reads every Go file of the module, whatever system it is for.
func goFiles(t *testing.T) []*goFile {
	t.Helper()
	var files []*goFile
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f := &goFile{name: filepath.ToSlash(name), test: strings.HasSuffix(name, "_test.go"), lines: strings.Count(string(text), "\n"), fset: token.NewFileSet()}
		f.pkg = path.Dir(f.name)
		if f.syntax, err = parser.ParseFile(f.fset, name, text, parser.SkipObjectResolution); err != nil {
			return err
		}
		for _, i := range f.syntax.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// owner returns the package of the floors that dir belongs to: itself, or the
// one whose internal/ it lies in. "" is none.
func owner(dir string) string {
	if before, _, ok := strings.Cut(dir, "/internal/"); ok {
		dir = before
	}
	if _, ok := floors[dir]; ok || slices.Contains(testParts, dir) {
		return dir
	}
	return ""
}

func TestLayering(t *testing.T) {
	for _, f := range goFiles(t) {
		from := owner(f.pkg)
		if from == "" {
			t.Errorf("%s: the package %s stands on no floor: give it one in layering_test.go, or put it under internal/ of the package that needs it", f.name, f.pkg)
			continue
		}
		for _, i := range f.imports {
			if i != module && !strings.HasPrefix(i, module+"/") {
				continue
			}
			to := "."
			if i != module {
				to = owner(strings.TrimPrefix(i, module+"/"))
			}
			if why := forbidden(from, to, f.test); why != "" {
				t.Errorf("%s imports %s: %s", f.name, i, why)
			}
		}
	}
}

// forbidden says why one package must not import another and what to do; "" if it may.
func forbidden(from, to string, test bool) string {
	switch {
	case from == to:
		return ""
	case slices.Contains(testParts, from) && (to == "capture/qmp" || to == "restore/uffd"):
		return "" // a protocol, and the kernel's calls
	case slices.Contains(testParts, from):
		return from + " knows nothing of the store: hand it what it needs"
	case slices.Contains(testParts, to):
		if test || from == "bench" {
			return ""
		}
		return to + " is for tests and bench alone"
	case to == "":
		return "it stands on no floor"
	case floors[to] > floors[from]:
		return fmt.Sprintf("%s stands higher: declare a small interface in %s, and let the façade wire the two", to, from)
	case floors[to] == floors[from]:
		return fmt.Sprintf("%s stands on the same floor: declare a small interface in %s, and let the façade wire the two", to, from)
	case slices.Contains(strangers[from], to):
		return fmt.Sprintf("%s and %s never meet: declare in %s the interface that it writes to or reads from", from, to, from)
	}
	return ""
}

func TestForbidden(t *testing.T) {
	for _, test := range []struct {
		from, to string
		test, ok bool
	}{
		{"store", "chunker", false, true},
		{"chunker", "store", false, false},
		{"store", "manifest", false, false},
		{"manifest", "store", false, false},
		{"capture", "manifest", false, true},
		{"capture", "store", false, false},
		{"restore", "store", true, false},
		{"capture", "restore", false, false},
		{"remote", "store", false, true},
		{".", "remote", false, true},
		{"store", ".", false, false},
		{"cmd/arcstore", "store", false, true},
		{"cmd/arcstore", "bench", false, false},
		{".", "bench/guest", true, true},
		{".", "bench/guest", false, false},
		{"bench", "bench/guest", false, true},
		{"bench/guest", "chunker", false, false},
	} {
		if why := forbidden(test.from, test.to, test.test); (why == "") != test.ok {
			t.Errorf("forbidden(%s, %s, %v) = %q", test.from, test.to, test.test, why)
		}
	}
	for dir, want := range map[string]string{"store/internal/lru": "store", "store": "store", "internal/x": "", "tools": "", ".": ".", "cmd/other": ""} {
		if got := owner(dir); got != want {
			t.Errorf("owner(%s) = %q, want %q", dir, got, want)
		}
	}
}

func TestPackageNames(t *testing.T) {
	empty := []string{"util", "utils", "common", "types", "helper", "helpers", "pkg", "misc", "base"}
	for _, f := range goFiles(t) {
		for _, name := range append(strings.Split(f.pkg, "/"), f.syntax.Name.Name) {
			if slices.Contains(empty, name) {
				t.Errorf("%s: the name %q says nothing: name the package for the noun that it owns", f.name, name)
			}
		}
	}
}

func TestFileLengths(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.test && f.lines > maxLines {
			t.Errorf("%s has %d lines: split it, one noun a file (the limit is %d)", f.name, f.lines, maxLines)
		}
	}
}

// TestLibrariesOnlyReturn: libraries neither log, print, exit nor panic; they return errors.
func TestLibrariesOnlyReturn(t *testing.T) {
	for _, f := range goFiles(t) {
		if !f.library() {
			continue
		}
		for _, i := range f.imports {
			if i == "log" || strings.HasPrefix(i, "log/") || i == "flag" {
				t.Errorf("%s imports %s: a library neither logs nor has flags: return an error, or take a callback", f.name, i)
			}
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := callName(call); {
			case strings.HasPrefix(name, "fmt.Print"), name == "print", name == "println":
				t.Errorf("%s calls %s: a library does not print: return what there is to say", f.position(n), name)
			case name == "os.Exit", name == "panic", name == "syscall.Exit":
				t.Errorf("%s calls %s: a library does not end the program: return an error", f.position(n), name)
			case strings.HasPrefix(name, "fmt.Fprint") && len(call.Args) > 0 && isStandardStream(call.Args[0]):
				t.Errorf("%s calls %s on a standard stream: a library does not print: return what there is to say", f.position(n), name)
			}
			return true
		})
	}
}

// callName returns what a call calls, as "f" or "package.F".
func callName(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}

func isStandardStream(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "os" && (s.Sel.Name == "Stdout" || s.Sel.Name == "Stderr")
}
