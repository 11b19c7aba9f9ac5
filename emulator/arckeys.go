package emulator

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	// maxArcKeys bounds the files of clients that never come back.
	maxArcKeys = 64
	// maxArcKeySize is what clients should be ready to read.
	maxArcKeySize = 4096
	// otherDir is the directory of keys that are in a wrong place.
	otherDir = "elsewhere"
)

// arcKeys are the keys of the Azure Arc endpoint that nobody has shown yet. A
// key is good for one request, and its file is there as long as it is good.
type arcKeys struct {
	dir   string // where they are
	realm string // where challenges say they are
	mu    sync.Mutex
	live  []arcKey // oldest first
}

type arcKey struct {
	value string
	files []string // a link before what it points to
}

func (k *arcKeys) open() error {
	if k.dir == "" {
		return nil
	}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of Azure Arc's keys: %w", err)
	}
	return k.sweep()
}

// sweep removes the keys of a run that was killed: they open nothing any more.
// Other files are not ours to remove.
func (k *arcKeys) sweep() error {
	var errs []error
	for _, dir := range []string{k.dir, filepath.Join(k.dir, otherDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("looking for old keys of Azure Arc: %w", err))
		}
		for _, entry := range entries {
			if !isArcKey(entry.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				errs = append(errs, fmt.Errorf("removing an old key of Azure Arc: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// isArcKey tells whether a file has a name that issue gives.
func isArcKey(name string) bool {
	id, isKey := strings.CutSuffix(name, ".key")
	if !isKey {
		id, isKey = strings.CutSuffix(name, ".txt")
	}
	bytes, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	return isKey && err == nil && len(bytes) == 16 && uuid([16]byte(bytes)) == id
}

// issue makes a key and returns the path of its file as a challenge names it.
func (k *arcKeys) issue(fault FaultKind) (realm string, err error) {
	random := make([]byte, 32)
	rand.Read(random)
	key := arcKey{value: hex.EncodeToString(random)}
	name := newUUID() + ".key"
	switch fault {
	case ArcWrongDirectory:
		name = filepath.Join(otherDir, name)
	case ArcWrongSuffix:
		name = strings.TrimSuffix(name, ".key") + ".txt"
	case ArcOversizedKey:
		key.value = strings.Repeat(key.value, maxArcKeySize/len(key.value)+1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if fault == ArcSymlinkKey {
		err = k.writeLinked(&key, name)
	} else {
		err = k.write(&key, name)
	}
	k.live = append(k.live, key)
	if err != nil {
		return "", errors.Join(err, k.drop(len(k.live)-1))
	}
	if len(k.live) > maxArcKeys {
		err = k.drop(0)
	}
	return filepath.Join(k.realm, name), err
}

// write makes the file of a key. It is named only when it is complete.
func (k *arcKeys) write(key *arcKey, name string) error {
	path := filepath.Join(k.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing a key of Azure Arc: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o440)
	if err != nil {
		return fmt.Errorf("writing a key of Azure Arc: %w", err)
	}
	key.files = append(key.files, path)
	_, err = f.WriteString(key.value)
	// The mode of OpenFile is subject to the umask.
	if err := errors.Join(err, f.Chmod(0o440), f.Close()); err != nil {
		return fmt.Errorf("writing a key of Azure Arc: %w", err)
	}
	return nil
}

// writeLinked makes a link in the place of the file; it is relative, so that it
// holds under ArcRealm as well.
func (k *arcKeys) writeLinked(key *arcKey, name string) error {
	target := filepath.Join(otherDir, name)
	if err := k.write(key, target); err != nil {
		return err
	}
	link := filepath.Join(k.dir, name)
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("writing a key of Azure Arc: %w", err)
	}
	key.files = append(key.files, link)
	return nil
}

// redeem tells whether a key is good, and ends it.
func (k *arcKeys) redeem(value string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, key := range k.live {
		if subtle.ConstantTimeCompare([]byte(key.value), []byte(value)) == 1 {
			// A file that stays behind opens nothing.
			_ = k.drop(i)
			return true
		}
	}
	return false
}

// drop ends a key and removes its files. It needs mu held.
func (k *arcKeys) drop(i int) error {
	var errs []error
	for _, file := range k.live[i].files {
		if err := os.Remove(file); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a key of Azure Arc: %w", err))
		}
	}
	k.live = append(k.live[:i], k.live[i+1:]...)
	return errors.Join(errs...)
}

// close ends all keys and removes the directory of those in a wrong place.
func (k *arcKeys) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for len(k.live) > 0 {
		errs = append(errs, k.drop(0))
	}
	if k.dir != "" {
		_ = os.Remove(filepath.Join(k.dir, otherDir)) // mostly it is not there
	}
	return errors.Join(errs...)
}
