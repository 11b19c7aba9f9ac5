package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// TestGeneratedCorpus makes values of every algorithm, encoding, order, shape of chain and
// kind of damage, and knows of each what must be read or why it must be refused. The keys
// are made once, since that takes longer than all the rest.
func TestGeneratedCorpus(t *testing.T) {
	leafKeys := testKeys(t)
	for _, size := range []int{3072, 4096} {
		leafKeys[fmt.Sprint("RSA-", size)] = must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, size))
	}
	cas := caKeys(t)
	t.Run("encodings", func(t *testing.T) { testEncodings(t, leafKeys) })
	t.Run("chains", func(t *testing.T) { testShapes(t, cas) })
	t.Run("damage", func(t *testing.T) { testDamage(t, leafKeys["RSA-2048"]) })
}

// sample is a value with what it must be read as.
type sample struct {
	value []byte
	chain []*x509.Certificate
	extra int
}

func (s sample) check(t *testing.T, contentType string) {
	t.Helper()
	b, err := Parse(contentType, s.value)
	if err != nil {
		t.Fatalf("was refused: %v", err)
	}
	checkInvariants(t, b)
	if !slices.EqualFunc(b.Chain, s.chain, (*x509.Certificate).Equal) || len(b.Extra) != s.extra {
		t.Errorf("chain %v, extra %v; want %v and %d", subjects(b.Chain), subjects(b.Extra), subjects(s.chain), s.extra)
	}
	last := s.chain[len(s.chain)-1]
	if root := bytes.Equal(last.RawSubject, last.RawIssuer); b.Complete() != root {
		t.Errorf("complete: %v", b.Complete())
	}
}

// testEncodings writes a bundle of each algorithm in every way, under content types that
// are right, wrong and absent.
func testEncodings(t *testing.T, keys map[string]crypto.Signer) {
	contentTypes := []string{"", contentTypePKCS12, contentTypePEM, "text/plain"}
	n := 0
	for kind, key := range keys {
		chain := newChain(t, 3, key)
		want := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
		for form, value := range encodings(t, chain) {
			t.Run(kind+" "+form, func(t *testing.T) {
				n++
				sample{value: value, chain: certsOf(chain...)}.check(t, contentTypes[n%len(contentTypes)])
				b := mustParse(t, value)
				if block, _ := pem.Decode(b.PEM().Key()); b.KeyType() != kind || !bytes.Equal(block.Bytes, want) {
					t.Errorf("key type %s, or another key", b.KeyType())
				}
			})
		}
	}
}

func encodings(t testing.TB, chain []*identity) map[string][]byte {
	t.Helper()
	forms := make(map[string][]byte)
	for name, value := range pfxForms(t, chain) {
		encoded := base64.StdEncoding.EncodeToString(value)
		forms["pfx "+name] = value
		forms["pfx "+name+" in base64"] = []byte(encoded)
	}
	for name, value := range pemForms(t, chain) {
		forms["pem "+name] = value
	}
	encoded := base64.StdEncoding.EncodeToString(forms["pfx 3des"])
	forms["pfx in wrapped base64"] = wrapped(encoded, 64, "\n")
	forms["pfx in base64 of mail"] = wrapped(encoded, 76, "\r\n")
	forms["pfx in base64 without padding"] = []byte(strings.TrimRight(encoded, "="))
	forms["pfx in base64 with a BOM"] = []byte("\ufeff" + encoded + "\r\n")
	forms["pem in base64"] = []byte(base64.StdEncoding.EncodeToString(forms["pem key first"]))
	return forms
}

func wrapped(text string, width int, end string) []byte {
	var out bytes.Buffer
	for line := range slices.Chunk([]byte(text), width) {
		out.Write(line)
		out.WriteString(end)
	}
	return out.Bytes()
}

func pfxForms(t testing.TB, chain []*identity) map[string][]byte {
	t.Helper()
	bmp := []byte{0, 0}
	forms := make(map[string][]byte)
	for name, enc := range encoders() {
		forms[name] = encodePFX(t, enc, chain, "")
		forms[name+", key first"] = makePFX(t, reversed(safesOf(t, forms[name]))...)
		forms[name+", no MAC"] = makePFX(t, safesOf(t, forms[name])...)
		forms[name+", SHA-1 MAC"] = makePFXWithMAC(t, safesOf(t, forms[name])...)
	}
	bags := certBags(t, chain)
	clear, sealed := makeBag(t, oidKeyBag, pkcs8Of(t, chain[0].key)), sealedKey(t, chain[0].key, bmp)
	forms["one part in the clear"] = makePFX(t, clearSafe(t, append(bags, clear)...))
	forms["one part, the key encrypted"] = makePFXWithMAC(t, clearSafe(t, append(bags, sealed)...))
	forms["one part, encrypted"] = makePFXWithMAC(t, sealedSafe(t, bmp, append(bags, clear)...))
	forms["one part, encrypted twice"] = makePFXWithMAC(t, sealedSafe(t, bmp, append(bags, sealed)...))
	forms["a part for each"] = makePFXWithMAC(t, clearSafe(t, sealed), sealedSafe(t, bmp, bags[2]), clearSafe(t, bags[0]), sealedSafe(t, bmp, bags[1]))
	forms["no bytes as the password"] = makePFX(t, clearSafe(t, sealedKey(t, chain[0].key, nil)), sealedSafe(t, nil, bags...))
	forms["nested"] = makePFX(t, clearSafe(t, makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal(append(slices.Clone(bags), sealed))))))
	forms["two keys"] = makePFXWithMAC(t, clearSafe(t, sealedKey(t, newP256(t), bmp), sealed), sealedSafe(t, bmp, bags...))
	forms["in BER"] = toBER(t, forms["3des"])
	return forms
}

func reversed(safes []contentInfo) []contentInfo {
	slices.Reverse(safes)
	return safes
}

func pemForms(t testing.TB, chain []*identity) map[string][]byte {
	t.Helper()
	key, certs := keyPEM(t, chain[0].key), certPEM(certsOf(chain...)...)
	backwards := slices.Clone(chain)
	slices.Reverse(backwards)
	old := bytes.ReplaceAll(certs, []byte("CERTIFICATE"), []byte("X509 CERTIFICATE"))
	b := &Bundle{Leaf: chain[0].cert, Chain: certsOf(chain...), key: hide(*must2(t)(parseKey(pkcs8Of(t, chain[0].key))))}
	trusted := []byte{}
	for _, id := range chain {
		trusted = append(trusted, block("TRUSTED CERTIFICATE", join(id.cert.Raw, []byte{0x30, 0}))...)
	}
	forms := map[string][]byte{
		"key first":        join(key, certs),
		"key last":         join(certs, key),
		"key in between":   join(certPEM(chain[2].cert), key, certPEM(chain[0].cert, chain[1].cert)),
		"root first":       join(certPEM(certsOf(backwards...)...), key),
		"traditional key":  b.PEMAs(Traditional).Combined(),
		"old label":        join(old, key),
		"trusted label":    join(key, trusted),
		"twice":            join(certs, key, certs, key),
		"with a request":   join(key, block("NEW CERTIFICATE REQUEST", []byte{0x30, 0}), certs, block("PUBLIC KEY", []byte{0x30, 0})),
		"with parameters":  join(block("EC PARAMETERS", []byte{6, 1, 1}), key, certs),
		"with another key": join(keyPEM(t, newP256(t)), certs, key),
		"with a CRL":       join(key, certs, block("X509 CRL", []byte{0x30, 0})),
		"with text":        join([]byte("Bag Attributes\n  friendlyName: x\nKey Attributes: <No Attributes>\n"), key, []byte("subject=CN=x\n\n"), certs, []byte("the end")),
	}
	for name, change := range map[string]func([]byte) []byte{
		"of Windows":       func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) },
		"with a BOM":       func(b []byte) []byte { return append([]byte("\ufeff"), b...) },
		"without an end":   bytes.TrimSpace,
		"with blank lines": func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("-----\n"), []byte("-----\n\n")) },
	} {
		forms[name] = change(forms["key first"])
	}
	return forms
}

func must2(t testing.TB) func(*privateKey, *Error) *privateKey {
	return func(k *privateKey, err *Error) *privateKey {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
}

// caKeys are enough keys of each algorithm for a chain and a few others.
func caKeys(t testing.TB) map[string][]crypto.Signer {
	t.Helper()
	const each = 6
	keys := make(map[string][]crypto.Signer)
	for range each {
		keys["RSA-2048"] = append(keys["RSA-2048"], must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)))
		keys["EC-P-256"] = append(keys["EC-P-256"], newP256(t))
		keys["EC-P-384"] = append(keys["EC-P-384"], must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)))
		keys["EC-P-521"] = append(keys["EC-P-521"], must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)))
		keys["Ed25519"] = append(keys["Ed25519"], newEd25519(t))
	}
	keys["mixed"] = []crypto.Signer{keys["RSA-2048"][0], keys["EC-P-384"][1], keys["Ed25519"][2], keys["EC-P-256"][3], keys["EC-P-521"][4], keys["RSA-2048"][5]}
	return keys
}

// shape is a set of certificates with the chain that must be found in it.
type shape struct{ all, chain []*identity }

// shapes are made of a chain of the given depth. keys[5] is for another CA.
func shapes(t testing.TB, keys []crypto.Signer, depth int) map[string]shape {
	t.Helper()
	chain := make([]*identity, depth)
	var parent *identity
	for i := depth - 1; i > 0; i-- {
		parent = issue(t, parent, fmt.Sprint("ca", i), keys[i])
		chain[i] = parent
	}
	chain[0] = issue(t, parent, "leaf", keys[0], asLeaf)
	stranger := issue(t, nil, "stranger", keys[5])
	all := map[string]shape{
		"plain":     {chain, chain},
		"twice":     {slices.Concat(chain, chain), chain},
		"strangers": {append([]*identity{stranger, issue(t, stranger, "client", newP256(t), asLeaf)}, chain...), chain},
	}
	if depth == 1 {
		return all
	}
	root, below := chain[depth-1], chain[:depth-1]
	all["no root"] = shape{below, below}
	all["a root alone is missing, strangers"] = shape{append([]*identity{stranger}, below...), below}
	if depth > 2 {
		all["a gap"] = shape{append([]*identity{chain[0]}, chain[2:]...), chain[:1]}
	}
	impostors := slices.Clone(chain)
	for _, ca := range chain[1:] { // of the same name and key id, and newer
		impostors = append(impostors, issue(t, stranger, ca.cert.Subject.CommonName, keys[5], from(2027),
			func(c *x509.Certificate) { c.SubjectKeyId = ca.cert.SubjectKeyId }))
	}
	all["impostors"] = shape{impostors, chain}
	all["impostors, no root"] = shape{slices.DeleteFunc(slices.Clone(impostors), func(id *identity) bool { return id == root }), below}

	oldRoot := issue(t, nil, "old root", keys[5])
	cross := issue(t, oldRoot, root.cert.Subject.CommonName, root.key)
	crossed := append(slices.Clone(below), cross)
	all["cross-signed"] = shape{append(slices.Clone(chain), cross, oldRoot), append(slices.Clone(crossed), oldRoot)}
	all["cross-signed, the old root missing"] = shape{append(slices.Clone(chain), cross), chain}
	all["cross-signed, both roots missing"] = shape{crossed, crossed}

	back := issue(t, root, "old root", keys[5])
	loop := append(slices.Clone(crossed), back)
	all["a loop"] = shape{loop, loop}
	all["a loop beside a root"] = shape{append(slices.Clone(loop), root), chain}
	return all
}

func testShapes(t *testing.T, keys map[string][]crypto.Signer) {
	random := mathrand.New(mathrand.NewPCG(3, 4))
	for kind := range keys {
		for depth := 1; depth <= 5; depth++ {
			if depth%2 == 0 && kind != "EC-P-256" && kind != "mixed" {
				continue // slow algorithms, and nothing that the others do not show
			}
			for name, s := range shapes(t, keys[kind], depth) {
				t.Run(fmt.Sprintf("%s, depth %d, %s", kind, depth, name), func(t *testing.T) {
					others := len(distinct(certsOf(s.all...))) - len(s.chain)
					key := s.chain[0].key
					ids := slices.Clone(s.all)
					shuffle := func() { random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] }) }
					shuffle()
					text := join(certPEM(certsOf(ids...)...), keyPEM(t, key))
					shuffle()
					pfx := makePFX(t, clearSafe(t, append(certBags(t, ids), makeBag(t, oidKeyBag, pkcs8Of(t, key)))...))
					for _, value := range [][]byte{text, pfx} {
						sample{value, certsOf(s.chain...), others}.check(t, "")
					}
				})
			}
		}
	}
}

// testDamage damages a good value in every way that is known, and in many that are not.
func testDamage(t *testing.T, key crypto.Signer) {
	chain := newChain(t, 3, key)
	text, certs := keyPEM(t, key), certPEM(certsOf(chain...)...)
	good := join(text, certs)
	replaceLast := func(from, to string) []byte {
		at := bytes.LastIndex(good, []byte(from))
		return join(good[:at], []byte(to), good[at+len(from):])
	}
	der := func(label string) []byte { return join(good, block(label, []byte("no DER"))) }
	for name, tt := range map[string]struct {
		value []byte
		kind  Kind
	}{
		"nothing":                       {nil, NotACertificate},
		"spaces":                        {[]byte(" \r\n"), NotACertificate},
		"text":                          {[]byte("hunter2"), NotACertificate},
		"UTF-16":                        {[]byte("\xff\xfe-\x00-\x00-\x00"), Corrupt},
		"only a BOM":                    {[]byte("\ufeff"), NotACertificate},
		"no end of the last block":      {replaceLast("-----END CERTIFICATE-----\n", ""), Corrupt},
		"no end of the first block":     {bytes.Replace(good, []byte("-----END PRIVATE KEY-----\n"), nil, 1), Corrupt},
		"another end":                   {replaceLast("END CERTIFICATE", "END X"), Corrupt},
		"no dashes at the beginning":    {replaceLast("BEGIN CERTIFICATE-----", "BEGIN CERTIFICATE"), Corrupt},
		"no label":                      {replaceLast("-----BEGIN CERTIFICATE-----", "-----BEGIN"), Corrupt},
		"indented":                      {bytes.ReplaceAll(good, []byte("-----BEGIN"), []byte("  -----BEGIN")), Corrupt},
		"glued":                         {bytes.ReplaceAll(good, []byte("-----\n-----"), []byte("----------")), Corrupt},
		"one line":                      {bytes.ReplaceAll(good, []byte("\n"), nil), Corrupt},
		"spaces for line breaks":        {bytes.ReplaceAll(good, []byte("\n"), []byte(" ")), Corrupt},
		"escaped line breaks":           {bytes.ReplaceAll(good, []byte("\n"), []byte(`\n`)), Corrupt},
		"carriage returns":              {bytes.ReplaceAll(good, []byte("\n"), []byte("\r")), Corrupt},
		"zeros between blocks":          {bytes.ReplaceAll(good, []byte("\n-----BEGIN"), []byte("\n\x00-----BEGIN")), Corrupt},
		"a digit that is none":          {replaceLast("M", "!"), Corrupt},
		"a certificate that is no DER":  {der("CERTIFICATE"), Corrupt},
		"an empty certificate":          {join(good, []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")), Corrupt},
		"a key that is no DER":          {der("PRIVATE KEY"), Corrupt},
		"a certificate and a byte":      {join(text, block("CERTIFICATE", append(slices.Clone(chain[0].cert.Raw), 0))), Corrupt},
		"a certificate cut short":       {join(text, block("CERTIFICATE", chain[0].cert.Raw[:200])), Corrupt},
		"the key encrypted":             {join(block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), certs), Password},
		"the key encrypted, old form":   {join([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), certs), Password},
		"a key of DSA":                  {join(block("DSA PRIVATE KEY", []byte{0x30, 0}), certs), Unsupported},
		"the key alone":                 {text, NoCertificate},
		"the certificates alone":        {certs, NoPrivateKey},
		"no block of use":               {block("PUBLIC KEY", []byte{0x30, 0}), NoCertificate},
		"another key":                   {join(keyPEM(t, newP256(t)), certs), KeyMismatch},
		"the issuers with the key":      {join(text, certPEM(certsOf(chain[1:]...)...)), KeyMismatch},
		"the key in DER":                {pkcs8Of(t, key), NoCertificate},
		"the leaf in DER":               {chain[0].cert.Raw, NoPrivateKey},
		"a sequence":                    {append([]byte{0x30, 0x82, 0, 5}, "hello"...), Corrupt},
		"base64 of a PFX with a hole":   {[]byte("MIIB!" + strings.Repeat("A", 400)), Corrupt},
		"a PFX that is not for persons": {must[[]byte](t)(asn1.Marshal(pfxPDU{Version: 4, AuthSafe: dataInfo(t, nil)})), Corrupt},
	} {
		t.Run(name, func(t *testing.T) { mustRefuse(t, tt.value, tt.kind) })
	}
	t.Run("PEM cut short", func(t *testing.T) { testCutPEM(t, good) })
	for name, enc := range encoders() {
		value := encodePFX(t, enc.WithIterations(1), chain, "")
		t.Run(name+" cut short", func(t *testing.T) { testCutPFX(t, value) })
		t.Run(name+" with a password", func(t *testing.T) {
			if name != "clear" {
				mustRefuse(t, encodePFX(t, enc.WithIterations(1), chain, "x"), Password)
			}
		})
		t.Run(name+" with flipped bits", func(t *testing.T) { testFlipped(t, value, name != "clear") })
	}
	t.Run("PEM with flipped bits", func(t *testing.T) { testFlipped(t, good, false) })
}

// testCutPEM cuts inside of blocks, where it shows. Between them it cannot.
func testCutPEM(t *testing.T, good []byte) {
	for cut := len(pemBegin); cut < len(good); cut += 7 {
		begun := bytes.LastIndex(good[:cut], []byte(pemBegin))
		ended := bytes.LastIndex(good[:cut], []byte("-----END"))
		inside := ended < begun || cut < ended+len("-----END CERTIFICATE-----")
		if inside && !bytes.HasSuffix(good[:cut], []byte("KEY-----")) {
			mustRefuse(t, good[:cut], Corrupt)
		}
	}
}

func testCutPFX(t *testing.T, value []byte) {
	for cut := 5; cut < len(value); cut += 11 {
		mustRefuse(t, value[:cut], Corrupt)
		encoded := base64.StdEncoding.EncodeToString(value)
		if half := encoded[:cut]; cut > 8 {
			mustRefuse(t, []byte(half), Corrupt)
		}
	}
}

// testFlipped flips bits one by one. What is authenticated is then refused, or was beside
// the point; what is not, is read with all certificates or refused.
func testFlipped(t *testing.T, value []byte, authentic bool) {
	want := mustParse(t, value)
	total := len(want.Chain)
	for i := 0; i < len(value); i += 5 {
		damaged := bytes.Clone(value)
		damaged[i] ^= 1 << (i % 8)
		b, err := Parse("", damaged)
		if e, ok := err.(*Error); err != nil && (!ok || !known(e.Kind) || e.Fact == decoderGaveUp) {
			t.Fatalf("byte %d: %T %v", i, err, err)
		}
		if err != nil {
			continue
		}
		checkInvariants(t, b)
		switch n := len(b.Chain) + len(b.Extra); {
		case authentic && !bytes.Equal(b.PEM().Combined(), want.PEM().Combined()):
			t.Errorf("byte %d: another bundle in spite of the MAC", i)
		case n < total && len(b.Warnings) == 0:
			t.Errorf("byte %d: %d certificates of %d, without a word", i, n, total)
		}
	}
}

// The corpus of the encodings is also that of the fuzz targets.
func corpusSeeds(f *testing.F) [][]byte {
	f.Helper()
	var seeds [][]byte
	for _, key := range []crypto.Signer{newP256(f), newEd25519(f)} {
		chain := newChain(f, 3, key)
		for _, value := range pemForms(f, chain) {
			seeds = append(seeds, value)
		}
		for _, enc := range encoders() {
			seeds = append(seeds, encodePFX(f, enc.WithIterations(1), chain, ""))
		}
		seeds = append(seeds, encodePFX(f, pkcs12.LegacyRC2.WithIterations(1), chain, "x"), certPEM(certsOf(chain...)...))
	}
	return seeds
}
