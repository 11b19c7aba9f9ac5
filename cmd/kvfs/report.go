package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kvfs/config"
	"kvfs/fs"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/vault"
)

// Report is the answer to `kvfs status`.
func (d *daemon) Report() status.Report {
	defer d.spent.signal()
	r, synced, now := d.figures()
	d.mu.Lock()
	unknown := d.unknown // replaced as a whole
	d.mu.Unlock()
	entries := entriesBySource(now)
	for i, c := range synced.Certificates {
		s, key := &r.Certificates[i], c.Source.Key()
		s.Links = links(entries[key], c.State != kvsync.Partial)
		s.Warnings = append(slices.Clone(c.Warnings), unknown[key]...)
		if c.State != kvsync.Removed {
			s.Warnings = append(s.Warnings, rules(now).Warnings(time.Now(), d.watchedOne(c))...)
		}
	}
	r.Leaving = leaving(now)
	return r
}

// Figures are the report without names and warnings, for scrapes: making paths and keys of
// ten thousand certificates takes longer than everything else.
func (d *daemon) Figures() status.Report {
	r, _, _ := d.figures()
	return r
}

// figures are what Report and Figures have in common, and what that was made of.
func (d *daemon) figures() (status.Report, kvsync.Report, wanted) {
	synced, served, now := d.syncer.Report(), d.fs.Stats(), d.wanted()
	old, image := synced.Cache, d.image.Stats()
	r := status.Report{
		State: overall(synced), Version: version(), Started: d.began.UTC().Truncate(time.Second), Settings: absolute(d.origin.file), Unit: d.app.server.unit,
		Processes: status.Processes{Keeper: d.client.Keeper(), Server: os.Getpid(), Publisher: served.Publisher},
		Mounts:    nonNil(d.fs.Mounts()), Requests: served.Requests, Panics: served.Panics, Held: status.Held{Versions: synced.Versions, Bytes: synced.Bytes},
		Cache:        status.Cache{Versions: old.Values, Bytes: old.Bytes, Limit: old.Limit, Hits: old.Hits, Misses: old.Misses, Evictions: old.Evictions, Failures: old.Failures},
		Image:        status.Image{Records: image.Records, Bytes: image.Bytes, Size: image.Size, Secret: image.Secret},
		Certificates: []status.Certificate{}, Vaults: []status.Vault{}, InitialSync: initialStatus(synced.Initial),
		Polls:    status.Polls(synced.Counts),
		Restarts: d.generation.Restarts,
		Stalls:   status.Stalls{Request: served.Longest.Seconds(), Takeover: served.Resumed.Seconds()},
		Metrics:  d.metrics.report(),
	}
	if l := synced.Loading; l != nil {
		r.Loading = &status.Loading{Done: l.Done, Total: l.Total, Failed: l.Failed, Since: l.Since.UTC().Truncate(time.Second)}
	}
	if err := d.trouble(r.Mounts, synced.Publish); err != nil {
		r.State, r.Error = status.Degraded, err
	}
	r.Logs = logsStatus(d.app.log().Stats())
	r.Directories = d.disks.report()
	for _, dir := range r.Directories {
		if dir.Error != nil {
			r.State = status.Degraded
		}
	}
	r.Hooks = d.hookStatus()
	if slices.ContainsFunc(r.Hooks, func(h status.Hook) bool { return h.Error != nil }) && r.State == status.Ready {
		r.State = status.Degraded
	}
	if r.Audit = d.audit.report(); r.Audit != nil && r.Audit.Error != nil {
		r.State = status.Degraded
	}
	if r.Metrics != nil && r.Metrics.Error != nil {
		r.State = status.Degraded
	}
	if !d.shown.Load() {
		r.State = status.Starting
	}
	for _, c := range synced.Certificates {
		r.Certificates = append(r.Certificates, certificateStatus(now, c))
	}
	r.Vaults = vaults(synced.Vaults, now.vault.Stats())
	return r, synced, now
}

// vaults are those of the settings, each once: of several identities at one that it does not
// answer is told.
func vaults(answering []kvsync.VaultStatus, asked []vault.HostStats) []status.Vault {
	all := []status.Vault{}
	for _, v := range answering {
		s := status.Vault{Host: v.Host, Listing: string(v.Listing), Pages: v.Pages, DownSince: status.Time(v.Down), NextTry: status.Time(v.NextTry), Error: statusError(v.Err)}
		switch last := len(all) - 1; {
		case last < 0 || all[last].Host != v.Host:
			all = append(all, s)
		case all[last].DownSince == nil && s.DownSince != nil:
			all[last] = s
		}
	}
	for i, v := range all {
		for _, h := range asked {
			if h.Host == strings.TrimSuffix(v.Host, ":443") {
				all[i].Transactions, all[i].Throttled, all[i].Failed = uint64(h.Transactions), uint64(h.Throttled), uint64(h.Failed)
			}
		}
	}
	return all
}

func initialStatus(i kvsync.Initial) status.InitialSync {
	return status.InitialSync{Required: i.Required, State: string(i.State), Available: i.Available, Total: i.Total, Try: i.Try, Of: i.Of, Next: status.Time(i.Next)}
}

// entriesBySource are the entries that show each source, by its key: making keys takes
// too long to compare each source with each entry.
func entriesBySource(now wanted) map[string][]config.Certificate {
	all := map[string][]config.Certificate{}
	for _, c := range now.certificates() {
		key := source(c).Key()
		all[key] = append(all[key], c)
	}
	return all
}

// certificateStatus is all but its links and warnings.
func certificateStatus(now wanted, c kvsync.Status) status.Certificate {
	s := status.Certificate{
		URL: c.Source.Ref.String(), State: string(c.State), Version: string(c.Version), Failures: c.Failures,
		NotBefore: status.Time(c.NotBefore), NotAfter: status.Time(c.NotAfter), LastAttempt: status.Time(c.LastAttempt), LastSuccess: status.Time(c.LastSuccess),
		NextPoll: status.Time(c.NextTry), Identity: c.Source.Identity.String(), LeftOut: c.LeftOut, Error: statusError(c.Err),
	}
	if c.State == kvsync.Removed {
		s.RemovedAt, s.NextPoll = status.Time(now.removedAt(c.Source)), nil
	}
	return s
}

// leaving are the links that go when their grace is over: of entries that the
// settings have no more, or have under another name or in another store.
func leaving(now wanted) (all []status.Leaving) {
	stay := map[string]bool{}
	for _, c := range now.cfg.Certificates {
		for _, path := range linkPaths(c, true) {
			stay[path] = true
		}
	}
	for _, r := range now.removed {
		paths := slices.DeleteFunc(linkPaths(r.Certificate, true), func(path string) bool { return stay[path] })
		if len(paths) > 0 {
			all = append(all, status.Leaving{URL: r.Ref.String(), Links: paths, At: r.until.UTC().Truncate(time.Second)})
		}
	}
	return all
}

// links are the paths under which a certificate of these entries is shown.
func links(entries []config.Certificate, hasKey bool) []string {
	paths := []string{}
	for _, c := range entries {
		for _, path := range linkPaths(c, hasKey) {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// trouble is what is wrong with the whole rather than with a certificate.
func (d *daemon) trouble(mounts []string, publish error) *status.Error {
	for _, at := range mounts {
		if !fs.Visible(at) {
			return &status.Error{Kind: "unmounted", Fact: fmt.Sprintf("nobody can see %s: somebody else has unmounted it, or mounted over it", at), Hint: "restart kvfs"}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if publish != nil && d.unsettled == nil {
		return &status.Error{Kind: "publish", Fact: publish.Error(), Hint: "it is tried again by itself; see the log"}
	}
	return cmp.Or(d.unsettled, d.refused)
}

// absolute is a path that means the same to whoever reads it.
func absolute(path string) string {
	if path == "" || path == "-" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func overall(r kvsync.Report) status.State {
	if r.Initial.State == kvsync.Transitioning {
		return status.Starting
	}
	state := status.Ready
	for _, c := range r.Certificates {
		switch c.State {
		case kvsync.Pending:
			return status.Starting
		case kvsync.Stale, kvsync.Missing, kvsync.Partial, kvsync.Hidden:
			state = status.Degraded
		}
	}
	return state
}

func statusError(err error) *status.Error {
	if err == nil {
		return nil
	}
	f := kvsync.Explain(err)
	return &status.Error{Kind: f.Kind, Fact: f.Fact, Hint: f.Hint}
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
