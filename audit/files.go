package audit

// files are what inode numbers mean.
type files struct {
	named map[uint64]*entry
	// former have lost their names. Who has looked one up before may open it after that.
	former map[uint64]*entry
	order  []uint64 // of former, oldest first
}

// entry is a file, and the members of its JSON.
type entry struct {
	File
	members []byte
}

// rememberedFormer bounds how many files without names are known.
const rememberedFormer = 16384

func newFiles() *files {
	return &files{named: map[uint64]*entry{}, former: map[uint64]*entry{}}
}

func (f *files) apply(t tally) {
	if t.Reset {
		was := f.named
		f.named = make(map[uint64]*entry, len(t.Files))
		defer func() {
			for id, e := range was {
				if f.named[id] == nil {
					f.retire(id, e)
				}
			}
		}()
	}
	for _, file := range t.Files {
		f.named[file.Inode] = newEntry(file)
	}
	for _, id := range t.Gone {
		if e := f.named[id]; e != nil {
			delete(f.named, id)
			f.retire(id, e)
		}
	}
}

func (f *files) retire(id uint64, e *entry) {
	if _, known := f.former[id]; known {
		f.former[id] = e
		return
	}
	if len(f.order) == rememberedFormer {
		delete(f.former, f.order[0])
		f.order = f.order[1:]
	}
	f.former[id] = e
	f.order = append(f.order, id)
}

func (f *files) of(id uint64) (*entry, bool) {
	if e, ok := f.named[id]; ok {
		return e, true
	}
	e, ok := f.former[id]
	return e, ok
}

func newEntry(f File) *entry {
	return &entry{f, members(struct {
		Path        string `json:"path"`
		Certificate string `json:"certificate,omitempty"`
		Version     string `json:"version,omitempty"`
		Key         bool   `json:"key"`
	}{f.Path, f.Certificate, f.Version, f.Key})}
}
