package test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rogpeppe/go-internal/testscript"
	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// TestScripts runs testdata/script: kvfs as a person at a terminal meets it. Each
// script has a directory $WORK and a control socket $SOCKET of its own. Besides
// the commands of testscript there are those of scriptCommands; the condition
// [mounts] holds where root can mount.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(kvfsPath)+":"+env.Getenv("PATH"))
			env.Setenv("SOCKET", filepath.Join(env.WorkDir, "kvfs.sock"))
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Cmds:                scriptCommands,
		Condition:           scriptCondition,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
	})
}

func scriptCondition(name string) (bool, error) {
	if name != "mounts" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	_, err := os.Stat("/dev/fuse")
	return err == nil && os.Geteuid() == 0, nil
}

var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits":   scriptExits,
	"await":   scriptAwait,
	"jsonenv": scriptJSONEnv,
	"post":    scriptPost,
	"put":     scriptPut,
	"delete":  scriptDelete,
	"bundles": scriptBundles,
}

// scriptArgs ends the script unless a command has its arguments.
func scriptArgs(ts *testscript.TestScript, neg, ok bool, usage string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// scriptExits runs a program that has to end with an exit code.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) >= 2, "exits CODE PROGRAM [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// scriptAwait waits until a file, which need not exist yet, contains a text. It
// looks again at each event of the file's directory; the bound says only that
// the text never came.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 2, "await FILE TEXT")
	file := ts.MkAbs(args[0])
	w, err := fsnotify.NewWatcher()
	ts.Check(err)
	defer w.Close()
	ts.Check(w.Add(filepath.Dir(file)))
	late := time.After(time.Minute)
	for {
		text, err := os.ReadFile(file)
		if strings.Contains(string(text), args[1]) {
			return
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			ts.Check(err)
		case <-late:
			ts.Fatalf("%s never said %q: %v\n%s", args[0], args[1], err, text)
		}
	}
}

// scriptJSONEnv sets a variable to the value of a key of a JSON object in a file.
func scriptJSONEnv(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 3, "jsonenv VARIABLE FILE KEY")
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &object))
	value, ok := object[args[2]].(string)
	if !ok {
		ts.Fatalf("%s has no text %q", args[1], args[2])
	}
	ts.Setenv(args[0], value)
}

// scriptPost sends an empty POST, which has to succeed.
func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 1, "post URL")
	scriptAsk(ts, http.MethodPost, args[0], "")
}

// scriptPut sends a body.
func scriptPut(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 2, "put URL BODY")
	scriptAsk(ts, http.MethodPut, args[0], args[1])
}

// scriptDelete deletes what an URL names.
func scriptDelete(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 1, "delete URL")
	scriptAsk(ts, http.MethodDelete, args[0], "")
}

// scriptAsk sends a request, which has to succeed.
func scriptAsk(ts *testscript.TestScript, method, url, body string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	ts.Check(err)
	r, err := http.DefaultClient.Do(req)
	ts.Check(err)
	r.Body.Close()
	if r.StatusCode/100 != 2 {
		ts.Fatalf("%s: %s", url, r.Status)
	}
}

// scriptBundles writes one leaf with its root and its key in all the forms that
// people have: www.pem in the wrong order, www.pfx, locked.pfx with a password,
// www.json as Key Vault answers, nokey.pem. $LEAF and $SPKI are the digests that
// kvfs shows, $EXPIRY is the leaf's end.
func scriptBundles(ts *testscript.TestScript, neg bool, args []string) {
	scriptArgs(ts, neg, len(args) == 0, "bundles")
	start := time.Now().Add(-time.Hour)
	rootKey, root := scriptCertificate(ts, &x509.Certificate{Subject: pkix.Name{CommonName: "Contoso root"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: start, NotAfter: start.AddDate(10, 0, 0)}, nil, nil)
	key, leaf := scriptCertificate(ts, &x509.Certificate{Subject: pkix.Name{CommonName: "www.contoso.example"},
		DNSNames: []string{"www.contoso.example", "contoso.example"}, NotBefore: start, NotAfter: start.AddDate(1, 0, 0)}, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	write := func(name string, parts ...[]byte) {
		var text []byte
		for _, p := range parts {
			text = append(text, p...)
		}
		ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o600))
	}
	write("www.pem", block("PRIVATE KEY", der), block("CERTIFICATE", root.Raw), block("CERTIFICATE", leaf.Raw))
	write("nokey.pem", block("CERTIFICATE", leaf.Raw))
	pfx, err := pkcs12.Modern.Encode(key, leaf, []*x509.Certificate{root}, "")
	ts.Check(err)
	write("www.pfx", pfx)
	answer, err := json.Marshal(map[string]string{"contentType": "application/x-pkcs12", "value": base64.StdEncoding.EncodeToString(pfx)})
	ts.Check(err)
	write("www.json", answer)
	pfx, err = pkcs12.Modern.Encode(key, leaf, nil, "secret")
	ts.Check(err)
	write("locked.pfx", pfx)

	digest := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	ts.Setenv("LEAF", digest(leaf.Raw))
	ts.Setenv("ROOT", digest(root.Raw))
	ts.Setenv("SPKI", digest(leaf.RawSubjectPublicKeyInfo))
	ts.Setenv("EXPIRY", leaf.NotAfter.Format(time.RFC3339))
}

// scriptCertificate makes a certificate with a new key; a nil parent signs itself.
func scriptCertificate(ts *testscript.TestScript, template, parent *x509.Certificate, signer crypto.Signer) (crypto.Signer, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	ts.Check(err)
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	ts.Check(err)
	cert, err := x509.ParseCertificate(der)
	ts.Check(err)
	return key, cert
}
