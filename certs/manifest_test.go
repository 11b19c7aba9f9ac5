package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The bundles of public test suites, with what openssl finds in them. They are not
// part of the product; this test runs where they are.
const worldBundles = "../../shared/testdata/bundles"

type worldBundle struct {
	ID, File, Tier string
	Expect         struct {
		Outcome, Error   string
		Policy           string
		KeyType          string     `json:"key_type"`
		KeySPKI          string     `json:"key_spki_sha256"`
		Chain            []string   `json:"chain_sha256"`
		AcceptableChains [][]string `json:"acceptable_chains"`
		Extra            []string   `json:"extra_sha256"`
		RootIncluded     bool       `json:"root_included"`
	}
}

func loadWorldBundles(t testing.TB) []worldBundle {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(worldBundles, "manifest.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the bundles of other test suites are not here: ", worldBundles)
	}
	if err != nil {
		t.Fatal(err)
	}
	var bundles []worldBundle
	if err := json.Unmarshal(data, &bundles); err != nil {
		t.Fatal(err)
	}
	return bundles
}

func TestBundlesOfTheWorldReadAsOpensslReadsThem(t *testing.T) {
	for _, w := range loadWorldBundles(t) {
		t.Run(w.ID, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(worldBundles, w.File))
			if err != nil {
				t.Fatal(err)
			}
			contentType, value, err := DecodeInput(data)
			if err != nil {
				t.Fatal(err)
			}
			b, err := Parse(contentType, value)
			if problem := w.disagrees(b, err); problem == "" {
				return
			} else if w.Tier == "must" || w.Tier == "should" {
				t.Error(problem)
			} else {
				t.Log(w.Tier+":", problem)
			}
		})
	}
}

// disagrees says how what was read differs from what is expected.
func (w worldBundle) disagrees(b *Bundle, err error) string {
	var e *Error
	errors.As(err, &e)
	switch {
	case w.Expect.Outcome == "error" && err == nil:
		return "was read; want the error " + w.Expect.Error
	case w.Expect.Outcome == "error":
		return w.wrongKind(e)
	case err != nil && e.Kind == Unsupported && w.Expect.Policy != "":
		return "" // may be refused by name
	case err != nil:
		return "was refused: " + err.Error()
	}
	return w.wrongBundle(b)
}

func (w worldBundle) wrongKind(e *Error) string {
	want := []string{w.Expect.Error}
	if w.Expect.Error == "password-or-corrupt" {
		want = []string{"password", "corrupt"}
	}
	if !slices.Contains(want, string(e.Kind)) {
		return "want " + w.Expect.Error + ", got " + string(e.Kind) + ": " + e.Error()
	}
	return ""
}

func (w worldBundle) wrongBundle(b *Bundle) string {
	spki := b.SPKI()
	chain := sums(b.Chain)
	chains := append([][]string{w.Expect.Chain}, w.Expect.AcceptableChains...)
	switch {
	case b.KeyType() != w.Expect.KeyType:
		return "key type " + b.KeyType() + ", want " + w.Expect.KeyType
	case hex.EncodeToString(spki[:]) != w.Expect.KeySPKI:
		return "another key"
	case !slices.ContainsFunc(chains, func(want []string) bool { return slices.Equal(want, chain) }):
		return "another chain"
	case b.Complete() != w.Expect.RootIncluded:
		return "wrong about the root"
	case len(w.Expect.AcceptableChains) == 0 && !slices.Equal(sums(b.Extra), w.Expect.Extra):
		return "other extra certificates"
	}
	return ""
}

func sums(certs []*x509.Certificate) []string {
	sums := []string{}
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	return sums
}
