package sync

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kvfs/certs"
	"kvfs/image"
	"kvfs/tree"
)

// What is known of certificates is kept for the process after this one, so that it
// can go on without a vault: of each a record without bytes, since those are in the
// image with the tree that shows them. What is not there is beside it: the sources of
// versions that are shown in other forms alone, and what the cache holds.

// Keys of the image begin with what kind of record it is.
const (
	keyCertificate = "v" // and its key
	keySources     = "w" // and the key of a certificate
	keyCached      = "o" // and the key in the cache
	keyInitial     = "i" // alone
)

// keptCertificate is the record of a certificate. Behind the JSON, which is of one line, its
// versions follow, newest first, each with its length.
type keptCertificate struct {
	Versions    []json.RawMessage `json:"versions,omitempty"` // where an older kvfs had them
	Shown       certs.Version     `json:"shown,omitempty"`
	Latest      certs.Version     `json:"latest,omitempty"`
	Disabled    bool              `json:"disabled,omitempty"`
	Warnings    []string          `json:"warnings,omitempty"`
	LastAttempt time.Time         `json:"lastAttempt"`
	LastSuccess time.Time         `json:"lastSuccess"`
	Fetched     time.Time         `json:"fetched"`
	Mark        mark              `json:"mark"`
	ReadAt      time.Time         `json:"readAt"`
}

// last is what the record of a certificate was made of: while that is the same, so is
// the record, but for its times.
type last struct {
	versions []*tree.Version
	shown    certs.Version
	disabled bool
}

func (l last) same(other last) bool {
	return l.shown == other.shown && l.disabled == other.disabled && slices.Equal(l.versions, other.versions)
}

// keeping are the records that have to change when these certificates are shown as they
// are at a moment. kept takes down that they have. The caller of both holds mu.
func (s *Syncer) keeping(certs []*certificate, now time.Time) (changes []image.Change, kept func(), err error) {
	if s.opts.Image == nil {
		return nil, func() {}, nil
	}
	// With the certificates: who knows of one that is new knows that it is waited for.
	if record := s.initialRecord(); record != s.initial.kept {
		change, err := record.change()
		if err != nil {
			return nil, nil, err
		}
		changes = append(changes, change)
	}
	come, gone, stay := map[string]last{}, []string(nil), 0
	for _, c := range certs {
		key := c.key
		is := last{versions: c.versions, disabled: c.disabled}
		if v := c.current(now); v != nil {
			is.shown = v.ID
		}
		was, ok := s.kept[key]
		if ok {
			stay++
		}
		if ok && was.same(is) || c.lost() { // whoever comes next may be able to read it
			continue
		}
		come[key] = is
		record, err := c.encode(is.shown)
		if err != nil {
			return nil, nil, err
		}
		changes = append(changes, image.Change{Key: keyCertificate + key, Value: record}, image.Change{Key: keySources + key, Value: c.sources()})
	}
	if stay < len(s.kept) {
		for key := range s.kept {
			if s.byKey[key] == nil {
				gone = append(gone, key)
				changes = append(changes, image.Change{Key: keyCertificate + key}, image.Change{Key: keySources + key})
			}
		}
	}
	return changes, func() {
		for _, key := range gone {
			delete(s.kept, key)
		}
		maps.Copy(s.kept, come)
	}, nil
}

func (c *certificate) encode(shown certs.Version) ([]byte, error) {
	k := keptCertificate{Shown: shown, Latest: c.latest, Disabled: c.disabled, Warnings: c.warnings,
		LastAttempt: c.lastAttempt, LastSuccess: c.lastSuccess, Fetched: c.fetched, Mark: c.mark, ReadAt: c.readAt}
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("keeping %s: %w", c.source.Ref, err)
	}
	b = append(b, '\n')
	for _, v := range c.versions {
		b = appendSized(b, v.Encode())
	}
	return b, nil
}

func appendSized(b, more []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(more))), more...)
}

// cutSized is the first of what appendSized has put there, and the rest.
func cutSized(b []byte) (first, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errors.New("its record is cut off")
	}
	return b[n : n+int(size)], b[n+int(size):], nil
}

// sources are the texts of versions in memory that no file of the tree shows, one
// after the other with their lengths; nil if there is none.
func (c *certificate) sources() (all []byte) {
	if slices.ContainsFunc(c.policy.Views, tree.Views.ShowsSource) {
		return nil
	}
	for _, v := range c.versions {
		if text := v.Source(); text != nil {
			all = appendSized(all, text.Bytes())
		}
	}
	return all
}

// recall is what a predecessor knew of a certificate, nil if that was nothing.
func (s *Syncer) recall(src Source) *certificate {
	if s.opts.Image == nil {
		return nil
	}
	b, ok := s.opts.Image.Get(keyCertificate + src.Key())
	if !ok {
		return nil
	}
	c, err := s.decode(src, b)
	if err != nil {
		s.log.Warn("what was known of a certificate before is not known any more; its names stay until it has been read", "url", src.Ref.String(), "err", err)
		c = s.newCertificate(src)
		c.unread = true
	}
	return c
}

// lost tells whether nothing is known of a certificate that a predecessor has shown, as
// when that was a newer kvfs. What readers see of it stays until something is known.
func (c *certificate) lost() bool {
	return c.unread && len(c.versions) == 0 && !(c.disabled && c.policy.HideDisabled)
}

// lostEntries are those of a spec whose certificates are lost. The caller holds mu.
func (s *Syncer) lostEntries() (entries []tree.Entry) {
	if !slices.ContainsFunc(s.certs, (*certificate).lost) {
		return nil
	}
	for _, e := range s.spec.Entries {
		if c := s.byKey[e.Certificate]; c != nil && c.lost() {
			entries = append(entries, e)
		}
	}
	return entries
}

func (s *Syncer) decode(src Source, b []byte) (*certificate, error) {
	var k keptCertificate
	b, versions, _ := bytes.Cut(b, []byte("\n"))
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	for len(versions) > 0 {
		v, rest, err := cutSized(versions)
		if err != nil {
			return nil, err
		}
		k.Versions, versions = append(k.Versions, v), rest
	}
	sources := map[[32]byte]*tree.Blob{}
	all, _ := s.opts.Image.Get(keySources + src.Key())
	for len(all) > 0 {
		b, rest, err := cutSized(all)
		if err != nil {
			return nil, err
		}
		text := tree.NewBlob(b)
		sources[text.Sum], all = text, rest
	}
	blob := func(sum [32]byte) *tree.Blob {
		if text := sources[sum]; text != nil {
			return text
		}
		return s.opts.Blob(sum)
	}
	c := s.newCertificate(src)
	c.shown, c.latest, c.disabled, c.warnings = k.Shown, k.Latest, k.Disabled, k.Warnings
	c.lastAttempt, c.lastSuccess, c.fetched = k.LastAttempt, k.LastSuccess, k.Fetched
	if c.mark = k.Mark; !k.ReadAt.IsZero() { // and again since, but when is not kept
		c.readAt = time.Now().Add(-scale(recheck, c.jitter/2))
	}
	for _, b := range k.Versions {
		if bytes.HasPrefix(b, []byte(`"`)) { // the first kvfs had them as base64
			var was []byte
			if err := json.Unmarshal(b, &was); err != nil {
				return nil, err
			}
			b = was
		}
		v, err := tree.DecodeVersion(b, blob)
		if err != nil {
			return nil, err
		}
		c.versions = append(c.versions, v)
	}
	if len(c.versions) == 0 {
		c.failures = s.initial.kept.Tries
	}
	// When it was to be polled is not known. Not all at once.
	c.next = time.Now().Add(scale(recallSpread, c.laneJitter))
	return c, nil
}

// recallSpread is the time in which everything is polled once by a process that has
// taken over.
const recallSpread = 10 * time.Second

// cached keeps what the cache holds. It is called by the cache.
func (s *Syncer) cached(key string, v *tree.Version, held bool) {
	if held && s.recalling {
		return // it comes from there
	}
	change := image.Change{Key: keyCached + key}
	if held {
		change.Value = v.EncodeWhole()
	}
	if err := s.opts.Image.Enter(change); err != nil {
		s.log.Warn("an older version is not kept", "err", err)
	}
}

// recallAll fills the cache with what a predecessor's held, and sees what else there
// is of it.
func (s *Syncer) recallAll() {
	if s.opts.Image == nil {
		return
	}
	s.kept = map[string]last{} // all of it is to be entered anew, or taken out
	for key := range s.opts.Image.All(keyCertificate) {
		s.kept[strings.TrimPrefix(key, keyCertificate)] = last{}
	}
	s.recalling = true
	defer func() { s.recalling = false }()
	for key, b := range s.opts.Image.All(keyCached) {
		v, err := tree.DecodeWhole(b)
		if err == nil {
			held := strings.TrimPrefix(key, keyCached)
			s.cache.Put(held, v)
			if _, ok := s.cache.Peek(held); ok {
				continue
			}
			err = errors.New("there is no room for it any more")
		}
		s.log.Warn("an older version is not held any more", "err", err)
		if err := s.opts.Image.Put(image.Change{Key: key}); err != nil {
			s.log.Warn("its record stays", "err", err)
		}
	}
}
