package config

import "testing"

func TestPersistent(t *testing.T) {
	persistent := func(c *Config) any { return c.Certificates[0].Persistent }
	inStore := `{"secretsManagementSettings": {"certificateStoreLocation": "/s", "observedCertificates": ["` + www + `"]}, "kvfs": {"stores": {"/s": {%s}}}}`
	for _, at := range []struct{ place, path string }{{inOwn, "kvfs"}, {inStore, `kvfs.stores["/s"]`}} {
		testFields(t, at.place, persistent, []fieldTest{
			{``, Persistent{"", false, false}, nil},
			{`"persistent": null`, Persistent{"", false, false}, nil},
			{`"persistent": "no"`, Persistent{"no", false, false}, nil},
			{`"persistent": "beneath"`, Persistent{"beneath", false, false}, nil},
			{`"persistent": {"files": "instead", "tmpfsOnly": true, "purge": false}`, Persistent{"instead", true, true}, nil},
			{`"persistent": {"files": null, "purge": "false"}`, Persistent{"", false, true}, nil},
			{`"persistent": {}`, Persistent{"", false, false}, nil},
			{`"persistent": "above"`, nil, []string{"error: " + at.path + `.persistent: "above" is not a known mode`}},
			{`"persistent": true`, nil, []string{"error: " + at.path + ".persistent: true is not a known mode, or an object"}},
			{`"persistent": {"files": true}`, nil, []string{"error: " + at.path + ".persistent.files: true is not a known mode"}},
			{`"persistent": {"tmpfsOnly": 1}`, nil, []string{"error: " + at.path + ".persistent.tmpfsOnly: 1 is not true or false"}},
			{`"persistent": {"file": "no"}`, nil, []string{"error: " + at.path + `.persistent: "file" is not a known field`}},
		})
	}
}

// What is said of a store counts before what is said of all, each part by itself; an entry has no say.
func TestTheNearestPersistentCounts(t *testing.T) {
	cfg, ps := Parse("", entries(`"persistent": {"files": "instead", "purge": false}, "stores": {"/s": {"persistent": "beneath"}, "/t": {"persistent": {"tmpfsOnly": true}}, "/u": {}}`,
		entryText(www, `, "certificateStoreLocation": "/s/"`),
		entryText(www, `, "certificateStoreLocation": "/t"`),
		entryText(www, `, "certificateStoreLocation": "/u"`),
		entryText(www, `, "certificateStoreLocation": "/v"`)))
	if cfg == nil || len(ps) > 0 {
		t.Fatal(ps)
	}
	for i, want := range []Persistent{{"beneath", false, true}, {"instead", true, true}, {"instead", false, true}, {"instead", false, true}} {
		if got := cfg.Certificates[i].Persistent; got != want {
			t.Errorf("entry %d has %+v, want %+v", i, got, want)
		}
	}
	if _, ps := Parse("", entries(``, entryText(www, `, "kvfs": {"persistent": "no"}`))); !ps.HasErrors() {
		t.Error("an entry may say it")
	}
}
