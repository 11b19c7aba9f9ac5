package main

import (
	"strings"
	"testing"

	"kvfs/config"
)

func storesWith(files map[string]string) wanted {
	cfg := &config.Config{}
	for store, f := range files {
		cfg.Certificates = append(cfg.Certificates, config.Certificate{Store: store, Persistent: config.Persistent{Files: f}})
	}
	return wanted{cfg: cfg}
}

// A system directory of certificates has real files unless the settings say no; no other one has them by itself.
func TestSystemDirectoriesThatHaveFiles(t *testing.T) {
	for store, want := range map[string]string{"/etc/ssl/certs": filesInstead, "/usr/local/share/ca-certificates": filesInstead,
		"/usr/bin": filesNo, "/etc": filesNo, "/etc/tls/kv": filesNo} {
		if got := storesWith(map[string]string{store: ""}).persistent(store).Files; got != want {
			t.Errorf("%s has files %q, want %q", store, got, want)
		}
	}
	w := storesWith(map[string]string{"/etc/ssl/certs": filesNo})
	if w.persistent("/etc/ssl/certs").Files != filesNo || len(w.real()) > 0 || len(w.stores(nil)) != 1 {
		t.Error("no is not no")
	}
}

// Real files are refused where they cannot be had.
func TestWherePersistentCannotBe(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		unit  string
		want  string // a part of the fact; "" if it is fine
	}{
		{map[string]string{"/a": filesInstead, "/b": filesBeneath, "/c": ""}, "", ""},
		{map[string]string{"/a": filesInstead, "/a/b": filesInstead}, "", ""},
		{map[string]string{"/a": filesNo, "/a/b": ""}, "kvfs.service", ""},
		{map[string]string{"/a": filesBeneath, "/a/b": ""}, "", "lie inside one another"},
		{map[string]string{"/a": "", "/a/b": filesInstead}, "", "lie inside one another"},
		{map[string]string{"/a": filesBeneath, "/a/b": filesBeneath}, "", "lie inside one another"},
		{map[string]string{"/a": filesInstead, "/a/b": filesBeneath}, "", "lie inside one another"},
		{map[string]string{"/a": filesBeneath}, "kvfs.service", "no right to write"},
		{map[string]string{"/etc/ssl/certs": ""}, "kvfs.service", "no right to write"},
	} {
		err := storesWith(c.files).checkPersistent(c.unit)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.files, err, c.want)
		}
	}
}
