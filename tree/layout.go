package tree

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"kvfs/certs"
)

// Layout is a family of names that one certificate is shown under.
type Layout string

const (
	// V3 is what version 3 of the Azure Key Vault VM extension makes: one file
	// with the chain and the key last, and a link to it.
	V3 Layout = "v3"
	// V4 is what version 4 makes: chain and key apart, and a mark of completion.
	V4 Layout = "v4"
)

// Entry is one certificate in one store, as the settings want it.
type Entry struct {
	Certificate string // key of its versions
	URL         string // for .luma
	Store       string // absolute path
	Vault, Name string // spelled as in the URL
	// Linked entries own the default links; an entry that is pinned to a
	// version beside one that is not leaves them to the other.
	Linked bool
	Links  []string // custom link names
	Grants Grants
	// Retired entries are those that the settings have no more and that are
	// shown for a while yet. A name that another entry has is that one's alone,
	// with its grants.
	Retired bool
}

func (e *Entry) base() string { return e.Vault + "." + e.Name }

// Name of a thing that one entry shows.
type Name struct {
	Name   string
	Kind   Kind
	Target string // of a link, if it is known
}

// Names that an entry will have, as far as they are known before its certificate
// is: its links, its mark of completion and, if the version is known, the combined
// file. The other files have the time of creation in their names.
func (e *Entry) Names(layouts []Layout, version certs.Version) (names []Name) {
	if slices.Contains(layouts, V3) {
		target := ""
		if version != "" {
			target = e.base() + "." + string(version)
			names = append(names, Name{target, File, ""})
		}
		if e.Linked {
			names = append(names, Name{e.base(), Link, target})
		}
		for _, l := range e.Links {
			names = append(names, Name{l, Link, target})
		}
	}
	if slices.Contains(layouts, V4) && e.Linked {
		names = append(names, Name{e.base() + ".pem", Link, ""}, Name{e.base() + ".keyid", Link, ""}, Name{e.base() + ".luma", File, ""})
	}
	return names
}

// shown makes the nodes of an entry: the files of every version, newest first,
// and the names that stand for the newest.
func (e *Entry) shown(dir *Node, layouts []Layout, versions []*Version) (nodes []*Node) {
	for i, v := range versions {
		if slices.Contains(layouts, V3) {
			nodes = append(nodes, e.showV3(dir, v, i == 0)...)
		}
		if slices.Contains(layouts, V4) {
			nodes = append(nodes, e.showV4(dir, v, i == 0)...)
		}
	}
	return nodes
}

func (e *Entry) showV3(dir *Node, v *Version, newest bool) []*Node {
	file := e.file(dir, fmt.Sprintf("%s.%s", e.base(), v.ID), v.combined, v)
	nodes := []*Node{file}
	if !newest {
		return nodes
	}
	if e.Linked {
		nodes = append(nodes, newLink(dir, e.base(), file.Name, v.Published))
	}
	for _, l := range e.Links {
		nodes = append(nodes, newLink(dir, l, file.Name, v.Published))
	}
	return nodes
}

func (e *Entry) showV4(dir *Node, v *Version, newest bool) []*Node {
	chain := e.file(dir, fmt.Sprintf("%s.%s.pem.%d", e.base(), v.ID, v.Created.Unix()), v.chain, v)
	key := e.file(dir, fmt.Sprintf("%s.%s.keyid.%d", e.base(), v.ID, v.Created.Unix()), v.key, v)
	nodes := []*Node{chain, key}
	if newest && e.Linked {
		luma := newFile(dir, e.base()+".luma", newContent(e.luma(v)), v.Published)
		luma.Public = true
		nodes = append(nodes,
			newLink(dir, e.base()+".pem", chain.Name, v.Published),
			newLink(dir, e.base()+".keyid", key.Name, v.Published),
			luma)
	}
	return nodes
}

func (e *Entry) file(dir *Node, name string, c content, v *Version) *Node {
	n := newFile(dir, name, c, v.Created)
	n.ACL = e.Grants
	return n
}

// luma is the mark of completion: it changes after all links of a renewal have
// moved. The extension's own content is not documented; this is ours.
func (e *Entry) luma(v *Version) []byte {
	b, err := json.Marshal(struct {
		URL       string    `json:"url"`
		Version   string    `json:"version"`
		NotBefore time.Time `json:"notBefore"`
		NotAfter  time.Time `json:"notAfter"`
		Published time.Time `json:"published"`
	}{e.URL, string(v.ID), v.NotBefore.UTC(), v.NotAfter.UTC(), v.Published.UTC()})
	if err != nil {
		panic(err) // strings and times between years 0 and 9999 cannot fail
	}
	return append(b, '\n')
}
