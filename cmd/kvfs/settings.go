package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kvfs/config"
	"kvfs/fs"
	kvsync "kvfs/sync"
	"kvfs/tree"
	"kvfs/vault"
)

// maxSettings is more than the 1 MiB that a document may have, so that package
// config can say that it is too long.
const maxSettings = 2 << 20

// origin is where the settings come from: a file that can be read again, or the
// command line.
type origin struct {
	file    string   // "" without a file
	urls    []string // without a file
	store   string   // in place of the default store; "" for that
	ambient bool     // without a file: ask as the person at the terminal
	caFile  string
	connect []string // "name:port=address:port"
}

// fromArgs tells a settings file from secret URLs.
func fromArgs(args []string) (origin, error) {
	urls := 0
	for _, arg := range args {
		if strings.Contains(arg, "://") {
			urls++
		}
	}
	switch {
	case urls == len(args):
		return origin{urls: args, ambient: true}, nil
	case len(args) == 1:
		return origin{file: args[0]}, nil
	}
	return origin{}, fail(exitUsage, "usage", "give one settings file, or any number of secret URLs", "%d arguments, %d of them URLs", len(args), urls)
}

// take makes arguments the origin; what flags have said stays.
func (o *origin) take(args []string) error {
	from, err := fromArgs(args)
	if err != nil {
		return err
	}
	o.file, o.urls, o.ambient = from.file, from.urls, from.ambient
	return nil
}

// name of the origin for messages.
func (o origin) name() string {
	switch o.file {
	case "":
		return "the command line"
	case "-":
		return "standard input"
	}
	return o.file
}

// load reads the settings. Problems are for the caller to show; the Config is nil
// if one of them is an error.
func (o origin) load(stdin io.Reader) (*config.Config, config.Problems, error) {
	text, err := o.read(stdin)
	if err != nil {
		return nil, nil, err
	}
	cfg, _, problems, err := o.parse(text, finder{})
	return cfg, problems, err
}

// read is the text of the settings; without a file there is none.
func (o origin) read(stdin io.Reader) ([]byte, error) {
	if o.file == "" {
		return nil, nil
	}
	return readSettings(o.file, stdin)
}

// parse is load for a text that was read.
func (o origin) parse(text []byte, find finder) (cfg *config.Config, stores places, problems config.Problems, err error) {
	if o.file == "" {
		cfg, problems, err = o.fromURLs()
	} else {
		cfg, problems = config.Options{Name: o.file, Store: o.store}.Parse(text)
		problems = append(problems, o.unusedStore(cfg)...)
	}
	if cfg != nil {
		stores = find.places(storesOf(cfg.Certificates))
		resolve(cfg, stores)
	}
	return cfg, stores, problems, err
}

func readSettings(file string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, unreadable(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSettings))
	if err != nil {
		return nil, unreadable(err)
	}
	return data, nil
}

func unreadable(err error) error {
	return &failure{code: exitSettings, kind: "settings", fact: fmt.Sprintf("the settings cannot be read: %v", err),
		hint: "give the path of a settings document of the Key Vault VM extension", err: err}
}

func (o origin) fromURLs() (*config.Config, config.Problems, error) {
	cfg, problems := config.FromURLs(o.urls, o.store)
	if cfg == nil {
		return nil, problems, nil
	}
	cfg.Transport.CAFile = o.caFile
	for _, c := range o.connect {
		from, to, ok := strings.Cut(c, "=")
		if !ok {
			return nil, nil, fail(exitUsage, "usage", "write it like '*.vault.azure.net:443=127.0.0.1:8443'", "--connect %q has no =", c)
		}
		if cfg.Transport.Connect == nil {
			cfg.Transport.Connect = map[string]string{}
		}
		cfg.Transport.Connect[from] = to
	}
	if o.ambient {
		for i := range cfg.Certificates {
			cfg.Certificates[i].Identity = vault.Identity{Method: vault.Ambient}
		}
	}
	return cfg, problems, nil
}

// places are the real paths of stores, by those that the settings give: a mount has the real path, and everything that is
// compared with it needs it.
type places map[string]string

// finder finds them.
type finder struct {
	served []string // stores of this kvfs, whose names are not followed
	known  places   // from before
	keep   bool     // what is known is not looked for again: a successor goes by what its predecessor did
}

// places follows the links of stores. A disk that does not answer keeps nobody waiting for long: then they are where they
// were, or where they say.
func (f finder) places(stores []string) places {
	all := places{}
	for _, store := range stores {
		all[store] = cmp.Or(f.known[store], filepath.Clean(store))
	}
	if f.keep && !slices.ContainsFunc(stores, func(store string) bool { return f.known[store] == "" }) {
		return all
	}
	found, ok := within(diskPatience, func() places {
		found := places{}
		for _, store := range stores {
			found[store] = fs.ResolveOutside(store, f.served)
		}
		return found
	})
	if ok {
		return found
	}
	return all
}

// resolve puts what the document leaves to this machine in its place: where stores are, and the identity of a document
// that says nothing of it.
func resolve(cfg *config.Config, stores places) {
	exists := func(file string) bool {
		_, err := os.Stat(file)
		return err == nil
	}
	cfg.Identity = cfg.Identity.Resolve(os.Getenv, exists)
	for i := range cfg.Certificates {
		c := &cfg.Certificates[i]
		c.Store = stores[c.Store]
		c.Identity = c.Identity.Resolve(os.Getenv, exists)
	}
}

// unusedStore warns of a --store that no entry goes by. The entries have the paths of the settings.
func (o origin) unusedStore(cfg *config.Config) config.Problems {
	if cfg == nil || o.store == "" || len(cfg.Certificates) == 0 || slices.Contains(storesOf(cfg.Certificates), filepath.Clean(o.store)) {
		return nil
	}
	return config.Problems{{Severity: config.Warning, Fact: "--store has no effect: every entry names a store of its own", Hint: "remove certificateStoreLocation, or --store"}}
}

// isInside tells whether a store lies inside another one.
func isInside(store string, all []string) bool {
	return slices.ContainsFunc(all, func(outer string) bool { return strings.HasPrefix(store, outer+"/") })
}

// checkNested refuses stores inside others where they cannot be.
func checkNested(all []string, rootless bool) error {
	i := slices.IndexFunc(all, func(store string) bool { return isInside(store, all) })
	if i < 0 || !rootless {
		return nil
	}
	return &fs.MountpointError{Path: all[i], Fact: fmt.Sprintf("the store %s lies inside another one, which an ordinary user cannot have", all[i]),
		Hint: "choose directories of which none contains another, or run kvfs as root"}
}

// storesOf certificates, each once, in their order.
func storesOf(certificates []config.Certificate) (paths []string) {
	seen := map[string]bool{}
	for _, c := range certificates {
		if !seen[c.Store] {
			seen[c.Store] = true
			paths = append(paths, c.Store)
		}
	}
	return paths
}

func source(c config.Certificate) kvsync.Source {
	return kvsync.Source{Ref: c.Ref, Identity: c.Identity}
}

func sources(certificates []config.Certificate) (all []kvsync.Source) {
	for _, c := range certificates {
		all = append(all, source(c))
	}
	return all
}

// passwords are the contents of password files, read when the settings are.
type passwords map[string]tree.Password

const (
	maxPassword     = 1 << 10 // more than anybody types
	minJavaPassword = 6       // Java's own rule
)

func readPasswords(cfg *config.Config) (passwords, error) {
	all := passwords{}
	for _, c := range cfg.Certificates {
		file := c.Views.PasswordFile
		if _, done := all[file]; done || file == "" {
			continue
		}
		text, err := readRegular(file, maxPassword+2)
		if err != nil {
			return nil, fail(exitSettings, "settings", "write the password to that file, readable for root alone", "kvfs.passwordFile: %v", err)
		}
		// The line end is not of the password, as for openssl and keytool (for openssl a carriage return is).
		password := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
		if len(password) == 0 || len(password) > maxPassword || bytes.ContainsAny(password, "\r\n\x00") || !utf8.Valid(password) {
			return nil, fail(exitSettings, "settings", "write the password to that file in one line, and nothing else", "kvfs.passwordFile: %s does not hold one password", file)
		}
		all[file] = tree.Password(password)
	}
	return all, checkJava(cfg, all)
}

// readRegular reads at most so many bytes of a file, and of nothing that could keep
// us waiting.
func readRegular(file string, most int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fmt.Errorf("%s is not a regular file", file))
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// checkJava refuses passwords that Java does not take, before they take the place
// of good ones.
func checkJava(cfg *config.Config, all passwords) error {
	for _, c := range cfg.Certificates {
		password, ok := all[c.Views.PasswordFile]
		if !ok || !slices.Contains(c.Views.Layouts, string(tree.JKS)) {
			continue
		}
		strange := strings.ContainsFunc(string(password), func(r rune) bool { return r < ' ' || r > '~' })
		if len(password) < minJavaPassword || strange {
			return fail(exitSettings, "settings", "choose six or more ASCII characters", "kvfs.passwordFile: Java does not take the password in %s", c.Views.PasswordFile)
		}
	}
	return nil
}

// newVault is a client for the vaults; ca is the content of the CA file if it was read.
func newVault(o origin, cfg *config.Config, a *app, ca []byte) (*vault.Client, error) {
	client, err := vault.New(vault.Options{CAFile: cfg.Transport.CAFile, CA: ca, Connect: cfg.Transport.Connect, Logger: a.logger()})
	switch {
	case err == nil:
		return client, nil
	case o.file == "":
		return nil, &failure{code: exitUsage, kind: "usage", fact: err.Error(), hint: "mend --ca-file or --connect", err: err}
	}
	return nil, &failure{code: exitSettings, kind: "settings", fact: err.Error(), hint: "mend kvfs.transport in the settings", err: err}
}
