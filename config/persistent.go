package config

// Persistent says whether the files of a store are also on a file system, and how. All Certificates of a store have the same,
// unless their stores are two paths of one directory.
type Persistent struct {
	// Files are "no", which the settings have said; "" for what they have not, which is the same where a mount is possible;
	// "beneath" the mount; or real files "instead" of a mount.
	Files string
	// TmpfsOnly refuses a file system that is not in memory.
	TmpfsOnly bool
	// KeepFiles leaves the files of versions that are not shown any more (purge: false).
	KeepFiles bool
}

// persistent reads what a block says of the files of its stores. What it leaves out stays as it is.
func (o *object) persistent(p *Persistent) {
	const name = "persistent"
	n := o.get(name)
	switch {
	case n == nil:
	case n.kind == kindString:
		if w, ok := o.oneOf(n, o.join(name), "mode", wordsOf[persistence]()...); ok {
			p.Files = w
		}
	case n.kind == kindObject:
		o.persistentFields(n, o.join(name), p)
	default:
		o.mismatch(n, o.join(name), "a known mode, or an object", "known are "+enumerate(wordsOf[persistence]()))
	}
}

func (o *object) persistentFields(n *node, path string, p *Persistent) {
	f := o.object(n, path, fieldsOf[persistentFields](o.report))
	defer f.doneStrictly()
	if w, ok := oneWordOf[persistence](f, "files", "mode"); ok {
		p.Files = w
	}
	if n := f.get("tmpfsOnly"); n != nil {
		if v, ok := f.boolean(n, f.join("tmpfsOnly")); ok {
			p.TmpfsOnly = v
		}
	}
	if n := f.get("purge"); n != nil {
		if v, ok := f.boolean(n, f.join("purge")); ok {
			p.KeepFiles = !v
		}
	}
}

// persistent returns what is said of the files of a store, which is what is said of all unless the store has a block.
func (s *stores) persistent(store string, general Persistent) Persistent {
	i, ok := s.byPath[store]
	if !ok {
		return general
	}
	return s.list[i].Persistent
}
