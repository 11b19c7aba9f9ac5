package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kvfs/certs"
	"kvfs/config"
	"kvfs/disk"
	"kvfs/status"
	"kvfs/tree"
)

func selfSigned(t *testing.T) *certs.Bundle {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	bundle, err := certs.Parse("application/x-pem-file", text)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// Whatever the layouts are, haproxy gets the chain with its key, if there is any PEM file.
func TestHAProxyGetsChainAndKeyOfEveryLayout(t *testing.T) {
	bundle := selfSigned(t)
	for _, tt := range []struct {
		layouts  []string
		link     string
		unlinked bool
		found    bool
	}{
		{[]string{"v3"}, "", false, true}, {[]string{"v3"}, "site", true, true}, {[]string{"v4"}, "", false, true}, {[]string{"live"}, "", false, true},
		{[]string{"pfx"}, "", false, false}, {[]string{"certs"}, "", false, false}, {[]string{"v3"}, "", true, false},
	} {
		cfg, problems := config.FromURLs([]string{"https://contoso-web.vault.azure.net/secrets/www"}, "/etc/tls/kv")
		if cfg == nil {
			t.Fatal(problems)
		}
		c := cfg.Certificates[0]
		c.Views.Layouts, c.LinkName, c.Linked = tt.layouts, tt.link, !tt.unlinked
		v := tree.NewVersion("1", time.Now(), time.Now(), bundle, wanted{}.views().of(c)[0])
		s, err := tree.Build(tree.Spec{Entries: []tree.Entry{entry(c, wanted{}.views())}}, func(string) tree.Shown {
			return tree.Shown{Versions: []*tree.Version{v}, Current: v}
		})
		if err != nil {
			t.Fatal(err)
		}
		text := combinedFrom(s, c)
		if _, err := tls.X509KeyPair(text, text); (err == nil) != tt.found || !tt.found && text != nil {
			t.Errorf("%+v: %d bytes, %v", tt, len(text), err)
		}
		if tt.found && bytes.Count(text, []byte("-----BEGIN")) != 2 {
			t.Errorf("%+v: %d blocks", tt, bytes.Count(text, []byte("-----BEGIN")))
		}
	}
}

func TestHooksThatThereIsNoRightTo(t *testing.T) {
	for _, tt := range []struct {
		action config.Action
		unit   string
		want   string // a part of the fact; "" if it is fine
	}{
		{config.Action{Verb: "reload", Unit: "nginx.service"}, "kvfs.service", ""},
		{config.Action{Verb: "reload", Unit: "kvfs.service"}, "", ""},
		{config.Action{Verb: "reload", Unit: "kvfs.service"}, "kvfs.service", "unit of kvfs itself"},
		{config.Action{Signal: "HUP", Unit: "nginx.service"}, "kvfs.service", ""},
		{config.Action{Signal: "HUP", PIDFile: "/run/nginx.pid"}, "", ""},
		{config.Action{Signal: "HUP", PIDFile: "/run/nginx.pid"}, "kvfs.service", "no right to send signals"},
		{config.Action{HAProxy: "/run/haproxy/admin.sock"}, "kvfs.service", ""},
		{config.Action{Command: []string{"/bin/true"}}, "kvfs.service", ""},
		{config.Action{Command: []string{"/bin/true"}, User: "root"}, "kvfs.service", "as its own"},
		{config.Action{Verb: "reload", Unit: "nginx.service", Check: []string{"/bin/true"}, User: "root"}, "kvfs.service", "as its own"},
	} {
		w := wanted{cfg: &config.Config{Certificates: []config.Certificate{{Line: 7, OnChange: []config.Action{tt.action}}, {OnChange: []config.Action{tt.action}}}}}
		problems := w.checkHooks(tt.unit)
		switch {
		case tt.want == "" && len(problems) > 0:
			t.Errorf("%+v: %v", tt, problems)
		case tt.want != "" && (len(problems) != 1 || !strings.Contains(problems[0].Fact, tt.want) || problems[0].Line != 7 || problems[0].Hint == ""):
			t.Errorf("%+v: %v, want one problem in line 7", tt, problems)
		}
	}
}

// What is told of alerts is refused where it stands, as what is done after renewals is, and said once of both.
func TestAlertCommandsThatThereIsNoRightTo(t *testing.T) {
	command := config.Action{Command: []string{"/no/such/program", "secret"}, User: "root", Name: "the chat"}
	w := wanted{cfg: &config.Config{Alerts: config.Alerts{OnAlert: []config.AlertAction{{Action: config.Action{Command: []string{"/bin/true"}}, Line: 6}, {Action: command, Line: 7, Column: 5}, {Action: command, Line: 8}}}}}
	problems := w.checkHooks("kvfs.service")
	if len(problems) != 1 || problems[0].Line != 7 || problems[0].Column != 5 || problems[0].Severity != config.Error || !strings.Contains(problems[0].Fact, `the hook "the chat" is to be run as the user root`) || problems[0].Hint == "" {
		t.Errorf("%+v", problems)
	}
	problems = hookProblems(w)
	if len(problems) != 1 || problems[0].Line != 7 || problems[0].Severity != config.Warning || problems[0].Fact != "onAlert: /no/such/program is not a program on this machine" || problems[0].Hint == "" {
		t.Errorf("%+v", problems)
	}
}

// A link of real files in the place of a mount has not moved before they are written.
func TestFilesThatCouldNotBeWrittenAreLate(t *testing.T) {
	wrong := &status.Error{Kind: "disk"}
	ds := &disks{now: []status.Directory{{Path: "/a", Files: filesInstead, Error: wrong}, {Path: "/b", Files: filesInstead}, {Path: "/c", Files: filesBeneath, Error: wrong}}}
	for store, want := range map[string]bool{"/a": true, "/b": false, "/c": false, "/d": false} {
		if ds.late(store) != want {
			t.Errorf("%s is late: %t", store, !want)
		}
	}
}

// From the moment something is published the files are late, until they are written and hooks may look.
func TestFilesAreLateUntilTheyAreWritten(t *testing.T) {
	store := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ds := newDisks()
		ds.options = func(wanted, string) disk.Options { return disk.Options{} }
		var looks []bool
		ds.wrote = func() { looks = append(looks, ds.late(store)) }
		ds.all = []*storeDisk{{path: store, files: filesInstead}}
		ds.note(time.Time{})
		if ds.late(store) {
			t.Error("late before anything is published")
		}
		ds.apply(ctx, tree.Empty()) // waits in vain: nobody writes yet
		if !ds.late(store) {
			t.Error("not late, and nothing is written")
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ds.run(ctx)
		}()
		synctest.Wait()
		if r := ds.report(); ds.late(store) || !slices.Equal(looks, []bool{false}) {
			t.Errorf("when they are written: late %t, whoever looked saw %t; %+v", ds.late(store), looks, r)
		}
		stop()
		<-ended
	})
}
