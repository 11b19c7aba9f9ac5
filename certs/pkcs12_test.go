package certs

import (
	"bytes"
	"crypto/cipher"
	"crypto/des"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// seal encrypts content as the library does when it is given no other password than
// the form bmp: 3DES, keys derived with the given rounds.
func seal(t testing.TB, content, bmp []byte, rounds int64) (pkix.AlgorithmIdentifier, []byte) {
	t.Helper()
	algorithm := pbes1(t, rounds)
	salt := []byte("saltsalt")
	block := must[cipher.Block](t)(des.NewTripleDESCipher(deriveKey(1, bmp, salt, int(rounds), 24)))
	pad := 8 - len(content)%8
	out := append(bytes.Clone(content), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, deriveKey(2, bmp, salt, int(rounds), 8)).CryptBlocks(out, out)
	return algorithm, out
}

// sealedSafe is an encrypted part of a file.
func sealedSafe(t testing.TB, bmp []byte, bags ...safeBag) contentInfo {
	t.Helper()
	var data encryptedData
	algorithm, sealed := seal(t, must[[]byte](t)(asn1.Marshal(bags)), bmp, 2)
	data.Info.ContentType, data.Info.Algorithm = oidOf(t, oidData), algorithm
	data.Info.Content = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: sealed}
	return contentInfo{oidOf(t, oidEncryptedData), explicit0(must[[]byte](t)(asn1.Marshal(data)))}
}

func sealedKey(t testing.TB, key any, bmp []byte) safeBag {
	t.Helper()
	return sealedDER(t, pkcs8Of(t, key), bmp)
}

func sealedDER(t testing.TB, key, bmp []byte) safeBag {
	t.Helper()
	algorithm, sealed := seal(t, key, bmp, 2)
	return makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{algorithm, sealed})))
}

func certBags(t testing.TB, chain []*identity) []safeBag {
	t.Helper()
	bags := []safeBag{}
	for _, id := range chain {
		bags = append(bags, certBag(t, id.cert))
	}
	return bags
}

// What the library refuses is read bag by bag: for each of these it returns an error,
// or loses a certificate.
func TestFilesThatTheLibraryRefusesAreRead(t *testing.T) {
	bmp := []byte{0, 0}
	chain := newChain(t, 3, newP256(t))
	bags, key := certBags(t, chain), sealedKey(t, chain[0].key, bmp)
	second := newChain(t, 1, newP256(t))
	other := sealedKey(t, newP256(t), bmp)
	nested := makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal(bags[1:])))
	for name, file := range map[string]struct {
		value []byte
		lossy bool // the library reads it, and less than it holds
		pairs bool // the file has a second certificate with its key
	}{
		"two keys":              {value: makePFX(t, clearSafe(t, other, key), sealedSafe(t, bmp, bags...))},
		"two keys with a MAC":   {value: makePFXWithMAC(t, clearSafe(t, key, other), sealedSafe(t, bmp, bags...))},
		"two keys, both sealed": {value: makePFX(t, sealedSafe(t, bmp, append(slices.Clone(bags), other, key)...))},
		"three parts":           {value: makePFX(t, clearSafe(t, key), sealedSafe(t, bmp, bags[0]), sealedSafe(t, bmp, bags[1:]...))},
		"three parts, MAC":      {value: makePFXWithMAC(t, clearSafe(t, key), clearSafe(t, bags[0]), clearSafe(t, bags[1:]...))},
		"nested":                {value: makePFX(t, clearSafe(t, key, bags[0], nested)), lossy: true},
		"nested and sealed":     {value: makePFX(t, sealedSafe(t, bmp, key, bags[0], nested)), lossy: true},
		"no bytes as password":  {value: makePFX(t, clearSafe(t, sealedKey(t, chain[0].key, nil)), sealedSafe(t, nil, bags...))},
		"two pairs, 3DES":       {value: makePFX(t, append(safesOf(t, encodePFX(t, pkcs12.LegacyDES, second, "")), safesOf(t, encodePFX(t, pkcs12.LegacyDES, chain, ""))...)...), pairs: true},
		"two pairs, RC2":        {value: makePFX(t, append(safesOf(t, encodePFX(t, pkcs12.LegacyRC2, second, "")), safesOf(t, encodePFX(t, pkcs12.LegacyRC2, chain, ""))...)...), pairs: true},
		"two pairs, AES":        {value: makePFXWithMAC(t, append(safesOf(t, encodePFX(t, pkcs12.Modern2023, second, "")), safesOf(t, encodePFX(t, pkcs12.Modern2023, chain, ""))...)...), pairs: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, others, err := pkcs12.DecodeChain(file.value, "")
			if (err == nil) != file.lossy || file.lossy && len(others) == 2 {
				t.Fatalf("the library reads this file (%v): this is not the case to be tested", err)
			}
			b := mustParse(t, file.value)
			n := len(b.Chain) + len(b.Extra)
			switch {
			case file.pairs && n != 4, !file.pairs && n != 3:
				t.Errorf("chain %v, extra %v", subjects(b.Chain), subjects(b.Extra))
			case !file.pairs && !b.Leaf.Equal(chain[0].cert):
				t.Errorf("leaf %v", b.Leaf.Subject)
			}
		})
	}
}

func TestFilesWithoutTheirHalf(t *testing.T) {
	bmp := []byte{0, 0}
	chain := newChain(t, 2, newP256(t))
	bags, key := certBags(t, chain), sealedKey(t, chain[0].key, bmp)
	for name, tt := range map[string]struct {
		value []byte
		kind  Kind
	}{
		"not exportable":            {makePFXWithMAC(t, sealedSafe(t, bmp, bags...)), NoPrivateKey}, // as the service writes it
		"not exportable, no MAC":    {makePFX(t, sealedSafe(t, bmp, bags...)), NoPrivateKey},
		"certificates in the clear": {makePFX(t, clearSafe(t, bags...)), NoPrivateKey},
		"key alone":                 {makePFXWithMAC(t, clearSafe(t, key)), NoCertificate},
		"nothing":                   {makePFX(t, clearSafe(t)), NoCertificate},
		"no parts":                  {makePFX(t), NoCertificate},
		"crl":                       {makePFX(t, clearSafe(t, makeBag(t, oidCRLBag, []byte{0x30, 0}))), NoCertificate},
		"key of another":            {makePFX(t, clearSafe(t, append(bags, sealedKey(t, newP256(t), bmp))...)), KeyMismatch},
		"sealed with a password":    {makePFX(t, sealedSafe(t, []byte{0, 'x', 0, 0}, bags...), clearSafe(t, key)), Password},
		"key with another password": {makePFXWithMAC(t, clearSafe(t, append(bags, sealedKey(t, chain[0].key, []byte{0, 'x', 0, 0}))...)), Password},
		"pkcs7":                     {must[[]byte](t)(asn1.Marshal(contentInfo{oidOf(t, oidSignedData), explicit0(chain[0].cert.Raw)})), NoPrivateKey},
	} {
		t.Run(name, func(t *testing.T) {
			e := mustRefuse(t, tt.value, tt.kind)
			if tt.kind == NoPrivateKey && !strings.Contains(e.Hint, "exportable: false") {
				t.Errorf("hint %q", e.Hint)
			}
		})
	}
}

// A value of a few hundred bytes can ask for hours of work. Each of these would run into
// the test's own time limit if it were only begun.
func TestRoundsOfKeyDerivationAreBounded(t *testing.T) {
	const bomb = 1 << 31
	bmp := []byte{0, 0}
	chain := newChain(t, 1, newP256(t))
	bags, key := certBags(t, chain), sealedKey(t, chain[0].key, bmp)
	nested := func(bag safeBag) safeBag {
		return makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal([]safeBag{bag})))
	}
	many := slices.Repeat([]safeBag{shroudedBag(t, maxReading/9/10)}, 11)
	for name, value := range map[string][]byte{
		"key":                   makePFX(t, clearSafe(t, append(bags, shroudedBag(t, bomb))...)),
		"key, with a MAC":       makePFXWithMAC(t, clearSafe(t, append(bags, shroudedBag(t, bomb))...)),
		"beyond 64 bits":        makePFX(t, clearSafe(t, makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{hugeRounds(t), make([]byte, 8)}))))),
		"beyond it in sum":      makePFX(t, clearSafe(t, shroudedBag(t, math.MaxInt64), shroudedBag(t, math.MaxInt64), shroudedBag(t, 2))),
		"many keys":             makePFX(t, clearSafe(t, many...)),
		"nested key":            makePFX(t, clearSafe(t, nested(nested(shroudedBag(t, bomb))))),
		"key in a sealed part":  makePFX(t, sealedSafe(t, bmp, append(bags, shroudedBag(t, bomb))...)),
		"the same, no password": makePFXWithMAC(t, sealedSafe(t, bmp, append(bags, nested(shroudedBag(t, bomb)))...)),
		"behind a good key":     makePFXWithMAC(t, clearSafe(t, key), sealedSafe(t, bmp, append(bags, shroudedBag(t, bomb))...)),
		"sealed part":           makePFX(t, clearSafe(t, key), withRounds(t, sealedSafe(t, bmp, bags...), pbes1(t, bomb))),
		"sealed part, alone":    makePFXWithMAC(t, withRounds(t, sealedSafe(t, bmp, bags...), pbes1(t, bomb))),
		"sealed part, PBES2":    makePFX(t, withRounds(t, sealedSafe(t, bmp, bags...), pbes2(t, asn1.ClassUniversal, bomb))),
		"MAC":                   withMACRounds(t, encodePFX(t, pkcs12.LegacyDES, chain, ""), bomb),
	} {
		t.Run(name, func(t *testing.T) {
			if e := mustRefuse(t, value, Unsupported); !strings.Contains(e.Fact, "more rounds of key derivation") {
				t.Errorf("fact %q", e.Fact)
			}
		})
	}
	// The library looks at the number of the salt's tag alone, not at its class.
	t.Run("a salt of another class", func(t *testing.T) {
		odd := withRounds(t, sealedSafe(t, bmp, bags...), pbes2(t, asn1.ClassContextSpecific, bomb))
		mustRefuse(t, makePFX(t, odd), Unsupported)
	})
	t.Run("negative", func(t *testing.T) {
		mustRefuse(t, makePFX(t, clearSafe(t, shroudedBag(t, -1))), Corrupt)
	})
	// Whoever looks for the digest by its bytes finds the copy.
	t.Run("the digest twice", func(t *testing.T) {
		value := makePFXWithMAC(t, clearSafe(t, shroudedBag(t, bomb)), sealedSafe(t, bmp, bags...))
		var pdu pfxPDU
		if _, err := asn1.Unmarshal(value, &pdu); err != nil {
			t.Fatal(err)
		}
		e, _, _ := readElement(value, maxDepth)
		mustRefuse(t, appendElement(nil, 0x30, appendElement(e.content, tagOctets, pdu.MacData.Mac.Digest)), Unsupported)
	})
	t.Run("a password is said first", func(t *testing.T) {
		value := makePFXWithMAC(t, clearSafe(t, shroudedBag(t, bomb)), sealedSafe(t, bmp, bags...))
		mustRefuse(t, value, Unsupported)
		salt := bytes.LastIndex(value, []byte("saltsalt"))
		value[salt] ^= 1 // now the MAC is that of another password
		mustRefuse(t, value, Password)
	})
}

// The limit is on the sum, and is one that a file may reach. A key under 3DES is opened
// three times, with two blocks of a key and one of an initial vector, and is then read.
func TestTheLimitOfKeyDerivationIsInclusive(t *testing.T) {
	most := (maxReading - 2*keyReading(64)) / (3 * 3)
	for rounds, allowed := range map[int64]bool{most - most/2: true, most - most/2 + 1: false} {
		p, err := openPFX(makePFX(t, clearSafe(t, shroudedBag(t, most/2), shroudedBag(t, rounds))), &effort{limit: maxReading})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.withinEffort(); (err == nil) != allowed {
			t.Errorf("%d steps: %v", p.effort.reserved, err)
		}
	}
}

func hugeRounds(t testing.TB) pkix.AlgorithmIdentifier {
	t.Helper()
	params := must[[]byte](t)(asn1.Marshal(pbes1Params{[]byte("saltsalt"), new(big.Int).Lsh(big.NewInt(1), 90)}))
	return pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "1.2.840.113549.1.12.1.3"), Parameters: asn1.RawValue{FullBytes: params}}
}

// pbes2 makes parameters of AES under PBKDF2, with a salt of the given class.
func pbes2(t testing.TB, saltClass int, rounds int64) pkix.AlgorithmIdentifier {
	t.Helper()
	kdf := must[[]byte](t)(asn1.Marshal(struct {
		Salt       asn1.RawValue
		Iterations int64
	}{asn1.RawValue{Class: saltClass, Tag: asn1.TagOctetString, Bytes: []byte("saltsalt")}, rounds}))
	iv := must[[]byte](t)(asn1.Marshal(make([]byte, 16)))
	params := must[[]byte](t)(asn1.Marshal(pbes2Params{
		pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "1.2.840.113549.1.5.12"), Parameters: asn1.RawValue{FullBytes: kdf}},
		pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "2.16.840.1.101.3.4.1.42"), Parameters: asn1.RawValue{FullBytes: iv}}}))
	return pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oidPBES2), Parameters: asn1.RawValue{FullBytes: params}}
}

// withRounds replaces the algorithm of an encrypted part.
func withRounds(t testing.TB, info contentInfo, algorithm pkix.AlgorithmIdentifier) contentInfo {
	t.Helper()
	var data encryptedData
	if _, err := asn1.Unmarshal(info.Content.Bytes, &data); err != nil {
		t.Fatal(err)
	}
	data.Info.Algorithm = algorithm
	data.Info.Content.FullBytes = nil
	info.Content = explicit0(must[[]byte](t)(asn1.Marshal(data)))
	return info
}

func withMACRounds(t testing.TB, file []byte, rounds int64) []byte {
	t.Helper()
	var pdu pfxPDU
	if _, err := asn1.Unmarshal(file, &pdu); err != nil {
		t.Fatal(err)
	}
	pdu.MacData.Iterations = big.NewInt(rounds)
	pdu.AuthSafe.Content = explicit0(pdu.AuthSafe.Content.Bytes)
	return must[[]byte](t)(asn1.Marshal(pdu))
}

func TestTheNumberOfCertificatesIsBounded(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	some := slices.Repeat(certBags(t, chain), maxCertificates)
	mustParse(t, makePFX(t, clearSafe(t, append(some, makeBag(t, oidKeyBag, pkcs8Of(t, chain[0].key)))...)))
	some = append(some, some[0])
	key := keyPEM(t, chain[0].key)
	mustRefuse(t, makePFX(t, clearSafe(t, append(some, makeBag(t, oidKeyBag, pkcs8Of(t, chain[0].key)))...)), Unsupported)
	mustRefuse(t, join(key, bytes.Repeat(certPEM(chain[0].cert), maxCertificates+1)), Unsupported)
}

// toBER rewrites every constructed element of DER with indefinite length, and octet
// strings in two pieces, as NSS and older Java tools do.
func toBER(t testing.TB, der []byte) []byte {
	t.Helper()
	var out []byte
	for rest := der; len(rest) > 0; {
		e, next, err := readElement(rest, maxDepth)
		if err != nil {
			t.Fatal(err)
		}
		rest = next
		switch half := len(e.content) / 2; {
		case e.tag&tagConstructed != 0:
			out = append(append(append(out, e.tag, 0x80), toBER(t, e.content)...), 0, 0)
		case e.tag == tagOctets && half > 0:
			out = append(out, tagOctets|tagConstructed, 0x80)
			out = appendElement(appendElement(out, tagOctets, e.content[:half]), tagOctets, e.content[half:])
			out = append(out, 0, 0)
		default:
			out = appendElement(out, e.tag, e.content)
		}
	}
	return out
}

func TestBERIsRead(t *testing.T) {
	chain := newChain(t, 3, newP256(t))
	for name, enc := range encoders() {
		t.Run(name, func(t *testing.T) {
			outside := toBER(t, encodePFX(t, enc, chain, ""))
			if b := mustParse(t, outside); len(b.Chain) != 3 {
				t.Errorf("chain %v", subjects(b.Chain))
			}
			if name != "clear" { // with a password the MAC still tells
				mustRefuse(t, toBER(t, encodePFX(t, enc, chain, "secret")), Password)
			}
		})
	}
	bmp := []byte{0, 0}
	bags := certBags(t, chain)
	key := clearSafe(t, sealedKey(t, chain[0].key, bmp))
	for name, certs := range map[string]contentInfo{
		"inside too":       dataInfo(t, toBER(t, must[[]byte](t)(asn1.Marshal(bags)))),
		"sealed in pieces": inPieces(t, sealedSafe(t, bmp, bags...)),
	} {
		t.Run(name, func(t *testing.T) {
			inner := must[[]byte](t)(asn1.Marshal([]contentInfo{key, certs}))
			value := must[[]byte](t)(asn1.Marshal(struct {
				Version  int
				AuthSafe contentInfo
			}{3, dataInfo(t, toBER(t, inner))}))
			if b := mustParse(t, value); len(b.Chain) != 3 {
				t.Errorf("chain %v", subjects(b.Chain))
			}
		})
	}
}

// inPieces writes the encrypted bytes of a part as two octet strings.
func inPieces(t testing.TB, info contentInfo) contentInfo {
	t.Helper()
	var data encryptedData
	if _, err := asn1.Unmarshal(info.Content.Bytes, &data); err != nil {
		t.Fatal(err)
	}
	sealed := data.Info.Content.Bytes
	pieces := appendElement(appendElement(nil, tagOctets, sealed[:10]), tagOctets, sealed[10:])
	data.Info.Content = explicit0(pieces)
	info.Content = explicit0(must[[]byte](t)(asn1.Marshal(data)))
	return info
}

func TestDERIsLeftAlone(t *testing.T) {
	file := encodePFX(t, pkcs12.LegacyDES, newChain(t, 2, newP256(t)), "")
	der, rest, err := toDER(append(bytes.Clone(file), 1, 2))
	if err != nil || !bytes.Equal(der, file) || len(rest) != 2 {
		t.Errorf("%d bytes of %d, rest %d, %v", len(der), len(file), len(rest), err)
	}
	deep := bytes.Repeat([]byte{0x30, 0x80}, 100_000)
	if _, _, err := toDER(deep); err == nil {
		t.Error("nesting without end was accepted")
	}
}

// Deep nesting must cost no more than its size.
func BenchmarkNestedBER(b *testing.B) {
	value := append(bytes.Repeat([]byte{0x30, 0x80}, maxDepth-2), bytes.Repeat([]byte{0x30, 0x80, 0, 0}, 30_000)...)
	value = append(value, bytes.Repeat([]byte{0, 0}, maxDepth-2)...)
	for b.Loop() {
		_, _, _ = toDER(value)
	}
}

func TestMACsThatCannotBeVerified(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	withMAC := func(oid string) []byte {
		var pdu pfxPDU
		if _, err := asn1.Unmarshal(makePFXWithMAC(t, clearSafe(t, certBags(t, chain)...)), &pdu); err != nil {
			t.Fatal(err)
		}
		pdu.MacData.Mac.Algorithm.Algorithm = oidOf(t, oid)
		pdu.AuthSafe.Content = explicit0(pdu.AuthSafe.Content.Bytes)
		return must[[]byte](t)(asn1.Marshal(pdu))
	}
	mustRefuse(t, withMAC("2.16.840.1.101.3.4.2.2"), Unsupported) // SHA-384
	mustRefuse(t, withMAC("1.2.3.4"), Corrupt)
	mustRefuse(t, withMAC("1.2.840.113549.1.5.14"), Password) // PBMAC1 without parameters
}

func TestUnknownEncryptionIsNamed(t *testing.T) {
	bmp := []byte{0, 0}
	chain := newChain(t, 1, newP256(t))
	rc4 := pbes1(t, 2)
	rc4.Algorithm = oidOf(t, "1.2.840.113549.1.12.1.1")
	e := mustRefuse(t, makePFXWithMAC(t, withRounds(t, sealedSafe(t, bmp, certBags(t, chain)...), rc4)), Unsupported)
	if !strings.Contains(e.Fact, "1.2.840.113549.1.12.1.1") {
		t.Errorf("fact %q", e.Fact)
	}
	key := makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{rc4, make([]byte, 64)})))
	mustRefuse(t, makePFX(t, clearSafe(t, append(certBags(t, chain), key)...)), Unsupported)
}

// Vectors of RFC 2268, section 5, whose effective key length is the key's.
func TestRC2(t *testing.T) {
	for _, tt := range []struct{ key, plain, sealed string }{
		{"ffffffffffffffff", "ffffffffffffffff", "278b27e42e2f0d49"},
		{"3000000000000000", "1000000000000001", "30649edf9be7d2c2"},
		{"88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6"},
	} {
		key, sealed := must[[]byte](t)(hex.DecodeString(tt.key)), must[[]byte](t)(hex.DecodeString(tt.sealed))
		got := make([]byte, 8)
		newRC2(key).Decrypt(got, sealed)
		if hex.EncodeToString(got) != tt.plain {
			t.Errorf("key %s: %x, want %s", tt.key, got, tt.plain)
		}
	}
}

// The vectors that the authors of PKCS#12 implementations share for the password "smeg".
func TestDeriveKey(t *testing.T) {
	smeg := []byte{0, 's', 0, 'm', 0, 'e', 0, 'g', 0, 0}
	for _, tt := range []struct {
		purpose   byte
		salt, key string
	}{
		{1, "0a58cf64530d823f", "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3"},
		{2, "0a58cf64530d823f", "79993dfe048d3b76"},
		{3, "3d83c0e4546ac140", "8d967d88f6caa9d714800ab3d48051d63f73a312"},
	} {
		key := must[[]byte](t)(hex.DecodeString(tt.key))
		salt := must[[]byte](t)(hex.DecodeString(tt.salt))
		if got := deriveKey(tt.purpose, smeg, salt, 1, len(key)); !bytes.Equal(got, key) {
			t.Errorf("purpose %d: %x, want %x", tt.purpose, got, key)
		}
	}
}

// The files above are as good as their MAC: the library must accept it.
func TestMACIsVerified(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	value := makePFXWithMAC(t, clearSafe(t, append(certBags(t, chain), makeBag(t, oidKeyBag, pkcs8Of(t, chain[0].key)))...))
	if _, _, _, err := pkcs12.DecodeChain(value, ""); err != nil {
		t.Fatal(err)
	}
	value[len(value)-20] ^= 1
	mustRefuse(t, value, Password)
}
