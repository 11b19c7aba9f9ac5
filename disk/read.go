package disk

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/certs"
	"kvfs/tree"
)

const (
	// maxFile is the most of a file that is read, which is what package certs takes.
	maxFile = 256 << 10
	// mostVersions is how many versions of a certificate are read, the newest.
	mostVersions = 16
)

// ReadOptions say how a directory is read. The zero value is ready for use.
type ReadOptions struct {
	// Versions is how many of each certificate are wanted, at most 16, which is the default.
	Versions int
}

// LastGood is what a directory has of a certificate.
type LastGood struct {
	// Versions, the one first that the links lead to unless a newer one waits for its time, then newest first.
	Versions []*tree.Version
	// Current is where the links lead; "" if nowhere.
	Current certs.Version
}

// Read finds the last good versions of certificates in a directory that Apply, or any version of the
// extension, has written: by Vault.Name of the certificate. What is damaged, incomplete, or could have been written by somebody else is
// left out; notes say what and why, for a log. Nothing is changed, and no link out of the directory is
// followed. A directory that is not there has nothing. The error is an *Error: others could write to the
// directory itself, or it cannot be read.
func Read(dir string, want []Certificate, o ReadOptions) (found map[string]LastGood, notes []string, err error) {
	r := reader{path: dir, own: self(), most: mostVersions}
	if o.Versions > 0 {
		r.most = min(o.Versions, mostVersions)
	}
	fd, err := walk(dir, false)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	r.sys = &root{fd}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, failed("looking at", dir, err)
	}
	if err := trusted(dir, &st, false); err != nil {
		return nil, nil, err
	}
	if err := r.survey(want); err != nil {
		return nil, nil, failed("reading", dir, err)
	}
	found = map[string]LastGood{}
	for _, c := range want {
		if good := r.lastGood(c); len(good.Versions) > 0 {
			found[c.base()] = good
		}
	}
	return found, r.notes, nil
}

// reader reads one directory.
type reader struct {
	path  string
	own   owner
	sys   storage
	most  int
	names map[string]record                    // of the manifest
	files map[string]map[certs.Version][]piece // by certificate and version
	empty bool                                 // there is nothing in the directory
	notes []string
}

// piece is a file that holds a version or a part of it.
type piece struct {
	versionFile
	name string
}

func (r *reader) note(format string, args ...any) {
	const most = 100
	if len(r.notes) < most {
		r.notes = append(r.notes, fmt.Sprintf(format, args...))
	}
}

// survey lists the files of the certificates.
func (r *reader) survey(want []Certificate) error {
	m, err := readManifest(r.sys, r.own)
	if err != nil {
		r.note("%s is not used: %v", path.Join(r.path, manifestName), err)
		m = &manifest{}
	}
	r.names, r.files = m.names, map[string]map[certs.Version][]piece{}
	for _, c := range want {
		r.files[c.base()] = map[certs.Version][]piece{}
	}
	names, err := r.sys.list(".", mostNames)
	if err != nil {
		return err
	}
	r.empty = len(names) == 0
	for _, name := range names {
		if f, ok := parseFile(name); ok {
			r.take(f, name)
		}
	}
	if _, err := r.sys.lstat("archive"); errors.Is(err, unix.ENOENT) {
		return nil
	}
	for base := range r.files {
		versions, _ := r.sys.list(path.Join("archive", base), mostNames) // mostly there is none
		for _, version := range versions {
			for _, file := range []string{"fullchain.pem", "privkey.pem", "bundle.pfx"} {
				name := path.Join("archive", base, version, file)
				if _, err := r.sys.lstat(name); err != nil {
					continue
				}
				if f, ok := parseArchive(name); ok {
					r.take(f, name)
				}
			}
		}
	}
	return nil
}

func (r *reader) take(f versionFile, name string) {
	of, wanted := r.files[f.base]
	if !wanted {
		return
	}
	if f.created.IsZero() {
		f.created = r.names[name].created()
	}
	of[f.version] = append(of[f.version], piece{f, name})
}

// lastGood puts together what there is of a certificate.
func (r *reader) lastGood(c Certificate) (good LastGood) {
	versions := r.files[c.base()]
	if r.empty { // of thousands, at a first start
		return good
	}
	good.Current = r.current(c, versions)
	order, luma, keyed := r.byAge(versions), r.luma(c), false
	for _, pieces := range versions {
		keyed = keyed || slices.ContainsFunc(pieces, piece.hasKey)
	}
	for _, id := range order {
		if id != good.Current && len(good.Versions) >= r.most {
			continue
		}
		published := time.Time{}
		if luma.Version == string(id) {
			published = luma.Published
		}
		if v := r.version(c, id, attempts(versions[id], keyed), published); v != nil {
			good.Versions = append(good.Versions, v)
		}
	}
	slices.SortStableFunc(good.Versions, func(a, b *tree.Version) int {
		return cmp.Or(b.Created.Compare(a.Created), b.NotBefore.Compare(a.NotBefore))
	})
	i := slices.IndexFunc(good.Versions, func(v *tree.Version) bool { return v.ID == good.Current })
	switch {
	case i < 0:
		good.Current = ""
	case !good.Versions[0].NotBefore.After(time.Now()): // otherwise it waits for its time
		current := good.Versions[i]
		good.Versions = slices.Insert(slices.Delete(good.Versions, i, i+1), 0, current)
	}
	if len(good.Versions) > r.most {
		good.Versions = good.Versions[:max(r.most, slices.IndexFunc(good.Versions, func(v *tree.Version) bool { return v.ID == good.Current })+1)]
	}
	return good
}

// byAge orders versions, the newest first, by what names and the manifest say, or the time of the
// file.
func (r *reader) byAge(versions map[certs.Version][]piece) []certs.Version {
	age := map[certs.Version]time.Time{}
	for id, pieces := range versions {
		for _, p := range pieces {
			at := p.created
			if st, err := r.sys.lstat(p.name); at.IsZero() && err == nil {
				at = time.Unix(st.Mtim.Unix())
			}
			if at.After(age[id]) {
				age[id] = at
			}
		}
	}
	ids := slices.Collect(maps.Keys(versions))
	slices.SortFunc(ids, func(a, b certs.Version) int { return cmp.Or(age[b].Compare(age[a]), cmp.Compare(a, b)) })
	return ids
}

// current is the version that the links lead to.
func (r *reader) current(c Certificate, versions map[certs.Version][]piece) certs.Version {
	links := []string{c.base(), c.base() + ".pem", "live/" + c.base(), c.base() + ".pfx", c.base() + ".certs.pem", c.Name}
	for _, link := range append(links, c.Links...) {
		to, err := r.sys.readlink(link)
		if err != nil {
			continue
		}
		id := certs.Version(path.Base(to))
		if f, ok := parseFile(path.Base(to)); ok && f.base == c.base() {
			id = f.version
		} else if path.Dir(path.Join(path.Dir(link), to)) != path.Join("archive", c.base()) {
			continue // somebody else's
		}
		if dir := path.Dir(to); path.IsAbs(to) && !r.isHere(dir) {
			r.note("%s leads to %s, out of the store: it is not followed", path.Join(r.path, link), to)
			continue
		}
		if _, known := versions[id]; known {
			return id
		}
	}
	return ""
}

// isHere tells whether a path is another one of the directory.
func (r *reader) isHere(dir string) bool {
	var there unix.Stat_t
	here, err := r.sys.lstat(".")
	return err == nil && unix.Stat(dir, &there) == nil && there.Dev == here.Dev && there.Ino == here.Ino || path.Clean(dir) == path.Clean(r.path)
}

// mark is what .luma says, if it is ours.
type mark struct {
	Version   string    `json:"version"`
	Published time.Time `json:"published"`
}

func (r *reader) luma(c Certificate) (m mark) {
	b, err := r.read(c.base() + ".luma")
	if err != nil || json.Unmarshal(b, &m) != nil {
		return mark{} // there is none, or it is the extension's, whose form is its own
	}
	return m
}

// version is made of the first of some sets of files that are good.
func (r *reader) version(c Certificate, id certs.Version, tries [][]piece, published time.Time) *tree.Version {
	var bundle *certs.Bundle
	var created time.Time
	var faults []string
	for _, try := range tries {
		b, err := r.parse(try)
		if err == nil {
			bundle, created = b, try[0].created
			break
		}
		faults = append(faults, fmt.Sprintf("%s: %v", try[0].name, err))
	}
	if bundle == nil {
		if faults == nil {
			faults = []string{"it has no files that can be read back"}
		}
		r.note("version %s of %s in %s is left out: %s", id, c.base(), r.path, strings.Join(faults, "; "))
		return nil
	}
	for _, p := range slices.Concat(tries...) {
		if created.IsZero() {
			created = p.created
		}
	}
	if created.IsZero() {
		created = bundle.Leaf.NotBefore
	}
	if published.IsZero() {
		published = created
	}
	return tree.NewVersion(id, created, published, bundle, c.Views...)
}

func (p piece) hasKey() bool {
	return p.kind != fullChain && p.kind != chainOnly
}

// attempts are the files of a version that together have chain and key, in the order in which they are tried. A
// chain alone is half of a version, unless there is no file with a key of any version.
func attempts(pieces []piece, keyed bool) (tries [][]piece) {
	of := map[kind][]piece{}
	for _, p := range pieces {
		of[p.kind] = append(of[p.kind], p)
	}
	alone := []kind{combined, upperPEM}
	if !keyed {
		alone = []kind{fullChain, chainOnly}
	}
	for _, k := range alone {
		for _, p := range of[k] {
			tries = append(tries, []piece{p})
		}
	}
	for _, chain := range of[fullChain] {
		for _, key := range of[key] {
			if path.Dir(chain.name) == path.Dir(key.name) {
				tries = append(tries, []piece{chain, key})
			}
		}
	}
	for _, p := range of[bundle] {
		tries = append(tries, []piece{p})
	}
	return tries
}

// parse reads files that make one bundle. A chain alone is taken where no file for a key was given.
func (r *reader) parse(files []piece) (*certs.Bundle, error) {
	var text []byte
	for _, f := range files {
		b, err := r.read(f.name)
		if err != nil {
			return nil, err
		}
		if text != nil {
			text = append(text, '\n') // the file before may not end with one
		}
		text = append(text, b...)
	}
	b, err := certs.Parse("", text)
	var keyless *certs.Error
	if alone := len(files) == 1 && !files[0].hasKey(); alone && errors.As(err, &keyless) && keyless.Partial != nil {
		return keyless.Partial, nil
	}
	return b, err
}

// read a file that nobody but us, root or the extension can have written. One that the manifest
// knows is as it was written.
func (r *reader) read(name string) ([]byte, error) {
	f, err := r.sys.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.stat()
	if err == nil {
		err = r.own.alone(&st)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("it is larger than %d KiB", maxFile>>10)
	}
	sum := sha256.Sum256(b)
	text := hex.EncodeToString(sum[:])
	if was, ours := r.names[name]; ours && was.Sum != text && was.Was != text {
		return nil, errors.New("it is not as it was written")
	}
	return b, nil
}
