package certs

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// hostile is a value that asks for as much work as it can.
type hostile struct {
	value []byte
	kind  Kind  // of the refusal; empty if it is read all the same
	limit int64 // of the effort for reading it; 0 is the usual one
}

// hostileValues come in two sorts: those that ask for more than anyone will do, which cost
// nothing, and those that ask for just less than limit, which cost the most.
func hostileValues(t testing.TB, limit int64) map[string]hostile {
	t.Helper()
	all := make(map[string]hostile)
	for _, more := range []map[string]hostile{hostileRounds(t), mostRounds(t, limit), hostileSizes(t), hostileKeys(t), hostileChains(t)} {
		maps.Copy(all, more)
	}
	return all
}

// hostileRounds have counts of rounds in all the places of a PFX in which one can stand.
func hostileRounds(t testing.TB) map[string]hostile {
	bmp := []byte{0, 0}
	chain := newChain(t, 2, newP256(t))
	bags, key := certBags(t, chain), sealedKey(t, chain[0].key, bmp)
	keyOf := func(algorithm pkix.AlgorithmIdentifier) safeBag {
		return makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{algorithm, make([]byte, 64)})))
	}
	nest := func(levels int, bag safeBag) safeBag {
		for range levels {
			bag = makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal([]safeBag{bag})))
		}
		return bag
	}
	values := make(map[string]hostile)
	for _, rounds := range []int64{1 << 31, math.MaxInt64} {
		for algorithm, id := range map[string]pkix.AlgorithmIdentifier{
			"3DES": pbes1(t, rounds), "RC2-40": withOID(t, pbes1(t, rounds), "1.2.840.113549.1.12.1.6"), "RC2-128": withOID(t, pbes1(t, rounds), "1.2.840.113549.1.12.1.5"),
			"PBES2": pbes2(t, asn1.ClassUniversal, rounds), "PBES2 with an odd salt": pbes2(t, asn1.ClassContextSpecific, rounds),
			"PBES2 with a long key": pbkdf2Of(t, oidPBES2, rounds, 1<<30, "1.2.840.113549.2.11"),
		} {
			add := func(place string, value []byte) {
				values[fmt.Sprintf("%d rounds of %s in %s", rounds, algorithm, place)] = hostile{value: value, kind: Unsupported}
			}
			add("a key", makePFX(t, clearSafe(t, append(bags, keyOf(id))...)))
			add("a key beside a good one", makePFXWithMAC(t, clearSafe(t, append(bags, key, keyOf(id))...)))
			add("a nested key", makePFX(t, clearSafe(t, append(bags, nest(3, keyOf(id)))...)))
			add("a part", makePFXWithMAC(t, clearSafe(t, key), withRounds(t, sealedSafe(t, bmp, bags...), id)))
			add("a part alone", makePFX(t, withRounds(t, sealedSafe(t, bmp, bags...), id)))
			add("a key in a sealed part", makePFX(t, sealedSafe(t, bmp, append(bags, keyOf(id))...)))
			add("a nested key in a sealed part", makePFXWithMAC(t, sealedSafe(t, bmp, append(bags, nest(2, keyOf(id)))...)))
			add("a sealed part behind a key", makePFXWithMAC(t, clearSafe(t, key), sealedSafe(t, bmp, append(bags, keyOf(id))...)))
			add("the third part", makePFX(t, clearSafe(t, key), sealedSafe(t, bmp, bags...), sealedSafe(t, bmp, keyOf(id))))
		}
		values[fmt.Sprintf("%d rounds of the MAC", rounds)] = hostile{value: withMACRounds(t, encodePFX(t, pkcs12.LegacyDES, chain, ""), rounds), kind: Unsupported}
		for _, prf := range []string{"1.2.840.113549.2.7", "1.2.840.113549.2.9", "1.2.840.113549.2.11"} {
			value := withPBMAC1(t, makePFXWithMAC(t, clearSafe(t, append(bags, key)...)), pbkdf2Of(t, oidPBMAC1, rounds, 64, prf))
			values[fmt.Sprintf("%d rounds of PBMAC1 with %s", rounds, prf)] = hostile{value: value, kind: Unsupported}
		}
	}
	values["a PBMAC1 key of a gigabyte"] = hostile{value: withPBMAC1(t, makePFXWithMAC(t, clearSafe(t, append(bags, key)...)), pbkdf2Of(t, oidPBMAC1, 1, 1<<30, "1.2.840.113549.2.7")), kind: Password}
	values["rounds beyond 64 bits"] = hostile{value: makePFX(t, clearSafe(t, keyOf(hugeRounds(t)))), kind: Unsupported}

	return values
}

// mostRounds ask for rounds within the limit, by a little, so that all of it is done.
func mostRounds(t testing.TB, limit int64) map[string]hostile {
	bmp := []byte{0, 0}
	chain := newChain(t, 1, newP256(t))
	bags, key := certBags(t, chain), sealedKey(t, chain[0].key, bmp)
	file := makePFXWithMAC(t, clearSafe(t, append(bags, key)...))
	rest := limit - 50_000 // the good key takes some
	sha512 := withMAC(t, file, "2.16.840.1.101.3.4.2.3")
	values := map[string][]byte{
		"a MAC":   withMACRounds(t, file, rest/4),
		"SHA-512": withMACRounds(t, sha512, rest/12),
		"a part":  makePFX(t, withRounds(t, sealedSafe(t, bmp, bags...), pbes1(t, rest/9))),
		"a key":   makePFX(t, clearSafe(t, append(bags, makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{pbes1(t, rest/9), make([]byte, 64)}))))...)),
	}
	for _, prf := range []struct {
		oid         string
		long, short int64 // the price of a round for a key of 64 bytes, and of 32
	}{{"1.2.840.113549.2.7", 8, 4}, {"1.2.840.113549.2.9", 4, 2}, {"1.2.840.113549.2.11", 12, 6}} {
		values["PBMAC1 with "+prf.oid] = withPBMAC1(t, file, pbkdf2Of(t, oidPBMAC1, rest/(2*prf.long), 64, prf.oid))
		values["PBES2 with "+prf.oid] = makePFX(t, withRounds(t, sealedSafe(t, bmp, bags...), pbkdf2Of(t, oidPBES2, rest/(2*prf.short), 32, prf.oid)))
	}
	all := make(map[string]hostile)
	for name, value := range values {
		all["the most rounds of "+name] = hostile{value, Password, limit}
	}
	return all
}

func withOID(t testing.TB, algorithm pkix.AlgorithmIdentifier, oid string) pkix.AlgorithmIdentifier {
	t.Helper()
	algorithm.Algorithm = oidOf(t, oid)
	return algorithm
}

// pbkdf2Of makes the parameters of PBES2 with AES-256, or of PBMAC1, which have one form.
func pbkdf2Of(t testing.TB, scheme string, rounds int64, length int, prf string) pkix.AlgorithmIdentifier {
	t.Helper()
	kdf := must[[]byte](t)(asn1.Marshal(pbkdf2Params{
		Salt: asn1.RawValue{Tag: asn1.TagOctetString, Bytes: []byte("saltsalt")}, Iterations: big.NewInt(rounds),
		KeyLength: length, PRF: pkix.AlgorithmIdentifier{Algorithm: oidOf(t, prf)},
	}))
	second := pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "1.2.840.113549.2.9")} // HMAC with SHA-256
	if scheme == oidPBES2 {
		iv := must[[]byte](t)(asn1.Marshal(make([]byte, 16)))
		second = pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "2.16.840.1.101.3.4.1.42"), Parameters: asn1.RawValue{FullBytes: iv}}
	}
	params := must[[]byte](t)(asn1.Marshal(pbes2Params{
		pkix.AlgorithmIdentifier{Algorithm: oidOf(t, "1.2.840.113549.1.5.12"), Parameters: asn1.RawValue{FullBytes: kdf}}, second}))
	return pkix.AlgorithmIdentifier{Algorithm: oidOf(t, scheme), Parameters: asn1.RawValue{FullBytes: params}}
}

// withPBMAC1 replaces the MAC of a file; the digest is then wrong.
func withPBMAC1(t testing.TB, file []byte, algorithm pkix.AlgorithmIdentifier) []byte {
	t.Helper()
	var pdu pfxPDU
	if _, err := asn1.Unmarshal(file, &pdu); err != nil {
		t.Fatal(err)
	}
	pdu.MacData.Mac.Algorithm = algorithm
	pdu.AuthSafe.Content = explicit0(pdu.AuthSafe.Content.Bytes)
	return must[[]byte](t)(asn1.Marshal(pdu))
}

func withMAC(t testing.TB, file []byte, digest string) []byte {
	t.Helper()
	return withPBMAC1(t, file, pkix.AlgorithmIdentifier{Algorithm: oidOf(t, digest)})
}

func hostileSizes(t testing.TB) map[string]hostile {
	bmp := []byte{0, 0}
	chain := newChain(t, 1, newP256(t))
	cert, key := certBag(t, chain[0].cert), sealedKey(t, chain[0].key, bmp)
	values := make(map[string]hostile)
	values["a value too long"] = hostile{value: bytes.Repeat([]byte("A"), maxValue+1), kind: Unsupported}
	values["many parts"] = hostile{value: makePFX(t, slices.Repeat([]contentInfo{sealedSafe(t, bmp)}, 1500)...), kind: NoCertificate}
	values["many certificates"] = hostile{value: makePFX(t, clearSafe(t, append(slices.Repeat([]safeBag{cert}, 600), key)...)), kind: Unsupported}
	values["many certificates, sealed"] = hostile{value: makePFXWithMAC(t, sealedSafe(t, bmp, append(slices.Repeat([]safeBag{cert}, 500), key)...)), kind: Unsupported}
	values["many keys, sealed"] = hostile{value: makePFX(t, clearSafe(t, append(slices.Repeat([]safeBag{key}, 600), cert)...)), kind: Unsupported}
	values["many empty bags"] = hostile{value: makePFX(t, clearSafe(t, slices.Repeat([]safeBag{makeBag(t, oidCRLBag, []byte{5, 0})}, 8000)...)), kind: NoCertificate}
	values["many unknown bags"] = hostile{value: makePFX(t, clearSafe(t, slices.Repeat([]safeBag{makeBag(t, "1.2.3.4", []byte{5, 0})}, 8000)...)), kind: NoCertificate}
	values["many PEM blocks"] = hostile{value: bytes.Repeat([]byte("-----BEGIN X-----\nAAAA\n-----END X-----\n"), 6000), kind: NoCertificate}
	values["many beginnings"] = hostile{value: bytes.Repeat([]byte("-----BEGIN"), maxValue/10), kind: Corrupt}
	values["a PEM in one line"] = hostile{value: append([]byte("-----BEGIN CERTIFICATE-----"), bytes.Repeat([]byte("A"), maxValue-100)...), kind: Corrupt}
	values["nested bags"] = hostile{value: makePFX(t, clearSafe(t, nestedBags(t, 200))), kind: Corrupt}
	values["an OID without end"] = hostile{value: makePFX(t, clearSafe(t, safeBag{ID: append(asn1.ObjectIdentifier{1, 2}, slices.Repeat([]int{1}, 200_000)...), Value: explicit0([]byte{5, 0})})), kind: NoCertificate}
	for name, unit := range map[string][]byte{"sequences": {0x30, 0x80}, "octet strings": {0x24, 0x80}, "tagged": {0xa0, 0x80}} {
		deep := append([]byte{0x30, 0x80}, bytes.Repeat(unit, maxValue/2-1)...)
		values["BER of open "+name] = hostile{value: deep, kind: Corrupt}
		allowed := append(bytes.Repeat(unit, maxDepth-4), bytes.Repeat([]byte{unit[0], 0x80, 0, 0}, 60_000)...)
		values["BER of many "+name] = hostile{value: append([]byte{0x30, 0x80}, append(allowed, bytes.Repeat([]byte{0, 0}, maxDepth-3)...)...), kind: Corrupt}
	}
	return values
}

func nestedBags(t testing.TB, levels int) safeBag {
	t.Helper()
	bag := makeBag(t, oidCRLBag, []byte{5, 0})
	for range levels {
		bag = makeBag(t, oidNestedBag, must[[]byte](t)(asn1.Marshal([]safeBag{bag})))
	}
	return bag
}

// rsaOf writes an RSA key in PKCS#1 of numbers that are as consistent as crypto/rsa looks,
// without being primes, which are slow to find.
func rsaOf(t testing.TB, size uint) []byte {
	t.Helper()
	one := big.NewInt(1)
	for {
		p, q := oddNumber(t, size/2), oddNumber(t, size/2)
		n := new(big.Int).Mul(p, q)
		p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
		d := new(big.Int).ModInverse(big.NewInt(65537), new(big.Int).Mul(p1, q1))
		inverse := new(big.Int).ModInverse(q, p)
		if d == nil || inverse == nil {
			continue
		}
		return must[[]byte](t)(asn1.Marshal(struct {
			Version                int
			N                      *big.Int
			E                      int
			D, P, Q, Dp, Dq, QInvP *big.Int
		}{0, n, 65537, d, p, q, new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), inverse}))
	}
}

func oddNumber(t testing.TB, size uint) *big.Int {
	t.Helper()
	n := must[*big.Int](t)(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), size)))
	return n.SetBit(n.SetBit(n.SetBit(n, 0, 1), int(size)-1, 1), int(size)-2, 1)
}

func hostileKeys(t testing.TB) map[string]hostile {
	cert := newChain(t, 1, newP256(t))[0].cert
	values := make(map[string]hostile)
	for _, size := range []uint{4096, 8192, maxRSABits} {
		key := block("RSA PRIVATE KEY", rsaOf(t, size))
		n := (maxValue - 2000) / len(key)
		kind := Unsupported
		if size == 4096 && n*int(keyReading(len(rsaOf(t, size)))) < maxReading {
			kind = KeyMismatch
		}
		values[fmt.Sprintf("%d keys of RSA-%d", n, size)] = hostile{value: join(certPEM(cert), bytes.Repeat(key, n)), kind: kind}
		one := makeBag(t, oidKeyBag, inPKCS8(t, rsaOf(t, size)))
		values[fmt.Sprintf("RSA-%d in a PFX", size)] = hostile{value: makePFX(t, clearSafe(t, certBag(t, cert), one)), kind: KeyMismatch}
	}
	huge := oddNumber(t, 8*180_000)
	pkcs1 := must[[]byte](t)(asn1.Marshal(struct {
		Version int
		N       *big.Int
		E       int
		D, P, Q *big.Int
	}{0, modulus(2048), 65537, big.NewInt(3), huge, big.NewInt(3)}))
	values["a prime of 180 KB"] = hostile{value: join(certPEM(cert), block("RSA PRIVATE KEY", pkcs1)), kind: Unsupported}
	values["a prime of 180 KB in a PFX"] = hostile{value: makePFX(t, clearSafe(t, certBag(t, cert), makeBag(t, oidKeyBag, inPKCS8(t, pkcs1)))), kind: Unsupported}
	slow := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	values["many keys of P-521"] = hostile{value: join(certPEM(cert), bytes.Repeat(keyPEM(t, slow), maxKeys)), kind: KeyMismatch}
	values["too many keys"] = hostile{value: join(certPEM(cert), bytes.Repeat(keyPEM(t, slow), maxKeys+1)), kind: Unsupported}
	return values
}

func inPKCS8(t testing.TB, pkcs1 []byte) []byte {
	t.Helper()
	return must[[]byte](t)(asn1.Marshal(pkcs8{Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidOf(t, oidRSA)}, PrivateKey: pkcs1}))
}

// hostileChains are certificates that could all have signed each other, by name, and
// values whose certificates have signed each other in exponentially many ways.
func hostileChains(t testing.TB) map[string]hostile {
	missing := issue(t, nil, "same", newP256(t))
	leaf := issue(t, missing, "leaf", newP256(t), asLeaf)
	values := make(map[string]hostile)
	slow := func() crypto.Signer {
		return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	}
	strangers := func(n int, leaf *identity, signer *identity, key func() crypto.Signer, signature int) []byte {
		certs := [][]byte{leaf.cert.Raw}
		for i := range n {
			c := issue(t, signer, "same", key(), func(c *x509.Certificate) { c.SerialNumber = big.NewInt(int64(i + 1)) }).cert
			certs = append(certs, withSignature(t, c, signature))
		}
		var out bytes.Buffer
		for _, c := range certs {
			writeBlock(&out, "CERTIFICATE", c)
		}
		return join(keyPEM(t, leaf.key), out.Bytes())
	}
	onCurve := strangers(90, leaf, issue(t, nil, "same", slow()), slow, 0)
	values["impostors of P-521"] = hostile{value: onCurve}
	values["impostors of P-521 without a key"] = hostile{value: onCurve[len(keyPEM(t, leaf.key)):], kind: NoPrivateKey}
	long := &rsa.PublicKey{N: oddNumber(t, maxRSABits), E: math.MaxInt32}
	signer := issue(t, nil, "same", must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)))
	inRSA := strangers(40, leaf, signer, func() crypto.Signer { return publicOnly{public: long} }, maxRSABits/8)
	values["impostors of RSA-16384 without a key"] = hostile{value: inRSA[len(keyPEM(t, leaf.key)):], kind: NoPrivateKey}
	values["the complete graph"] = hostile{value: completeGraph(t, leaf.key, 24)}
	longNames := func(c *x509.Certificate) {
		for i := range 40 {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: fmt.Sprint("unit ", i)})
		}
	}
	named := []*x509.Certificate{leaf.cert}
	for i := range 60 {
		named = append(named, issue(t, nil, "same", leaf.key, longNames, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(int64(i)) }).cert)
	}
	values["long names"] = hostile{value: join(keyPEM(t, leaf.key), certPEM(named...))}
	return values
}

// withSignature replaces a signature by one of so many bytes that is wrong, or by none.
func withSignature(t testing.TB, cert *x509.Certificate, size int) []byte {
	t.Helper()
	if size == 0 {
		return cert.Raw
	}
	var outer struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	outer.Signature = asn1.BitString{Bytes: bytes.Repeat([]byte{0x11}, size), BitLength: 8 * size}
	return must[[]byte](t)(asn1.Marshal(outer))
}

// completeGraph are CAs each of which has signed each other one.
func completeGraph(t testing.TB, leafKey crypto.Signer, n int) []byte {
	t.Helper()
	cas := make([]*identity, 0, n)
	for i := range n {
		cas = append(cas, issue(t, nil, fmt.Sprint("ca", i), newP256(t)))
	}
	certs := []*x509.Certificate{issue(t, cas[0], "leaf", leafKey, asLeaf).cert}
	for i := range n {
		for j := 1; j <= 3; j++ { // more do not fit into the limit of certificates
			certs = append(certs, issue(t, cas[(i+j)%n], fmt.Sprint("ca", i), cas[i].key).cert)
		}
	}
	return join(keyPEM(t, leafKey), certPEM(certs...))
}

// Nothing here takes time: each piece of work is counted where it is done. That the price
// of a step is right is what BenchmarkHostile is for.
func TestWorkIsReservedBeforeItIsDone(t *testing.T) {
	for name, h := range hostileValues(t, maxReading/20) {
		t.Run(name, func(t *testing.T) {
			work := &effort{limit: cmp.Or(h.limit, maxReading)}
			began := time.Now()
			b, err := parse("", h.value, work)
			if since := time.Since(began); since > 10*time.Second {
				t.Errorf("it hangs: %v", since) // catches a hang, and says nothing about speed
			}
			if h.limit > 0 && work.done < h.limit/2 {
				t.Errorf("%d steps are not the most of %d: this is not the case to be tested", work.done, h.limit)
			}
			if work.done > work.reserved || work.reserved > work.limit {
				t.Errorf("%d steps done of %d reserved, limit %d", work.done, work.reserved, work.limit)
			}
			switch {
			case h.kind == "" && err != nil:
				t.Errorf("was refused: %v", err)
			case h.kind == "":
				checkInvariants(t, b)
			case err == nil:
				t.Errorf("was read, want %s", h.kind)
			case err.Kind != h.kind:
				t.Errorf("kind %s (%v), want %s", err.Kind, err, h.kind)
			}
		})
	}
}

// The search for a chain has its own limits.
func TestTheSearchForAChainIsBounded(t *testing.T) {
	for name, h := range hostileChains(t) {
		t.Run(name, func(t *testing.T) {
			found, err := readPEM(h.value, &effort{limit: maxReading})
			if err != nil {
				t.Fatal(err)
			}
			f := newFinder(distinct(found.certs))
			f.walk(f.certs[:1])
			if f.checks.done > f.checks.reserved || f.checks.reserved > maxChecking || f.steps < 0 {
				t.Errorf("%d steps of %d, %d certificates left to look at", f.checks.done, f.checks.reserved, f.steps)
			}
		})
	}
}

// What careful exporters write is affordable: the limits must not be tightened past them.
func TestCarefulExportersAreWithinTheLimits(t *testing.T) {
	chain := newChain(t, 1, newP256(t))
	bags := certBags(t, chain)
	careful := pbkdf2Of(t, oidPBES2, 600_000, 32, "1.2.840.113549.2.9")
	key := makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{careful, make([]byte, 144)})))
	for name, value := range map[string][]byte{
		"as GnuTLS": withPBMAC1(t, makePFXWithMAC(t, clearSafe(t, key), withRounds(t, sealedSafe(t, []byte{0, 0}, bags...), careful)), pbkdf2Of(t, oidPBMAC1, 600_000, 32, "1.2.840.113549.2.9")),
		"as Java 11": withMACRounds(t, makePFXWithMAC(t, clearSafe(t, makeBag(t, oidShroudedBag, must[[]byte](t)(asn1.Marshal(shroudedKey{pbes1(t, 50_000), make([]byte, 2400)})))),
			withRounds(t, sealedSafe(t, []byte{0, 0}, bags...), pbes1(t, 50_000))), 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := openPFX(value, &effort{limit: maxReading})
			if err != nil {
				t.Fatal(err)
			}
			if p.effort.exhausted {
				t.Errorf("%d steps are too many", p.effort.reserved)
			}
		})
	}
}

// BenchmarkHostile measures what the limits admit: nothing may take a second.
func BenchmarkHostile(b *testing.B) {
	for name, h := range hostileValues(b, maxReading) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = Parse("", h.value)
			}
		})
	}
}
