package test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"kvfs/emulator"
)

// Of a vault with many certificates only those are read that have changed; where the
// permission to list is lacking each is read, and nobody notices but the vault.
func TestListingFindsWhatHasChanged(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const certificates = 60
	s := newSiteOf(t, emulator.Options{DensePages: true})
	profiles := make([]emulator.Profile, certificates)
	for i := range profiles {
		profiles[i] = emulator.Profile{Name: fmt.Sprint("c", i), Key: emulator.EC256}
	}
	if err := s.vault.AddCertificates(profiles...); err != nil {
		t.Fatal(err)
	}
	s.configure(nil)
	s.mount()
	quiet := func() bool { // a read has to come some seconds after a change to stand for later ones
		before := s.vault.Counters()
		s.until("the vault is listed twice", func() bool { return s.vault.Counters().List >= before.List+6 })
		return s.vault.Counters().Secrets == before.Secrets
	}
	s.until("nothing is read that has not changed", quiet)
	if v := s.report().Vaults[0]; v.Listing != "used" || v.Pages != 3 {
		t.Errorf("%+v", v)
	}
	version, err := s.vault.Rotate("", "c42")
	if err != nil {
		t.Fatal(err)
	}
	follows := func() bool {
		target, err := os.Readlink(s.path("contoso-web.c42"))
		return err == nil && strings.HasSuffix(target, version)
	}
	before := s.vault.Counters().Secrets
	s.until("the renewal is found", follows)
	if n := s.vault.Counters().Secrets - before; n > 10 {
		t.Errorf("%d reads for one renewal", n)
	}
	s.until("all is quiet again", quiet)

	s.vault.SetFault(emulator.Fault{Kind: emulator.ListRefused})
	s.until("the status says that listing is refused", func() bool { return s.report().Vaults[0].Listing == "refused" })
	if r := s.report(); r.State != "ready" {
		t.Errorf("%s: %+v", r.State, r.Error)
	}
	if version, err = s.vault.Rotate("", "c42"); err != nil {
		t.Fatal(err)
	}
	s.until("the next renewal is found", follows)
	if out := s.must("status"); !strings.Contains(out, "refused") {
		t.Errorf("kvfs status says nothing of it:\n%s", out)
	}
}
