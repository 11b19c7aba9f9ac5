package disk

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// manifestName is the log of the names that are ours, in their directory.
const manifestName = ".kvfs"

// manifestFormat begins every manifest.
const manifestFormat = 1

// maxManifest bounds what is read, some hundred thousand names.
const maxManifest = 64 << 20

// record is a name of ours.
type record struct {
	Kind tree.Kind `json:"kind"`
	// Sum of a file's content, in hex: one that has another was damaged. Was is the one
	// before, until that was replaced.
	Sum string `json:"sum,omitempty"`
	Was string `json:"was,omitempty"`
	// Time of a file: when its version was created.
	Time int64 `json:"time,omitempty"`
}

// line of the log: the format in the first, then what has come and what has gone.
type line struct {
	Format int               `json:"format,omitempty"`
	Names  map[string]record `json:"names,omitempty"`
	Gone   []string          `json:"gone,omitempty"`
}

func recordOf(n *tree.Node) record {
	r := record{Kind: n.Kind}
	if n.Kind == tree.File {
		sum := sumOf(n)
		r.Sum, r.Time = hex.EncodeToString(sum[:]), n.Time.Unix()
	}
	return r
}

func (r record) created() time.Time {
	if r.Time == 0 {
		return time.Time{}
	}
	return time.Unix(r.Time, 0)
}

// manifest is what names has, and the log of it on the disk. What is in names may be
// missing on the disk; no name of ours is there that is not in names.
type manifest struct {
	sys   storage
	own   owner
	names map[string]record
	lines int  // of names and gone ones in the log
	whole bool // the log can be appended to; otherwise it is written anew
}

// readManifest reads the log, as far as it is whole: a power cut can have torn its last
// line, whose names were not made then.
func readManifest(sys storage, own owner) (*manifest, error) {
	m := &manifest{sys: sys, own: own, names: map[string]record{}}
	f, err := sys.open(manifestName)
	if errors.Is(err, unix.ENOENT) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.stat()
	if err == nil {
		err = own.alone(&st)
	}
	if err == nil && st.Size > maxManifest {
		err = fmt.Errorf("it has %d bytes", st.Size)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	return m, m.parse(b)
}

func (m *manifest) parse(b []byte) error {
	first := true
	for len(b) > 0 {
		text, rest, ended := bytes.Cut(b, []byte("\n"))
		var l line
		if err := json.Unmarshal(text, &l); err != nil || !ended {
			m.whole = false
			return nil
		}
		if first && l.Format != manifestFormat {
			return fmt.Errorf("its format is %d, not %d", l.Format, manifestFormat)
		}
		m.take(l)
		b, first, m.whole = rest, false, true
	}
	return nil
}

func (m *manifest) take(l line) {
	for name, r := range l.Names {
		if filepath.IsLocal(name) && name != "." && name != manifestName {
			m.names[name] = r
		}
	}
	for _, name := range l.Gone {
		delete(m.names, name)
	}
	m.lines += len(l.Names) + len(l.Gone)
}

// enter makes names ours, before they begin to exist.
func (m *manifest) enter(names map[string]record) error {
	for name, r := range names {
		switch was := m.names[name]; {
		case was.Kind == r.Kind && was.Sum == r.Sum && was.Time == r.Time:
			delete(names, name)
		case was.Sum != r.Sum:
			r.Was = was.Sum
			names[name] = r
		}
	}
	if len(names) == 0 {
		return nil
	}
	return m.log(line{Names: names})
}

// leave is for names that do not exist any more.
func (m *manifest) leave(names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, ours := m.names[name]; return !ours })
	if len(names) == 0 {
		return nil
	}
	return m.log(line{Gone: names})
}

// log appends a line, or writes the log anew if it cannot be appended to or most of it
// is of the past.
func (m *manifest) log(l line) error {
	if m.whole && m.lines < 2*len(m.names)+1000 {
		err := m.append(l)
		if err == nil {
			m.take(l)
			return nil
		}
		m.whole = false // it may have a part of the line
		return err
	}
	before := maps.Clone(m.names)
	m.take(l)
	err := m.rewrite()
	if err != nil {
		m.names = before
	}
	return err
}

func (m *manifest) append(l line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	f, err := m.sys.extend(manifestName)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.sync()
	}
	return errors.Join(err, f.Close())
}

// rewrite puts a log of what is in names in the place of the old one.
func (m *manifest) rewrite() error {
	first, err := json.Marshal(line{Format: manifestFormat, Names: m.names})
	if err != nil {
		return err
	}
	if err := place(m.sys, m.own, manifestName, append(first, '\n'), rights{mode: 0o600}, false); err != nil {
		return err
	}
	if err := syncDirectory(m.sys, "."); err != nil {
		return err
	}
	m.lines, m.whole = len(m.names), true
	return nil
}
