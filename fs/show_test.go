package fs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kvfs/tree"
)

// sites builds one certificate in each of several stores.
func sites(t *testing.T, stores ...string) *tree.Snapshot {
	t.Helper()
	var spec tree.Spec
	for _, store := range stores {
		spec.Entries = append(spec.Entries, tree.Entry{Certificate: "www", Store: store, Vault: "contoso-web", Name: "www", Linked: true, Views: tree.Views{Layouts: []tree.Layout{tree.V4}}})
	}
	s, err := tree.Build(spec, func(string) tree.Shown { return shown(newVersion(t, 1)) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// change leads a file system from its stores to others, as a daemon does.
func change(t *testing.T, f *FS, to ...string) {
	t.Helper()
	var stay []string
	for _, at := range f.Mounts() {
		if slices.Contains(to, at) {
			stay = append(stay, at)
		}
	}
	if err := f.Show(stay); err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(t.Context(), sites(t, to...)); err != nil {
		t.Fatal(err)
	}
	if err := f.Show(to); err != nil {
		t.Fatal(err)
	}
}

// mountID tells one mount from another at the same path.
func mountID(t *testing.T, at string) uint64 {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, at, 0, unix.STATX_MNT_ID, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mnt_id
}

const mark = "contoso-web.www.luma"

func TestStoresComeAndGoWhileOthersStay(t *testing.T) {
	f, a := mounted(t, func(store string) *tree.Snapshot { return sites(t, store) })
	b := filepath.Join(filepath.Dir(a), "b")
	if err := Prepare(b); err != nil {
		t.Fatal(err)
	}
	mount := mountID(t, a)
	change(t, f, b, a)
	for _, store := range []string{a, b} {
		if _, err := os.Stat(filepath.Join(store, mark)); err != nil {
			t.Error(err)
		}
	}
	if mountID(t, a) != mount {
		t.Error("the store that stays was mounted anew")
	}
	if err := os.WriteFile(filepath.Join(b, "x"), nil, 0o600); err == nil {
		t.Error("a store that came later is writable")
	}
	change(t, f, a)
	if Visible(b) || mountID(t, a) != mount || !slices.Equal(f.Mounts(), []string{a}) {
		t.Errorf("mounted at %v", f.Mounts())
	}
	if entries, err := os.ReadDir(b); err != nil || len(entries) != 0 {
		t.Errorf("%v %v", entries, err)
	}
}

func TestStoreInsideAStore(t *testing.T) {
	f, outer := mounted(t, func(store string) *tree.Snapshot { return sites(t, store, store+"/in/deep") })
	inner := filepath.Join(outer, "in", "deep")
	if err := f.Show([]string{inner, outer}); err != nil { // what was published makes room for it
		t.Fatal(err)
	}
	for _, store := range []string{outer, inner} {
		if _, err := os.Stat(filepath.Join(store, mark)); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, filepath.Dir(inner)); !slices.Equal(got, []string{"deep"}) {
		t.Errorf("between the stores there is %v", got)
	}
	mount := mountID(t, inner)
	change(t, f, outer, inner, outer+"/beside")
	change(t, f, outer, inner)
	if mountID(t, inner) != mount {
		t.Error("the inner store was mounted anew")
	}
	if _, err := os.Stat(filepath.Join(outer, "beside")); err == nil {
		t.Error("the place of a store that is gone is left behind")
	}
	change(t, f, outer)
	if got := names(t, outer); slices.Contains(got, "in") || Visible(inner) {
		t.Errorf("the place of the inner store is left behind: %v", got)
	}
	change(t, f, outer, inner)
}
