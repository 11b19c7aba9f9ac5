package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kvfs/alert"
	"kvfs/config"
	"kvfs/hook"
	"kvfs/image"
	"kvfs/status"
	"kvfs/tree"
)

// keyHook begins the records of the image that say for which versions hooks have been done.
const keyHook = "h"

// hookRecords are those of the image whose keys begin alike, as packages hook and alert see them.
type hookRecords struct {
	image  *image.Image
	prefix string
}

var (
	_ hook.Records  = hookRecords{}
	_ alert.Records = hookRecords{}
)

func (r hookRecords) All() map[string][]byte {
	all := map[string][]byte{}
	for key, value := range r.image.All(r.prefix) {
		all[strings.TrimPrefix(key, r.prefix)] = value
	}
	return all
}

func (r hookRecords) Put(changes map[string][]byte) error {
	var all []image.Change
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		all = append(all, image.Change{Key: r.prefix + name, Value: changes[name]})
	}
	return r.image.Enter(all...)
}

func (d *daemon) newHooks() *hook.Runner {
	return hook.New(hook.Options{Serving: d.hooked, Paths: d.pathsOf, Content: d.combined, Records: hookRecords{d.image, keyHook}, Logger: d.log, Programs: d.programs, Seed: machineSeed(),
		Spared: func() []int { return []int{d.client.Keeper(), d.fs.Stats().Publisher, d.audit.process()} }})
}

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run USER PROGRAM [ARGUMENT...]",
		Short: "become the program of a hook (started by a server)",
		Long: `The process of a hook before it is that of its program: the server itself is not to wait
for the file system that the program lies on. The user is a list of numbers, or empty.`,
		Hidden: true,
		Args:   takes(2, math.MaxInt, "a user and a program"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := hook.Become(args[0], args[1:])
			if errno := syscall.Errno(0); errors.As(err, &errno) {
				return &failure{code: exitFailed, kind: "failed", fact: err.Error(), said: true} // the server says it
			}
			return fail(exitUsage, "usage", "this command is for a server to start", "%v", err)
		},
	}
}

// lookAtHooks is called after each publication.
func (d *daemon) lookAtHooks() {
	d.published.Store(true)
	d.hooks.Look()
	d.progress.signal()
	d.spent.signal()
}

// lookAgain is called when real files have been written.
func (d *daemon) lookAgain() {
	if d.published.Load() {
		d.hooks.Look()
	}
}

// hooked are the certificates that have hooks, as they are served now. Of several entries of a certificate the hooks
// of all count; one that the settings have no more is known for as long as its names stay, since it may come back.
func (d *daemon) hooked() (all []hook.Certificate) {
	w := d.wanted()
	has := func(c config.Certificate) bool { return len(c.OnChange) > 0 }
	if !slices.ContainsFunc(w.cfg.Certificates, has) && !slices.ContainsFunc(w.removed, func(r removed) bool { return has(r.Certificate) }) {
		return nil
	}
	at, late, current := map[string]int{}, map[string]bool{}, map[string]bool{}
	shared := map[*config.Action][]hook.Action{} // by the first: most certificates have those of all
	for n, c := range w.certificates() {         // those that the settings have are first
		key, gone := source(c).Key(), n >= len(w.cfg.Certificates)
		if gone && current[key] {
			continue
		}
		current[key] = current[key] || !gone
		if !has(c) {
			continue
		}
		i, known := at[key]
		if !known {
			i, at[key] = len(all), len(all)
			all = append(all, hook.Certificate{Key: key, Name: c.Ref.Vault() + "." + c.Ref.Name()})
		}
		actions := shared[&c.OnChange[0]]
		if actions == nil {
			for _, a := range c.OnChange {
				actions = append(actions, hookAction(a))
			}
			shared[&c.OnChange[0]] = slices.Clip(actions)
		}
		if len(all[i].Actions) > 0 && &all[i].Actions[0] != &actions[0] {
			actions = slices.Concat(all[i].Actions, actions)
		}
		all[i].Actions = actions
		late[key] = late[key] || d.disks.late(c.Store)
	}
	for _, c := range d.syncer.Report().Certificates {
		if i, ok := at[c.Source.Key()]; ok && !late[c.Source.Key()] { // it leads nowhere else until the files are written
			all[i].Version, all[i].NotAfter = string(c.Version), c.NotAfter
		}
	}
	return all
}

func hookAction(a config.Action) hook.Action {
	verbs := map[string]hook.Verb{"reload": hook.Reload, "reloadOrRestart": hook.ReloadOrRestart, "restart": hook.Restart}
	return hook.Action{Verb: verbs[a.Verb], Unit: a.Unit, Command: a.Command, User: a.User, Signal: a.Signal, PIDFile: a.PIDFile,
		HAProxy: a.HAProxy, Name: a.Name, Check: a.Check, Timeout: a.Timeout, Splay: a.Splay, Window: hook.Window(a.Window)}
}

// pathsOf are the links of certificates in all stores, by their keys.
func (d *daemon) pathsOf(keys []string) map[string][]string {
	all := map[string][]string{}
	for _, key := range keys {
		all[key] = nil
	}
	for _, c := range d.wanted().certificates() {
		key := source(c).Key()
		if paths, asked := all[key]; asked {
			all[key] = append(paths, linkPaths(c, true)...)
		}
	}
	return all
}

// combined is a certificate with its chain and key, from memory: this process does not read from the mount that it
// answers for.
func (d *daemon) combined(key string) ([]byte, error) {
	s := d.fs.Snapshot()
	for _, c := range d.wanted().certificates() {
		if source(c).Key() != key || !c.Linked && c.LinkName == "" {
			continue
		}
		if text := combinedFrom(s, c); text != nil {
			return text, nil
		}
	}
	return nil, &hook.Error{Fact: "there are no PEM files with the key of this certificate", Hint: `add "v3" to its layouts; a key that must not leave the vault cannot be had`}
}

// combinedFrom finds the files of a certificate, in any of the layouts that have them.
func combinedFrom(s *tree.Snapshot, c config.Certificate) []byte {
	base := c.Ref.Vault() + "." + c.Ref.Name()
	for _, files := range [][]string{{c.LinkName}, {base}, {base + ".pem", base + ".keyid"}, {"live/" + base + "/fullchain.pem", "live/" + base + "/privkey.pem"}} {
		var parts [][]byte
		for _, file := range files {
			if n := resolveNode(s, tree.StoreDir(c.Store)+"/"+file); n != nil && n.Kind == tree.File && n.Away == nil {
				parts = append(parts, n.Content())
			}
		}
		if text := bytes.Join(parts, nil); len(parts) == len(files) && bytes.Contains(text, []byte("PRIVATE KEY-----")) {
			return text
		}
	}
	return nil
}

// resolveNode is what a path of a snapshot leads to, through the links of stores, which stay in their store; nil if
// that is nothing.
func resolveNode(s *tree.Snapshot, path string) *tree.Node {
	at, _ := s.Node(tree.Root)
	for links, rest := 0, strings.Split(path, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at, _ = s.Node(at.Parent)
		} else if n, ok := s.Lookup(at.ID, name); !ok {
			return nil
		} else if n.Kind != tree.Link {
			at = n
		} else if links++; links > 8 {
			return nil
		} else {
			rest = append(strings.Split(n.Target, "/"), rest...)
		}
	}
	return at
}

// late tells whether the files of a store, which are there instead of a mount, are not as they should be, or not yet.
func (ds *disks) late(store string) bool {
	ds.seen.Lock()
	writing := !ds.since.IsZero() || ds.due != nil
	ds.seen.Unlock()
	return slices.ContainsFunc(ds.report(), func(dir status.Directory) bool {
		return dir.Path == store && dir.Files == filesInstead && (writing || dir.Error != nil)
	})
}

// checkHooks refuses what a kvfs with the rights of this process, or the server of a unit, has no right to do.
func (w wanted) checkHooks(unit string) (problems config.Problems) {
	seen := map[string]bool{"": true}
	refuse := func(a config.Action, line, column int) {
		if fact, hint := refusedAction(a, unit); !seen[fact] {
			seen[fact] = true
			problems = append(problems, config.Problem{Severity: config.Error, Line: line, Column: column, Fact: fact, Hint: hint})
		}
	}
	for _, c := range w.cfg.Certificates {
		for _, a := range c.OnChange {
			refuse(a, c.Line, c.Column)
		}
	}
	for _, a := range w.cfg.Alerts.OnAlert {
		refuse(a.Action, a.Line, a.Column)
	}
	return problems
}

func refusedHooks(o origin, problems config.Problems) error {
	if len(problems) == 0 {
		return nil
	}
	return fail(exitSettings, "settings", problems[0].Hint, "%s: %s", position(o.name(), problems[0]), problems[0].Fact)
}

// refusedAction says why an action can never succeed: without rights there are no other users, and no signals to
// their processes.
func refusedAction(a config.Action, unit string) (fact, hint string) {
	what := hookAction(a)
	switch {
	case unit != "" && a.Unit == unit:
		return fmt.Sprintf("the hook %q is for the unit of kvfs itself", what), "name the unit that is to load the certificate"
	case unit != "" && a.PIDFile != "":
		return fmt.Sprintf("the hook %q: the server of a systemd unit has no right to send signals to other users' processes", what), `signal a unit instead: "unit" in place of "pidFile", which systemd does`
	case a.User == "" || unit == "" && (os.Geteuid() == 0 || isSelf(a.User)):
		return "", ""
	case unit != "":
		return fmt.Sprintf("the hook %q is to be run as the user %s, and the server of a systemd unit runs everything as its own", what, a.User), `leave "user" out, and restart a unit that does the work`
	}
	return fmt.Sprintf("the hook %q is to be run as the user %s, which needs root", what, a.User), `leave "user" out, or run kvfs as root`
}

// isSelf tells whether a user, by name or number, is this process's.
func isSelf(name string) bool {
	own := strconv.Itoa(os.Geteuid())
	u, err := user.Lookup(name)
	return name == own || err == nil && u.Uid == own
}

// hookProblems are those of this machine, where another one may be meant.
func hookProblems(w wanted) (problems config.Problems) {
	seen := map[string]bool{}
	lacks := func(p config.Problem, what, name string, there func(string) bool) {
		if name == "" || seen[what+name] {
			return
		}
		if seen[what+name] = true; !there(name) {
			p.Severity, p.Fact = config.Warning, fmt.Sprintf("%s: %s %s on this machine", p.Fact, name, what)
			problems = append(problems, p)
		}
	}
	lacking := func(a config.Action, p config.Problem) {
		for _, argv := range [][]string{a.Command, a.Check} {
			if len(argv) > 0 {
				lacks(p, "is not a program", argv[0], isProgram)
			}
		}
		lacks(p, "is not a user", a.User, isUser)
	}
	for _, c := range w.cfg.Certificates {
		for _, a := range c.OnChange {
			lacking(a, config.Problem{Line: c.Line, Column: c.Column, Fact: "onChange", Hint: "it has to be there when the certificate is renewed"})
		}
	}
	for _, a := range w.cfg.Alerts.OnAlert {
		lacking(a.Action, config.Problem{Line: a.Line, Column: a.Column, Fact: "onAlert", Hint: "it has to be there when there is something to tell of"})
	}
	return problems
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// isUser tells whether there is a user of this name, or number.
func isUser(name string) bool {
	_, byName := user.Lookup(name)
	_, byID := user.LookupId(name)
	return byName == nil || byID == nil
}

// hookStatus is what has become of the hooks, and of what is told of alerts.
func (d *daemon) hookStatus() (all []status.Hook) {
	for _, h := range d.hooks.Report() {
		all = append(all, statusOfHook("", h.Action.String(), h))
	}
	for _, h := range d.told.Report() {
		all = append(all, statusOfHook(status.OnAlert, h.Name, hook.Status{State: hook.State(h.State), Pending: h.Pending, LastRun: h.LastRun, LastSuccess: h.LastSuccess,
			Runs: h.Runs, Failures: h.Failures, Next: h.Next, Err: (*hook.Error)(h.Err)}))
	}
	return all
}

// statusOfHook is what people and programs see of a hook, for what it is done and what it is called.
func statusOfHook(on, action string, h hook.Status) status.Hook {
	s := status.Hook{On: on, Action: action, State: string(h.State), Pending: h.Pending, LastRun: status.Time(h.LastRun), LastSuccess: status.Time(h.LastSuccess),
		Runs: h.Runs, Failures: h.Failures, NextTry: status.Time(h.Next), Note: h.Note}
	if h.Err != nil {
		s.Error = &status.Error{Kind: "hook", Fact: h.Err.Fact, Hint: h.Err.Hint}
	}
	return s
}
