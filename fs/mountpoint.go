package fs

import (
	"bufio"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MountpointError says why nothing may be mounted at a path. Fact and Hint are
// for a person.
type MountpointError struct {
	Path       string
	Fact, Hint string
	// Mounted is set if a living kvfs serves the path already.
	Mounted bool
	// System is set if it is a system directory, as it is on every machine.
	System bool
	// InTheWay are the names that a mount would hide, if that is what is wrong.
	InTheWay []string
}

func (e *MountpointError) Error() string { return e.Fact }

// System directories that programs need as they are. What is below them may be a
// store, except where the second list says so too. The third are those of the first that hold certificates.
var (
	systemDirs = []string{"/", "/bin", "/boot", "/dev", "/etc", "/etc/pki", "/etc/pki/tls", "/etc/pki/tls/certs", "/etc/pki/tls/private",
		"/etc/ssl", "/etc/ssl/certs", "/etc/ssl/private", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/proc",
		"/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/usr/local/share/ca-certificates",
		"/usr/share/ca-certificates", "/var", "/var/lib", "/var/lib/waagent", "/var/log", "/var/run", "/var/tmp"}
	systemTrees     = []string{"/boot", "/dev", "/proc", "/sys", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin"}
	certificateDirs = []string{"/etc/pki/tls", "/etc/pki/tls/certs", "/etc/pki/tls/private", "/etc/ssl", "/etc/ssl/certs", "/etc/ssl/private",
		"/usr/local/share/ca-certificates", "/usr/share/ca-certificates"}
)

// CheckMountpoint tells whether a store may be mounted at a path: that it is no
// system directory, empty if it exists, not served by a living kvfs, and that
// none of the files kvfs itself needs (own) lies below it. Directories that lead to
// other stores (inside) and to nothing else may be there. The error is a
// *MountpointError. stale is true if a mount of a dead kvfs is in the way, which
// Recover takes away.
func CheckMountpoint(at string, inside []string, own ...string) (stale bool, err error) {
	refuse := func(hint, format string, args ...any) (bool, error) {
		return false, &MountpointError{Path: at, Fact: fmt.Sprintf(format, args...), Hint: hint}
	}
	const another = "choose another directory with --store or certificateStoreLocation"
	if !filepath.IsAbs(at) {
		return refuse("write the whole path", "%s is a relative path", at)
	}
	real := Resolve(at)
	if slices.Contains(systemDirs, filepath.Clean(at)) || slices.Contains(systemDirs, real) || slices.ContainsFunc(systemTrees, func(t string) bool { return within(t, real) }) {
		return false, &MountpointError{Path: at, System: true, Hint: another,
			Fact: fmt.Sprintf("%s is a system directory: a mount would hide what is in it", at)}
	}
	for _, file := range own {
		if file != "" && within(real, Resolve(file)) {
			return refuse("move it, or "+another, "%s lies below the store %s, where the mount would hide it", file, at)
		}
	}
	if Visible(real) {
		if alive(real, hangPatience) {
			return false, &MountpointError{Path: at, Mounted: true, Fact: fmt.Sprintf("kvfs is already mounted at %s", at),
				Hint: fmt.Sprintf("stop it with: kvfs umount %s", at)}
		}
		return true, nil
	}
	switch entries, err := inTheWay(real, inside); {
	case errors.Is(err, iofs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.ENOTDIR):
		return refuse(another, "%s is not a directory", at)
	case errors.Is(err, unix.ENOTCONN):
		return refuse(fmt.Sprintf("take it away with: umount -l %s", at), "%s is the mount of another file system whose server has died", at)
	case err != nil:
		return refuse(another, "%s cannot be read: %v", at, errors.Unwrap(err))
	case len(entries) > 0:
		return false, &MountpointError{Path: at, InTheWay: namesOf(entries), Hint: "move them away, have real files written beside them (kvfs.persistent: \"instead\"), or " + another,
			Fact: fmt.Sprintf("%s is not empty (%s): a mount would hide what is in it", at, list(entries))}
	}
	return false, nil
}

func namesOf(entries []os.DirEntry) (all []string) {
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// HoldsCertificates tells whether a path is that of a system directory in which programs look for certificates or
// keys, and in which people put their own beside what is there. The path is a resolved one: nothing is looked at, so
// the server may ask of a store that it serves.
func HoldsCertificates(at string) bool { return slices.Contains(certificateDirs, at) }

// inTheWay lists what is in a directory besides empty directories that lead to
// stores.
func inTheWay(dir string, stores []string) (found []os.DirEntry, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		leads := e.IsDir() && slices.ContainsFunc(stores, func(s string) bool { return within(path, s) })
		if leads {
			below, err := inTheWay(path, stores)
			if err == nil && len(below) == 0 {
				continue
			}
		}
		found = append(found, e)
	}
	return found, nil
}

func list(entries []os.DirEntry) string {
	if len(entries) == 1 {
		return entries[0].Name()
	}
	return fmt.Sprintf("%s and %d more", entries[0].Name(), len(entries)-1)
}

// Prepare makes the directory of a mountpoint if it is not there. The error is a
// *MountpointError.
func Prepare(at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return &MountpointError{Path: at, Fact: fmt.Sprintf("%s cannot be made: %v", at, errors.Unwrap(err)),
			Hint: "choose a directory you may write to with --store"}
	}
	return nil
}

// Recover takes the mount of a dead kvfs away, and those inside it.
func Recover(at string) error {
	if os.Geteuid() == 0 {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && Visible(at) { // with the one around it, it goes by itself
			return fmt.Errorf("unmounting the stale mount at %s: %w", at, err)
		}
		return nil
	}
	if err := fuserUnmount(at); err != nil {
		return fmt.Errorf("unmounting the stale mount at %s: %w", at, err)
	}
	return nil
}

// within tells whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// Resolve follows the symbolic links of as much of a path as exists. A dead mount
// at its end is no hindrance.
func Resolve(path string) string {
	path = filepath.Clean(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(Resolve(parent), filepath.Base(path))
	}
	return path
}

// ResolveOutside is Resolve, but what lies in one of these stores is left as it is:
// links there are ours, and a store inside another one takes the place of a name.
func ResolveOutside(path string, stores []string) string {
	path = filepath.Clean(path)
	for outer := path; outer != "/"; outer = filepath.Dir(outer) {
		if real := Resolve(outer); slices.Contains(stores, real) {
			return filepath.Join(real, strings.TrimPrefix(path, outer))
		}
	}
	return Resolve(path)
}

// RecoverAround takes away mounts of a dead kvfs that lie around a path.
func RecoverAround(path string) error {
	mounts, err := Mounted()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if !m.Alive && m.Path != path && within(m.Path, path) {
			if err := Recover(m.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// MountInfo is one mount of kvfs on this machine.
type MountInfo struct {
	Path  string
	Alive bool // a server answers
}

// Mounted lists the mounts of kvfs in this mount namespace.
func Mounted() ([]MountInfo, error) { return listMounts("", hangPatience) }

// MountedBy lists those with this Options.Source. Unlike Mounted it is for when nobody
// may be serving for the moment, and does not wait to see whether somebody answers.
func MountedBy(source string) ([]MountInfo, error) { return listMounts(source, restPatience) }

func listMounts(source string, patience time.Duration) ([]MountInfo, error) {
	all, err := kvfsMounts()
	if err != nil {
		return nil, err
	}
	var ms []MountInfo
	for _, m := range all {
		if source == "" || m.source == source {
			ms = append(ms, MountInfo{Path: m.at, Alive: alive(m.at, patience)})
		}
	}
	return ms, nil
}

// Visible tells whether a mount of kvfs is at a path: not taken away by somebody
// else, and not hidden below another mount at the same path (a mount over one of
// its parents is not noticed). The path is a resolved one. It does not ask the mount itself, so the
// server may call it.
func Visible(at string) bool {
	all, err := kvfsMounts()
	return err == nil && slices.ContainsFunc(all, func(m mount) bool { return m.at == at })
}

// mount is a line of the table of mounts.
type mount struct{ at, kind, source string }

// kvfsMounts reads our mounts from /proc (proc_pid_mountinfo(5)), the first that came
// first. One that another mount covers now is left out.
func kvfsMounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer f.Close()
	var all []mount
	at := map[string]int{} // the place of a path in all
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, ok := parseMount(lines.Text())
		if !ok {
			continue
		}
		if i, seen := at[m.at]; seen {
			all[i] = m // the uppermost counts
			continue
		}
		at[m.at] = len(all)
		all = append(all, m)
	}
	return slices.DeleteFunc(all, func(m mount) bool { return m.kind != "fuse.kvfs" }), lines.Err()
}

// parseMount takes a line of mountinfo. Optional fields end in a dash.
func parseMount(line string) (m mount, ok bool) {
	fields := strings.Fields(line)
	dash := slices.Index(fields, "-")
	if len(fields) < 5 || dash < 0 || dash+2 >= len(fields) {
		return mount{}, false
	}
	return mount{at: unescape(fields[4]), kind: fields[dash+1], source: unescape(fields[dash+2])}, true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// alive asks a mount for its statistics. A dead one answers ENOTCONN at once; one
// whose server hangs does not answer, and counts as alive: nobody may replace it
// behind its back.
func alive(at string, patience time.Duration) bool {
	asking, answered := make(chan struct{}), make(chan error, 1)
	// A call into a hung mount cannot be taken back, only left behind.
	go func() {
		close(asking)
		var st unix.Statfs_t
		answered <- unix.Statfs(at, &st)
	}()
	<-asking // on a busy machine that may take longer than the patience
	select {
	case err := <-answered:
		return !errors.Is(err, unix.ENOTCONN)
	case <-time.After(patience):
		return true
	}
}

const (
	hangPatience = time.Second
	restPatience = 50 * time.Millisecond
)
