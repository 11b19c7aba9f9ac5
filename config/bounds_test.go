package config

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// maxAllocated is what the reading of one document may allocate in all, in bytes.
const maxAllocated = 50 << 20

// filled repeats a unit between before and after until the text has the given size. The first "#" in the unit becomes a number,
// another one each time.
func filled(size int, before, unit, after string) string {
	var b strings.Builder
	b.WriteString(before)
	for i := 0; b.Len()+len(after)+len(unit)+6 < size; i++ {
		if head, tail, ok := strings.Cut(unit, "#"); ok {
			b.WriteString(head + fmt.Sprint(i) + strings.ReplaceAll(tail, "#", "0"))
		} else {
			b.WriteString(unit)
		}
	}
	b.WriteString(after)
	return b.String()
}

// inString writes text as a string of JSON.
func inString(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// hostile are documents of nearly the given size that cost more than others of the size.
func hostile(size int) map[string]string {
	fill := func(before, unit, after string) string { return filled(size, before, unit, after) }
	const (
		list  = `{"secretsManagementSettings":{"observedCertificates":[`
		one   = list + `{"url":"https://abc.vault.azure.net/secrets/a",`
		end   = `]}}`
		small = `{"secretsManagementSettings":{"observedCertificates":[]},`
	)
	deep := strings.Repeat(`{"a":`, maxDepth-3) + "1" + strings.Repeat("}", maxDepth-3)
	return map[string]string{
		"brackets":                     fill("", "[", ""),
		"empty lists":                  fill("[", "[],", "1]"),
		"lists of one":                 fill("[", "[0],", "1]"),
		"deep objects":                 fill(small+`"x":[`, deep+",", "1]}"),
		"numbers in an unknown field":  fill(small+`"x":[`, "1,", "1]}"),
		"numbers for entries":          fill(list, "1,", "1"+end),
		"nulls for entries":            fill(list, "null,", "1"+end),
		"empty objects for entries":    fill(list, "{},", "1"+end),
		"short keys":                   fill(small+`"x":{`, `"":0,`, `"":0}}`),
		"duplicate keys":               fill(small+`"kvfs":{`, `"layouts":1,`, `"layouts":1}}`),
		"duplicate keys of an entry":   fill(one, `"url":1,`, `"url":1}`+end),
		"unknown keys":                 fill(small, `"#":0,`, `"":0}`),
		"unknown keys of our own":      fill(small+`"kvfs":{`, `"#":0,`, `"":0}}`),
		"secrets in the settings":      fill(small+`"kvfs":{"identity":{`, `"secret":0,`, `"":0}}}`),
		"fields of another identity":   fill(small+`"kvfs":{"identity":{"type":"environment",`, `"tokenFile":0,`, `"":0}}}`),
		"near misses":                  fill(`{"secretsManagementSettings":{`, `"observedCertificat#":1,`, `"":0}}`),
		"near misses of the settings":  fill(`{`, `"secretsManagementSetting#":1,`, `"":0}`),
		"keys in another case":         fill(small, `"KVFS":null,`, `"":0}`),
		"acls":                         fill(one+`"acls":[`, `{"user":#},`, `{}]}`+end),
		"equal acls":                   fill(one+`"acls":[`, `{"user":1},`, `{}]}`+end),
		"acls without a name":          fill(one+`"acls":[`, `{},`, `{}]}`+end),
		"long acls":                    filled(size, list, filled(110000, `{"url":"https://abc.vault.azure.net/secrets/a","acls":[`, `{"user":#},`, `null]},`), `null`+end),
		"acls of many entries":         fill(list, `{"url":"https://abc.vault.azure.net/secrets/a","acls":[{"user":#}]},`, `null`+end),
		"different entries":            fill(list, `"https://abc.vault.azure.cn/secrets/a#",`, `null`+end),
		"equal entries":                fill(list, `"https://abc.vault.azure.cn/secrets/a",`, `null`+end),
		"entries that clash":           fill(list, `{"url":"https://abc.vault.azure.cn/secrets/a#","customSymbolicLinkName":"a"},`, `null`+end),
		"pinned entries that clash":    fill(list, `"https://abc.vault.azure.cn/secrets/a/0123456789abcdef0123456789#",`, `null`+end),
		"clouds that clash":            filled(size/2, list, `"https://abc.vault.azure.cn/secrets/a#",`, "") + filled(size/2, "", `"https://abc.vault.azure.net/secrets/a#",`, `null`+end),
		"entries with warnings":        fill(list, `"https://abc.vault.azure.cn/certificates/a#",`, `null`+end),
		"entries with a query":         fill(list, `"https://abc.vault.azure.cn/certificates/a#?ab",`, `null`+end),
		"entries with Windows stores":  fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","certificateStoreLocation":"my"},`, `null`+end),
		"entries with ignored fields":  fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","accounts":0,"keyExportable":0},`, `null`+end),
		"entries with other stores":    fill(list, `{"url":"https://abc.vault.azure.net/secrets/a","certificateStoreLocation":"/#"},`, `null`+end),
		"entries with identities":      fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"identity":{"type":"azureCli"}}},`, `null`+end),
		"bad URLs":                     fill(list, `"http://a#",`, `null`+end),
		"a long URL":                   fill(list+`"https://`, "a", `"`+end),
		"a long name of a host":        fill(list+`"https://abc.`, "a.", `/secrets/a"`+end),
		"a long path":                  fill(list+`"https://abc.vault.azure.net`, "/", `"`+end),
		"a long string of escapes":     fill(`{"settings":"`, `\"`, `"}`),
		"a long string of code points": fill(`{"settings":"{`, `\u007b`, `"}`),
		"a long string of surrogates":  fill(list+`"`, `\ud83d\ude00`, `"`+end),
		"a long key":                   fill(`{"`, `\u0022`, `":1}`),
		"a key in PowerShell":          fill(`{\"a`, `\\`, `\":1}`),
		"PowerShell":                   fill(`{\"x\":[`, `\"\",`, `1]}`),
		"a string layer of numbers":    inString(filled(size-1000, "{\"x\":[", "1,", "1]}")),
		"two layers of numbers":        inString(inString(filled(size-1000, "{\"x\":[", "1,", "1]}"))),
		"two layers of short strings":  inString(inString(filled(size/3, "{\"x\":[", `"",`, "1]}"))),
		"wrappers":                     fill("{", `"settings":"{}",`, `"":0}`),
		"lines":                        fill("{", "\n", "}"),
		"comments":                     fill("{", "/**/", "}"),
		"UTF-16":                       string(encodeUTF16(filled(size/2, small+`"x":[`, "1,", "1]}"), binary.LittleEndian)),
		"invalid UTF-8":                fill("", "\xff", ""),
		"suffixes":                     fill(small+`"kvfs":{"vaultDnsSuffixes":[`, `"a",`, `"a"]}}`),
		"bad suffixes":                 fill(small+`"kvfs":{"vaultDnsSuffixes":[`, `"",`, `"a"]}}`),
		"suffixes and entries":         filled(size/2, `{"kvfs":{"vaultDnsSuffixes":[`, `"a.b",`, `"a"]},`) + filled(size/2, list[1:], `"https://abc.a.b/secrets/a#",`, `null`+end),
		"connections":                  fill(small+`"kvfs":{"transport":{"connect":{`, `"a#:1":"a:1",`, `"a:1":"a:1"}}}}`),
		"stores":                       fill(small+`"kvfs":{"stores":{`, `"/#":{},`, `"/":null}}}`),
		"stores of entries":            filled(size/2, `{"kvfs":{"stores":{`, `"/#":{"layouts":["live"]},`, `"/a":null}},`) + filled(size/2, list[1:], `{"url":"https://abc.vault.azure.net/secrets/a","certificateStoreLocation":"/#"},`, `null`+end),
		"stores that say nothing":      fill(small+`"kvfs":{"stores":{`, `"/#":{"layouts":null},`, `"/a":null}}}`),
		"one store":                    fill(small+`"kvfs":{"stores":{`, `"/a":{},`, `"/a":null}}}`),
		"bad stores":                   fill(small+`"kvfs":{"stores":{`, `"#":0,`, `"/a":null}}}`),
		"bad blocks of stores":         fill(small+`"kvfs":{"stores":{`, `"/#":0,`, `"/a":null}}}`),
		"nested stores":                fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","certificateStoreLocation":"`+strings.Repeat("/my", 1300)+`","kvfs":{"layouts":["x509store"]}},`, `null`+end),
		"stores in directories":        fill(list, `{"url":"https://abc.vault.azure.net/secrets/a","certificateStoreLocation":"/my/#","kvfs":{"layouts":["x509store"]}},`, `{"url":"https://abc.vault.azure.net/secrets/a","certificateStoreLocation":"/my","kvfs":{"layouts":["x509store"]}}`+end),
		"entries with layouts":         fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"layouts":["jks","pfx"]}},`, `null`+end),
		"entries with guards":          fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"onExpired":"hide"}},`, `null`+end),
		"equal entries with layouts":   filled(size, list, `{"url":"https://abc.vault.azure.net/secrets/a","kvfs":{"layouts":["jks"],"fetchIssuers":true}},`, `null`+end),
		"entries that differ":          filled(size, list+`{"url":"https://abc.vault.azure.net/secrets/a"},`, `{"url":"https://abc.vault.azure.net/secrets/a","kvfs":{"layouts":["jks"],"fetchIssuers":true,"verifyChain":"failOpen"}},`, `null`+end),
		"links without effect":         fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","customSymbolicLinkName":"a","kvfs":{"layouts":["jks"]}},`, `null`+end),
		"entries with links":           fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","customSymbolicLinkName":"a#"},`, `null`+end),
		"passwords in the settings":    fill(small+`"kvfs":{`, `"password":0,`, `"":0}}`),
		"nulls that are accepted":      fill(list, "null,", "null"+end),
		"misnamed identities":          fill(small, `"msiClientId":#,`, `"":0}`),
		"near misses of identities":    fill(small, `"authenticationSetting#":1,`, `"":0}`),
		"misnamed in entries":          fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","clientId":1},`, `null`+end),
		"blank identities":             fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","identity":{}},`, `null`+end),
		"identities of unknown types":  fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"identity":{"type":"x"}}},`, `null`+end),
		"misnamed around the settings": fill(`{"settings":`+small+`"":0},`, `"msiClientId":"",`, `"":0}`),
		"layouts":                      fill(small+`"kvfs":{"layouts":[`, `"v3",`, `"v4"]}}`),
		"actions":                      fill(small+`"kvfs":{"onChange":[`, `{"reload":"a"},`, `null]}}`),
		"actions of entries":           fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"onChange":[{"reload":"a"}]}},`, `null`+end),
		"actions of equal entries":     filled(size, list, `{"url":"https://abc.vault.azure.net/secrets/a","kvfs":{"onChange":[{"reload":"a"},{"haproxy":"/a"}]}},`, `null`+end),
		"actions that say nothing":     fill(list, `{"url":"https://abc.vault.azure.net/secrets/a#","kvfs":{"onChange":[{},{},{},{}]}},`, `null`+end),
		"commands for alerts":          fill(small+`"kvfs":{"alerts":{"onAlert":[`, `{"command":["/a"]},`, `null]}}}`),
		"a long command":               fill(small+`"kvfs":{"onChange":[{"command":["/a",`, `"",`, `""]}]}}`),
		"days":                         fill(small+`"kvfs":{"onChange":[{"reload":"a","window":"`, `Mon-Sun,`, `Mon 00:00-00:01"}]}}`),
		"bad layouts":                  fill(small+`"kvfs":{"layouts":[`, `"v",`, `"v4"]}}`),
	}
}

func allocated(doc string) (bytes uint64) {
	data := []byte(doc)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	Parse("", data)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A daemon reads settings again while it serves: a document must not be able to exhaust the machine.
func TestNoDocumentCostsMuchMemory(t *testing.T) {
	half := hostile(maxSize / 2)
	for name, doc := range hostile(maxSize) {
		if len(doc) > maxSize || len(doc) < maxSize/4 {
			t.Errorf("%s: a document of %d bytes", name, len(doc))
		}
		all, part := allocated(doc), allocated(half[name])
		t.Logf("%-30s %5.1f MB, half %5.1f MB", name, float64(all)/(1<<20), float64(part)/(1<<20))
		if all > maxAllocated {
			t.Errorf("%s: %d MB allocated", name, all>>20)
		}
		if slack := uint64(1 << 20); float64(all) > 2.2*float64(part+slack) {
			t.Errorf("%s: %d kB allocated, %d kB for half the document", name, all>>10, part>>10)
		}
	}
}
