package emulator

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxPage is the greatest page the service gives, and its default.
const maxPage = 25

// page is one page of a listing. A null link ends it, and nothing else does.
type page struct {
	Value []any   `json:"value"`
	Next  *string `json:"nextLink"`
}

// entry is an item with the key it is sorted by.
type entry struct {
	key  string
	item any
}

// marker says where a listing goes on. Its JSON looks like the service's own,
// which is no business of a client's.
type marker struct {
	Next  string `json:"NextMarker"`     // a step, "!", and the key after which to go on
	Place int    `json:"TargetLocation"` // always 0
}

// What comes after a full page: an empty one first, as the service does it
// where it skips over something; more items; or an empty last page.
const (
	stepGap  = "gap"
	stepMore = "more"
	stepEnd  = "end"
)

func (e *Emulator) listVersions(c call, name string) answer {
	e.store.mu.RLock()
	defer e.store.mu.RUnlock()
	var entries []entry
	// Versions of a secret that does not exist are an empty list, not a 404.
	if found, err := e.store.find(c.vault, name); err == nil && found.deleted.IsZero() {
		for _, v := range found.versions {
			entries = append(entries, entry{v.id, v.listed(c.url("secrets", found.name, v.id))})
		}
	}
	return e.paged(c, entries)
}

func (e *Emulator) listSecrets(c call) answer {
	return e.listNames(c, false, func(s *secret) any { return s.version("").listed(c.url("secrets", s.name)) })
}

func (e *Emulator) listDeleted(c call) answer {
	return e.listNames(c, true, func(s *secret) any { return c.deletedItem(s) })
}

func (e *Emulator) listNames(c call, deleted bool, item func(*secret) any) answer {
	e.store.mu.RLock()
	defer e.store.mu.RUnlock()
	var entries []entry
	for key, s := range e.store.vaults[c.vault] {
		if s.deleted.IsZero() != deleted {
			entries = append(entries, entry{key, item(s)})
		}
	}
	return e.paged(c, entries)
}

// paged cuts the page a request asks for out of all entries, in the order of
// their ids. A listing that changes between two pages neither repeats nor
// skips what was there all the time.
func (e *Emulator) paged(c call, entries []entry) answer {
	size, bad := e.pageSize(c.r)
	if bad != nil {
		return *bad
	}
	step, after, ok := readMarker(c.r.URL.Query().Get("$skiptoken"))
	if !ok {
		return *badParameter("The $skiptoken query parameter is invalid")
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	i, _ := slices.BinarySearchFunc(entries, after, func(en entry, key string) int { return cmp.Compare(en.key, key) })
	if i < len(entries) && entries[i].key == after && step != "" {
		i++
	}
	p, next := e.cut(entries[i:], step, after, size)
	if next != "" {
		link := c.nextLink(next, size)
		p.Next = &link
	}
	return answer{status: http.StatusOK, body: p}
}

// cut returns a page and, unless it is the last, the marker of the one after it.
func (e *Emulator) cut(rest []entry, step, after string, size int) (page, string) {
	p := page{Value: []any{}}
	switch step {
	case stepGap:
		return p, writeMarker(stepMore, after)
	case stepEnd:
		return p, ""
	}
	n := min(size, len(rest))
	for _, en := range rest[:n] {
		p.Value = append(p.Value, en.item)
	}
	switch first := step == ""; {
	case n == len(rest) && (first || e.opts.DensePages):
		return p, ""
	case n == len(rest):
		return p, writeMarker(stepEnd, "")
	case first && !e.opts.DensePages:
		return p, writeMarker(stepGap, rest[n-1].key)
	}
	return p, writeMarker(stepMore, rest[n-1].key)
}

func (e *Emulator) pageSize(r *http.Request) (int, *answer) {
	text := r.URL.Query().Get("maxresults")
	if text == "" {
		return e.opts.PageSize, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPage {
		return 0, badParameter("The maxresults query parameter is invalid: want 1 to " + strconv.Itoa(maxPage))
	}
	return min(n, e.opts.PageSize), nil
}

// nextLink names the port even if it is the default one, and leaves the "$" of
// the marker as it is.
func (c call) nextLink(marker string, size int) string {
	return "https://" + c.link + c.r.URL.EscapedPath() + "?api-version=" + c.r.URL.Query().Get("api-version") +
		"&$skiptoken=" + marker + "&maxresults=" + strconv.Itoa(size)
}

func writeMarker(step, after string) string {
	text, err := json.Marshal(marker{Next: step + "!" + after})
	if err != nil {
		panic(err) // a struct of a string and a number
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func readMarker(text string) (step, after string, ok bool) {
	if text == "" {
		return "", "", true
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", "", false
	}
	var m marker
	if json.Unmarshal(raw, &m) != nil {
		return "", "", false
	}
	step, after, ok = strings.Cut(m.Next, "!")
	return step, after, ok && slices.Contains([]string{stepGap, stepMore, stepEnd}, step)
}
