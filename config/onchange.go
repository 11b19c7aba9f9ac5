package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Action is something to do when a certificate has been renewed (onChange). One of its kinds is set: Verb with Unit, Command, Signal
// with Unit or PIDFile, or HAProxy.
type Action struct {
	// Verb is "reload", "restart" or "reloadOrRestart", which restarts what cannot be reloaded.
	Verb string
	Unit string // of systemd, with its suffix
	// Command is the absolute path of a program and its arguments.
	Command []string
	User    string // who runs Command and Check, a name or a number; "" for the user of kvfs
	Signal  string // without SIG
	PIDFile string // an absolute path
	HAProxy string // the absolute path of its stats socket
	Name    string // of the certificate in haproxy; "" for any of its links
	// Check is a command that has to succeed first.
	Check   []string
	Timeout time.Duration // 0 for the usual one
	Splay   time.Duration
	Window  Window
}

// Window is a time of the day on some days, by the clock of the machine. The zero Window is none.
type Window struct {
	Days     uint8 // on which it opens: 1<<time.Weekday; 0 for all
	From, To int   // minutes of the day; a To that is not later is one of the next day
}

// equal tells whether two actions are the same in everything.
func (a Action) equal(b Action) bool {
	return a.Verb == b.Verb && a.Unit == b.Unit && slices.Equal(a.Command, b.Command) && a.User == b.User && a.Signal == b.Signal && a.PIDFile == b.PIDFile &&
		a.HAProxy == b.HAProxy && a.Name == b.Name && slices.Equal(a.Check, b.Check) && a.Timeout == b.Timeout && a.Splay == b.Splay && a.Window == b.Window
}

const (
	maxActions  = 32
	maxArgs     = 100
	maxTimeoutS = 3600
	maxSplayS   = 7 * 24 * 3600
)

const onChangeHint = `write [{"reload": "nginx.service"}]`

// onChange reads what a block says is to be done after renewals. What it leaves out stays as it is; an empty list is nothing to do.
func (o *object) onChange(actions *[]Action) {
	const name = "onChange"
	n := o.get(name)
	if n == nil {
		return
	}
	items, ok := o.list(n, o.join(name), onChangeHint)
	if !ok {
		return
	}
	if len(items) > maxActions {
		o.fault(n.at(), fmt.Sprintf("%s: a list of %d actions", o.join(name), len(items)), fmt.Sprintf("write at most %d", maxActions))
		return
	}
	var all []Action
	for i, item := range items {
		if item.kind == kindNull || o.report.enough() {
			continue
		}
		if a, ok := o.action(item, at(o.join(name), i)); ok {
			all = append(all, a)
		}
	}
	*actions = all
}

// actionKinds are the fields of which an action has one.
func actionKinds() []string {
	return []string{"reload", "reloadOrRestart", "restart", "command", "signal", "haproxy"}
}

// verbs are those of them that name a unit and what is done to it.
func verbs() []string { return actionKinds()[:3] }

// belongings are fields that mean something beside some kinds alone. A check may be there whatever is done, and have a user.
func belongings() map[string][]string {
	return map[string][]string{"unit": {"signal"}, "pidFile": {"signal"}, "name": {"haproxy"}, "user": {"command", "check"}}
}

// action reads one action. It means something only if nothing was wrong.
func (r reader) action(n *node, path string) (a Action, ok bool) {
	if !r.isObject(n, path, `write {"reload": "nginx.service"}`) {
		return a, false
	}
	o := r.object(n, path, fieldsOf[actionFields](r.report))
	defer o.doneStrictly()
	var kinds []string
	for _, kind := range actionKinds() {
		if o.get(kind) != nil {
			kinds = append(kinds, kind)
		}
	}
	switch {
	case len(kinds) == 0 && len(o.unknown) > 0: // that is what is wrong, and is said
	case len(kinds) == 0:
		o.fault(n.at(), path+" says nothing to do", "write one of "+enumerate(actionKinds()))
	case len(kinds) > 1:
		o.fault(o.keyAt(kinds[1]), path+" has both "+kinds[0]+" and "+kinds[1], "make two actions of it")
	}
	o.belongs("unit", "pidFile", "name", "user")
	o.target(&a)
	a.Check = o.argv("check")
	if o.get("user") != nil {
		a.User = (&settings{reader: r}).principal(o, "user")
	}
	a.Timeout = o.bounded("timeoutInS", 1, maxTimeoutS)
	a.Splay = o.bounded("splayInS", 0, maxSplayS)
	if n := o.get("window"); n != nil {
		a.Window = o.window(n, o.join("window"))
	}
	return a, len(kinds) == 1
}

// belongs refuses fields that mean nothing beside what else is there.
func (o *object) belongs(names ...string) {
	for _, name := range names {
		if o.get(name) == nil {
			continue
		}
		with := belongings()[name]
		if !slices.ContainsFunc(with, func(w string) bool { return o.get(w) != nil }) {
			o.fault(o.keyAt(name), o.join(name)+" has no effect without "+strings.Join(with, " or "), "remove it")
		}
	}
}

// target reads what is done to whom.
func (o *object) target(a *Action) {
	for _, verb := range verbs() {
		if o.get(verb) != nil {
			a.Verb, a.Unit = verb, o.unit(verb)
		}
	}
	a.Command = o.argv("command")
	a.HAProxy = o.file("haproxy", "/run/haproxy/admin.sock")
	if n := o.get("name"); n != nil {
		a.Name, _ = o.text(n, o.join("name"))
	}
	if o.get("signal") == nil {
		return
	}
	a.Signal, _ = oneWordOf[signalName](o, "signal", "signal")
	a.PIDFile = o.file("pidFile", "/run/nginx.pid")
	a.Unit = o.unit("unit")
	switch unit, file := o.get("unit"), o.get("pidFile"); {
	case unit == nil && file == nil:
		o.fault(o.keyAt("signal"), o.path+` says not who is to get the signal`, `add "unit": "nginx.service", or "pidFile": "/run/nginx.pid"`)
	case unit != nil && file != nil:
		o.fault(o.keyAt("pidFile"), o.path+" has both unit and pidFile", "leave one of them out")
	}
}

// unitChars are those of a unit's name. No others, so that it is no pattern.
const unitChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@-\\"

// unit takes the name of a unit, as systemctl does: what has no suffix is a service.
func (o *object) unit(name string) string {
	n := o.get(name)
	if n == nil {
		return ""
	}
	unit, ok := o.text(n, o.join(name))
	switch {
	case !ok:
		return ""
	case unit == "" || len(unit) > maxName || strings.Trim(unit, unitChars) != "":
		o.mismatch(n, o.join(name), "the name of a unit", "write it as systemctl has it, such as nginx.service")
		return ""
	}
	for _, suffix := range []string{".service", ".socket", ".target", ".path", ".timer", ".mount", ".slice", ".scope"} {
		if strings.HasSuffix(unit, suffix) {
			return unit
		}
	}
	return unit + ".service"
}

// argv takes a command: the absolute path of a program, and its arguments.
func (o *object) argv(name string) (argv []string) {
	const hint = `write the whole path and the arguments as a list, such as ["/usr/sbin/nginx", "-t"]`
	n := o.get(name)
	if n == nil {
		return nil
	}
	items, ok := o.list(n, o.join(name), hint)
	if !ok {
		return nil
	}
	if len(items) > maxArgs {
		o.fault(n.at(), fmt.Sprintf("%s: a list of %d arguments", o.join(name), len(items)), "write a script")
		return nil
	}
	for i, item := range items {
		arg, ok := o.text(item, at(o.join(name), i))
		switch {
		case !ok:
			return nil
		case strings.Contains(arg, "\x00"):
			o.fault(item.at(), at(o.join(name), i)+" has a null character", "remove it")
			return nil
		}
		argv = append(argv, arg)
	}
	switch {
	case len(argv) == 0:
		o.fault(n.at(), o.join(name)+" is empty", hint)
	case !strings.HasPrefix(argv[0], "/"): // looked for where? No shell sees it
		o.mismatch(items[0], at(o.join(name), 0), "an absolute path", hint)
	}
	return argv
}

// bounded takes a number of seconds between two bounds.
func (o *object) bounded(name string, least, most int) time.Duration {
	n := o.get(name)
	if n == nil {
		return 0
	}
	d, ok := o.seconds(n, o.join(name), int64(least))
	if ok && d > time.Duration(most)*time.Second {
		o.fault(n.at(), fmt.Sprintf("%s: %s is more than %d", o.join(name), n.shown(), most), fmt.Sprintf("write at most %d", most))
	}
	return d
}

const windowHint = `write "02:00-04:30", or with days "Sat,Sun 02:00-04:30" or "Mon-Fri 22:00-05:00"`

// window takes a time of the day, perhaps after days.
func (r reader) window(n *node, path string) (w Window) {
	text, ok := r.text(n, path)
	if !ok {
		return w
	}
	days, times, hasDays := strings.Cut(text, " ")
	if !hasDays {
		days, times = "", text
	}
	from, to, ok := strings.Cut(times, "-")
	if ok && hasDays {
		w.Days, ok = parseDays(days)
	}
	if ok {
		w.From, ok = minutes(from)
	}
	if ok {
		w.To, ok = minutes(to)
	}
	if !ok {
		r.mismatch(n, path, "a time of the day", windowHint)
		return Window{}
	}
	if w == (Window{}) {
		w.Days = 1<<7 - 1 // midnight to midnight is no zero Window
	}
	return w
}

func parseDays(text string) (days uint8, ok bool) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(weekdays(), first), slices.Index(weekdays(), last)
		if from < 0 || to < 0 {
			return 0, false
		}
		for day := from; ; day = (day + 1) % 7 {
			days |= 1 << day
			if day == to {
				break
			}
		}
	}
	return days, true
}

// weekdays in the order of time.Weekday.
func weekdays() []string { return []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"} }

// minutes reads HH:MM.
func minutes(text string) (int, bool) {
	hour, minute, ok := strings.Cut(text, ":")
	h, err := strconv.ParseUint(hour, 10, 8)
	m, err2 := strconv.ParseUint(minute, 10, 8)
	return int(h)*60 + int(m), ok && err == nil && err2 == nil && len(hour) == 2 && len(minute) == 2 && h < 24 && m < 60
}
