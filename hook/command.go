package hook

import (
	"context"
	"strings"
)

// maxValue bounds each variable of the environment: the kernel takes 128 KiB of one.
const maxValue = 64 << 10

// command runs the command of an action, once for all changes, or for as many of them as one environment has room for.
func (r *Runner) command(ctx context.Context, a Action, changes []Change) (done []Change, err error) {
	for len(changes) > 0 {
		n, env := environment(changes)
		if err := r.opts.Programs.Run(ctx, a.program(a.Command, env)); err != nil {
			return done, err
		}
		done, changes = append(done, changes[:n]...), changes[n:]
	}
	return done, nil
}

// environment tells of the first changes, as many as there is room for.
func environment(changes []Change) (n int, env []string) {
	var names, before, after, paths []string
	room := maxValue
	for _, c := range changes {
		if room -= len(strings.Join(c.Paths, "\n")) + len(c.Name) + len(c.Old) + len(c.New) + 2; room < 0 && n > 0 {
			break
		}
		n++
		names, before, after, paths = append(names, c.Name), append(before, c.Old), append(after, c.New), append(paths, c.Paths...)
	}
	return n, []string{
		"KVFS_CERT=" + strings.Join(names, " "), "KVFS_OLD_VERSION=" + strings.Join(before, " "),
		"KVFS_NEW_VERSION=" + strings.Join(after, " "), "KVFS_PATHS=" + strings.Join(paths, "\n"),
	}
}

// check runs the command that has to succeed first.
func (r *Runner) check(ctx context.Context, a Action) error {
	if len(a.Check) == 0 {
		return nil
	}
	if err := r.opts.Programs.Run(ctx, a.program(a.Check, nil)); err != nil {
		e := Explained(err)
		return failed(e.Hint, "the check before it has failed: %s", e.Fact)
	}
	return nil
}

// program is a run of one of the commands of an action.
func (a Action) program(argv, env []string) Program {
	return Program{Name: a.String(), Argv: argv, User: a.User, Env: env}
}
