package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the house: which of our packages each package may import, tests
// apart. A new edge is a change of this table, in the same commit, with its
// reason. Imports go down only.
var mayImport = map[string][]string{
	"acl":      nil,
	"alert":    nil,
	"audit":    nil,
	"cache":    nil,
	"certs":    nil,
	"chain":    {"certs"},
	"vault":    nil,
	"emulator": nil,
	"image":    nil,
	"logs":     nil,
	"hook":     nil,
	"status":   nil,
	"config":   {"acl", "vault"},
	"disk":     {"acl", "certs", "tree"},
	"tree":     {"acl", "certs"},
	"sync":     {"cache", "certs", "image", "tree", "vault"},
	"fs":       {"acl", "image", "tree"},
	"keeper":   nil,
	"test":     nil,
	"cmd/kvfs": {"acl", "alert", "audit", "certs", "chain", "config", "disk", "emulator", "fs", "hook", "image", "keeper", "logs", "status", "sync", "tree", "vault"},
}

// onlyImporter are the modules behind a seam, with the packages that may import
// them: what else they do to us, they do in one place.
var onlyImporter = map[string]string{
	"github.com/hanwen/go-fuse/":                   "fs",
	"github.com/Azure/":                            "vault",
	"software.sslmate.com/src/go-pkcs12":           "certs vault", // what a vault holds, and the certificate of a service principal
	"github.com/AzureAD/":                          "vault",
	"github.com/spf13/cobra":                       "cmd/kvfs",
	"github.com/pavlo-v-chernykh/keystore-go/":     "certs",
	"github.com/tinylib/msgp/":                     "logs",
	"github.com/coreos/go-systemd/v22/journal":     "logs",
	"github.com/coreos/go-systemd/v22/dbus":        "hook",
	"github.com/godbus/dbus/":                      "hook",
	"github.com/smallstep/pkcs7":                   "", // hangs on hostile input; in tests it is the oracle
	"github.com/google/jsonschema-go/":             "config",
	"github.com/golang-jwt/jwt/":                   "emulator",
	"github.com/hashicorp/golang-lru/v2/expirable": "", // never ends its goroutine
	"golang.org/x/crypto/pkcs12":                   "", // reads a third of what there is; in tests it is the oracle
	"github.com/rogpeppe/go-internal/testscript":   "",
	"github.com/prometheus/":                       "status",
	"kvfs/emulator":                                "cmd/kvfs",
}

// mayGo are the go statements outside cmd/kvfs, by package and function, with
// their reason. Work that outlives a call is started in cmd/kvfs alone, where the
// order of its end is read.
var mayGo = map[string]string{
	"fs.alive":       "a call into a hung mount cannot be taken back, only left behind",
	"hook.watch":     "a process that cannot be killed cannot be waited for, only left behind",
	"hook.leave":     "reaps such a process whenever it ends, so that its number is its own until then",
	"keeper.Inherit": "waits for the end of the keeper as long as the process lives: no call of ours has that span",
}

type file struct {
	pkg, path string
	test      bool
	ast       *ast.File
}

// sources are all Go files of the module.
func sources(t *testing.T) (files []file) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && path != ".." && err == nil {
			return filepath.SkipDir // another module
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel("..", filepath.Dir(path))
		files = append(files, file{pkg: filepath.ToSlash(pkg), path: path, test: strings.HasSuffix(path, "_test.go"), ast: f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(files))
	}
	return files
}

func imports(f file) (specs map[string]string) {
	specs = map[string]string{}
	for _, s := range f.ast.Imports {
		path, _ := strconv.Unquote(s.Path.Value)
		specs[path] = ""
		if s.Name != nil {
			specs[path] = s.Name.Name
		}
	}
	return specs
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, f := range sources(t) {
		allowed, known := mayImport[f.pkg]
		if !known {
			t.Errorf("%s: package %s is not in the table of the house", f.path, f.pkg)
			continue
		}
		if f.test {
			continue
		}
		for path := range imports(f) {
			if ours, ok := strings.CutPrefix(path, "kvfs/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s: %s may not import %s", f.path, f.pkg, ours)
			}
			for module, importer := range onlyImporter {
				if strings.HasPrefix(path, module) && !slices.Contains(strings.Fields(importer), f.pkg) {
					t.Errorf("%s: %s is for %q alone", f.path, path, importer)
				}
			}
		}
	}
}

// sync and fs carry names that others use too; the rules keep a reader from
// taking one for the other.
func TestNamesOfSyncAndFs(t *testing.T) {
	want := map[string]string{"kvfs/sync": "kvsync", "kvfs/fs": "", "sync": "", "io/fs": "iofs", "github.com/hanwen/go-fuse/v2/fs": "fusefs"}
	for _, f := range sources(t) {
		for path, name := range imports(f) {
			if must, ok := want[path]; ok && name != must {
				t.Errorf("%s: %q is imported as %q, want %q", f.path, path, name, must)
			}
		}
	}
}

func TestOnlyTheCommandStartsGoroutines(t *testing.T) {
	used := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || f.pkg == "cmd/kvfs" {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					at := fmt.Sprintf("%s.%s", f.pkg, fn.Name.Name)
					used[at] = true
					if mayGo[at] == "" {
						t.Errorf("%s: a go statement in %s", f.path, at)
					}
				}
				return true
			})
		}
	}
	for at := range mayGo {
		if !used[at] {
			t.Errorf("%s has no go statement any more: take it from the list", at)
		}
	}
}

func TestEachPackageHasOneDocumentation(t *testing.T) {
	docs := map[string][]string{}
	for _, f := range sources(t) {
		if _, ok := docs[f.pkg]; !ok {
			docs[f.pkg] = nil
		}
		if !f.test && f.ast.Doc != nil {
			docs[f.pkg] = append(docs[f.pkg], f.path)
		}
	}
	for pkg, files := range docs {
		if len(files) != 1 {
			t.Errorf("package %s is documented in %v, want one file", pkg, files)
		}
	}
}

func TestNoPackageHasAnInit(t *testing.T) {
	for _, f := range sources(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init runs for everybody who imports the package", f.path)
			}
		}
	}
}
