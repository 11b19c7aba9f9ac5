package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestOnChange(t *testing.T) {
	actions := func(c *Config) any { return c.Certificates[0].OnChange }
	list := func(all ...Action) []Action { return all }
	for _, at := range []struct{ place, path string }{{inOwn, "kvfs.onChange"}, {inEntryOwn, "observedCertificates[0].kvfs.onChange"}} {
		bad := func(what string) []string { return []string{"error: " + at.path + what} }
		testFields(t, at.place, actions, []fieldTest{
			{``, []Action(nil), nil},
			{`"onChange": null`, []Action(nil), nil},
			{`"onChange": []`, []Action(nil), nil},
			{`"onChange": [{"reload": "nginx"}]`, list(Action{Verb: "reload", Unit: "nginx.service"}), nil},
			{`"onChange": [{"restart": "a@b.service"}, null, {"reloadOrRestart": "web.target"}]`, list(Action{Verb: "restart", Unit: "a@b.service"}, Action{Verb: "reloadOrRestart", Unit: "web.target"}), nil},
			{`"onChange": [{"command": ["/bin/x", "", "a b"], "user": 33, "timeoutInS": "5", "splayInS": 0}]`, list(Action{Command: []string{"/bin/x", "", "a b"}, User: "33", Timeout: 5 * time.Second}), nil},
			{`"onChange": [{"signal": "HUP", "pidFile": "/run/x.pid"}, {"signal": "USR1", "unit": "x"}]`, list(Action{Signal: "HUP", PIDFile: "/run/x.pid"}, Action{Signal: "USR1", Unit: "x.service"}), nil},
			{`"onChange": [{"haproxy": "/run/admin.sock", "name": "/a b"}]`, list(Action{HAProxy: "/run/admin.sock", Name: "/a b"}), nil},
			{`"onChange": [{"reload": "x", "check": ["/bin/x", "-t"], "user": "nobody", "window": "02:00-04:30"}]`,
				list(Action{Verb: "reload", Unit: "x.service", Check: []string{"/bin/x", "-t"}, User: "nobody", Window: Window{From: 120, To: 270}}), nil},
			{`"onChange": [{"reload": "x", "splayInS": 600, "window": "Fri-Sun,Tue 23:59-00:00"}]`, list(Action{Verb: "reload", Unit: "x.service", Splay: 10 * time.Minute,
				Window: Window{Days: 1<<time.Friday | 1<<time.Saturday | 1<<time.Sunday | 1<<time.Tuesday, From: 24*60 - 1}}), nil},
			{`"onChange": [{"reload": "x", "window": "00:00-00:00"}]`, list(Action{Verb: "reload", Unit: "x.service", Window: Window{Days: 127}}), nil},
			{`"onChange": [{"command": ["/bin/x"], "window": null, "user": null, "check": null}]`, list(Action{Command: []string{"/bin/x"}}), nil},

			{`"onChange": "nginx -s reload"`, nil, bad(`: "nginx -s reload" is not a list`)},
			{`"onChange": [5]`, nil, bad(`[0]: 5 is not an object`)},
			{`"onChange": [{}]`, nil, bad(`[0] says nothing to do`)},
			{`"onChange": [{"reload": "x", "restart": "x"}]`, nil, bad(`[0] has both reload and restart`)},
			{`"onChange": [{"reload": "*"}]`, nil, bad(`[0].reload: "*" is not the name of a unit`)},
			{`"onChange": [{"reload": ""}]`, nil, bad(`[0].reload: "" is not the name of a unit`)},
			{`"onChange": [{"reload": true}]`, nil, bad(`[0].reload: true is not a string`)},
			{`"onChange": [{"reload": "x", "user": "y"}]`, nil, bad(`[0].user has no effect without command or check`)},
			{`"onChange": [{"reload": "x", "unit": "y"}]`, nil, bad(`[0].unit has no effect without signal`)},
			{`"onChange": [{"reload": "x", "name": "y"}]`, nil, bad(`[0].name has no effect without haproxy`)},
			{`"onChange": [{"reload": "x", "when": "y"}]`, nil, bad(`[0]: "when" is not a known field`)},
			{`"onChange": [{"relod": "x"}]`, nil, bad(`[0]: "relod" is not a known field`)},
			{`"onChange": [{"command": "/bin/x"}]`, nil, bad(`[0].command: "/bin/x" is not a list`)},
			{`"onChange": [{"command": []}]`, nil, bad(`[0].command is empty`)},
			{`"onChange": [{"command": ["x"]}]`, nil, bad(`[0].command[0]: "x" is not an absolute path`)},
			{`"onChange": [{"command": ["/x", 5]}]`, nil, bad(`[0].command[1]: 5 is not a string`)},
			{`"onChange": [{"signal": "HUP"}]`, nil, bad(`[0] says not who is to get the signal`)},
			{`"onChange": [{"signal": "HUP", "unit": "x", "pidFile": "/x"}]`, nil, bad(`[0] has both unit and pidFile`)},
			{`"onChange": [{"signal": "KILL", "unit": "x"}]`, nil, bad(`[0].signal: "KILL" is not a known signal`)},
			{`"onChange": [{"signal": 1, "unit": "x"}]`, nil, bad(`[0].signal: 1 is not a known signal`)},
			{`"onChange": [{"haproxy": "127.0.0.1:9999"}]`, nil, bad(`[0].haproxy is not the absolute path of a file`)},
			{`"onChange": [{"reload": "x", "timeoutInS": 0}]`, nil, bad(`[0].timeoutInS: 0 is not a number of whole seconds`)},
			{`"onChange": [{"reload": "x", "timeoutInS": 3601}]`, nil, bad(`[0].timeoutInS: 3601 is more than 3600`)},
			{`"onChange": [{"reload": "x", "splayInS": "1h"}]`, nil, bad(`[0].splayInS: "1h" is not a number of whole seconds`)},
		})
		for _, window := range []string{"", "02:00", "2:00-4:00", "02:00-24:00", "02:60-03:00", "Foo 02:00-03:00", "Mon-Fri-Sat 02:00-03:00", " 02:00-03:00", "Mon  02:00-03:00", "02:00-03:00-04:00", "+2:00-03:00"} {
			testFields(t, at.place, actions, []fieldTest{{fmt.Sprintf(`"onChange": [{"reload": "x", "window": %q}]`, window), nil, bad(fmt.Sprintf(`[0].window: %q is not a time of the day`, window))}})
		}
	}
}

// What an entry says counts in place of what is said of all, and an empty list is something that it says.
func TestTheNearestOnChangeCounts(t *testing.T) {
	cfg, ps := Parse("", entries(`"onChange": [{"reload": "all"}]`,
		`"`+www+`"`,
		entryText(api, `, "kvfs": {"onChange": [{"reload": "own"}]}`),
		entryText(www, `, "certificateStoreLocation": "/t", "kvfs": {"onChange": []}`),
		entryText(api, `, "certificateStoreLocation": "/t", "kvfs": {"layouts": ["v3"]}`)))
	if cfg == nil || len(ps) > 0 {
		t.Fatal(ps)
	}
	for i, want := range []string{"all.service", "own.service", "", "all.service"} {
		got := ""
		for _, a := range cfg.Certificates[i].OnChange {
			got += a.Unit
		}
		if got != want {
			t.Errorf("entry %d: %q, want %q", i, got, want)
		}
	}
	cfg, ps = Parse("", entries(``, entryText(www, `, "kvfs": {"onChange": [{"reload": "a"}]}`), entryText(www, `, "customSymbolicLinkName": "x", "kvfs": {"onChange": [{"reload": "b"}]}`)))
	if cfg == nil || len(ps) != 1 || !strings.Contains(ps[0].Hint, "the onChange of line") {
		t.Fatalf("%v", ps)
	}
	for _, c := range cfg.Certificates {
		if !reflect.DeepEqual(c.OnChange, []Action{{Verb: "reload", Unit: "a.service"}}) {
			t.Errorf("%+v", c.OnChange)
		}
	}
	if _, ps := Parse("", entries(`"stores": {"/s": {"onChange": []}}`, `"`+www+`"`)); !ps.HasErrors() {
		t.Error("a store may say it")
	}
	if _, ps := Parse("", entries(`"onChange": [`+strings.Repeat(`{"reload": "x"},`, maxActions)+`{"reload": "x"}]`, `"`+www+`"`)); !ps.HasErrors() {
		t.Error("a list without end")
	}
}

// Of two entries of one certificate it is said when they differ, in whatever.
func TestActionsDifferByEveryField(t *testing.T) {
	for i := range reflect.TypeFor[Action]().NumField() {
		var a, b Action
		switch f := reflect.ValueOf(&b).Elem().Field(i); f.Interface().(type) {
		case string:
			f.SetString("x")
		case []string:
			f.Set(reflect.ValueOf([]string{"x"}))
		case time.Duration:
			f.SetInt(1)
		case Window:
			f.Set(reflect.ValueOf(Window{To: 1}))
		}
		if a.equal(b) || reflect.DeepEqual(a, b) || !b.equal(b) {
			t.Errorf("%s makes no difference", reflect.TypeFor[Action]().Field(i).Name)
		}
	}
}
